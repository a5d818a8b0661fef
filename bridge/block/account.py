# SPDX-License-Identifier: MIT
"""The kernel's account of block devices' requests (Linux, Documentation/block/stat.rst)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Columns of /sys/block/*/stat: reads, writes, discards, flushes; in flight.
_COMPLETED: Final = (0, 4, 11, 15)
_IN_FLIGHT: Final = 8


@dataclass(frozen=True)
class Account:
    """Requests since the device was made, well or with an error, and requests that are not done."""

    completed: int
    in_flight: int


def read(paths: Sequence[Path]) -> Account | None:
    """Add up the `stat` files in sysfs of block devices. None: there is none, or the devices have just gone."""
    found = []
    for path in paths:
        with suppress(OSError):
            found.append([int(word) for word in path.read_text().split()])
    if not found:
        return None
    completed = sum(columns[i] for columns in found for i in _COMPLETED if i < len(columns))
    return Account(completed, sum(columns[_IN_FLIGHT] for columns in found))
