# SPDX-License-Identifier: MIT
"""A disk in memory with a driver like any other."""

from typing import Final

from usrdrv.chips import Chip

CHIPS: Final[tuple[Chip, ...]] = ()
"""None: its disks are named `null:`, and are on no bus."""
