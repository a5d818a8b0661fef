# SPDX-License-Identifier: MIT
"""Memory in which a driver's process counts, and which is read when that process is gone."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Sequence
from typing import Final

from usrdrv.base.closing import Closing

SIZE: Final = mmap.PAGESIZE
_ROOM: Final = SIZE // 8


class Counters(Closing):
    """64-bit counters from 0 on; `fd` is for the process that counts, which cannot change the size."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("usrdrv-counters", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, SIZE)
        fcntl.fcntl(
            self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        )
        self._map = mmap.mmap(self.fd, SIZE)

    def read(self, names: Sequence[str]) -> dict[str, int]:
        """The first ones, by these names."""
        names = names[:_ROOM]
        values = struct.unpack_from(f"={len(names)}Q", self._map)
        return dict(zip(names, values, strict=True))

    def sums(self, names: Sequence[str]) -> dict[str, int]:
        """Those of all records that the memory has, where a record has one of each name."""
        words = struct.unpack_from(f"={_ROOM}Q", self._map)
        return {name: sum(words[first :: len(names)]) for first, name in enumerate(names)}

    def close(self) -> None:
        """Give the memory back."""
        if self.fd >= 0:
            self._map.close()
            os.close(self.fd)
            self.fd = -1
