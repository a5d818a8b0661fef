# SPDX-License-Identifier: MIT
"""A /proc of our own in place of this machine's: what is mounted, in each mount namespace, and swap."""

from __future__ import annotations

from pathlib import Path

import pytest

from usrdrv import mounts


class Proc:
    """Nothing is mounted at first."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        folder.mkdir()
        self.swaps()
        monkeypatch.setattr(mounts, "PROC", folder)

    def process(self, pid: str, namespace: int, *mountinfo: str) -> Path:
        """Add one that sees these mounts; pid `self`: us."""
        process = self._folder / pid
        (process / "ns").mkdir(parents=True)
        (process / "ns/mnt").symlink_to(f"mnt:[{namespace}]")
        (process / "mountinfo").write_text("".join(f"{line}\n" for line in mountinfo))
        return process

    def swaps(self, *lines: str) -> None:
        head = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority"
        (self._folder / "swaps").write_text("".join(f"{line}\n" for line in (head, *lines)))
