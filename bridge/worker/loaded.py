# SPDX-License-Identifier: MIT
"""Whether a process still is what its files say: a standby that is older than an edit must not take over."""

from __future__ import annotations

import os
import sys
from typing import Final

PACKAGE: Final = "usrdrv"
Stamp = tuple[int, int, int]


def _stamp(path: str) -> Stamp | None:
    """What changes with a file's contents: inode, size, time in ns. None: it is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


class Loaded:
    """The files of our modules that this process has loaded, Python and C, as they are now.

    since: when the process began to load them, ns since 1970: a file that is newer may have been loaded before.
    """

    def __init__(self, since: int) -> None:
        paths = {
            path
            for name, module in list(sys.modules.items())
            if name.partition(".")[0] == PACKAGE and (path := getattr(module, "__file__", None))
        }
        main = getattr(sys.modules["__main__"], "__file__", None)
        self._stamps = {path: _stamp(path) for path in paths | ({main} if main else set())}
        self._newer = any(stamp and stamp[2] > since for stamp in self._stamps.values())

    def changed(self) -> bool:
        """Whether a file is not the one that was loaded."""
        return self._newer or any(_stamp(path) != was for path, was in self._stamps.items())
