# SPDX-License-Identifier: MIT
"""The kernel's account of a block device's requests (Linux, Documentation/block/stat.rst)."""

from __future__ import annotations

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


def read(path: Path | None) -> Account | None:
    """Read a `stat` in sysfs. None: there is none, or the device has just gone."""
    if path is None:
        return None
    try:
        columns = [int(word) for word in path.read_text().split()]
    except OSError:
        return None
    completed = sum(columns[index] for index in _COMPLETED if index < len(columns))
    return Account(completed, columns[_IN_FLIGHT])
