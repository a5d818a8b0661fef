# SPDX-License-Identifier: MIT
"""A disk is claimed from the kernel, or in use."""

import errno
from pathlib import Path

import pytest

from usrdrv import disks


def test_who_is_gone_in_a_moment_is_no_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[OSError | int] = [OSError(errno.EBUSY, "busy"), OSError(errno.EBUSY, "busy"), 7]

    def open_disk(disk: Path, flags: int) -> int:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(disks, "_open", open_disk)
    monkeypatch.setattr(disks, "MOMENT", 0)
    monkeypatch.setattr(disks, "BLOCK", tmp_path)  # not this machine's loop devices
    assert disks.claim(tmp_path / "disk9") == 7
    assert not answers


def test_who_stays_is_a_user_also_if_nothing_says_who(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(disk: Path, flags: int) -> int:
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(disks, "_open", busy)
    monkeypatch.setattr(disks, "MOMENT", 0)
    monkeypatch.setattr(disks, "BLOCK", tmp_path)  # not this machine's loop devices
    with pytest.raises(disks.InUseError, match=r"/dev/disk9 is in use \(a file system or program"):
        disks.claim(tmp_path / "disk9")
