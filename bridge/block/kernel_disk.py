# SPDX-License-Identifier: MIT
"""A disk that the kernel has from us: who uses it, what is cached of it, and our claim before it goes.

See docs/design/ownership.md.
"""

from __future__ import annotations

import os
from pathlib import Path

from usrdrv import disks, mounts
from usrdrv.bridge.block import probing


class KernelDisk:
    """The kernel's block device of that name, such as `nbd0`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.where = f"/dev/{name}"
        self.folder: Path = disks.BLOCK / name
        self._claim = -1

    @property
    def statistics(self) -> Path:
        """The kernel's account of its requests."""
        return self.folder / "stat"

    def users(self) -> list[str]:
        """Where it is mounted or used otherwise, as far as that can be seen from here: for messages."""
        return mounts.users(self.folder)

    def claim(self) -> int:
        """Return a descriptor; while it is open nobody begins to use the disk. disks.InUseError: somebody does."""
        return disks.claim(self.folder)

    def keep(self, claim: int) -> None:
        """Hold that claim until release()."""
        self._claim = claim

    def write_out(self) -> None:
        """Have the file systems on it write what they still keep; sync() does the rest."""
        disks.write_out(self.folder)

    def sync(self) -> None:
        """Push what the kernel caches of it to the drive; OSError if that fails."""
        disks.sync(self.folder)
        if self._claim >= 0:
            probing.keep_out(self._claim)

    def release(self) -> None:
        """Give up the claim: the disk is detached. Idempotent."""
        if self._claim >= 0:
            os.close(self._claim)
            self._claim = -1
