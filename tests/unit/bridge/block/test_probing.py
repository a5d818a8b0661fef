# SPDX-License-Identifier: MIT
"""The end of a disk waits for udev's look at it, and keeps it from another one."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from usrdrv.bridge.block import probing

Disk = tuple[int, int]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Opened by us, and by udev."""
    path = tmp_path / "disk"
    path.touch()
    fds = os.open(path, os.O_RDWR), os.open(path, os.O_RDONLY)
    yield fds
    for fd in fds:
        os.close(fd)


def udev_may_look(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def test_a_look_that_has_begun_is_waited_for(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, udev = disk
    assert udev_may_look(udev)
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            fcntl.flock(udev, fcntl.LOCK_UN)

    monkeypatch.setattr("usrdrv.bridge.block.probing.time.sleep", sleep)
    assert probing.keep_out(ours)
    assert len(naps) == 3
    assert not udev_may_look(udev)


def test_a_lock_of_somebody_else_is_not_waited_for_for_ever(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, other = disk
    fcntl.flock(other, fcntl.LOCK_EX)
    monkeypatch.setattr(probing, "PATIENCE", 0.0)
    assert not probing.keep_out(ours)
