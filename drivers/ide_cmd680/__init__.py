# SPDX-License-Identifier: MIT
"""The driver for the CMD PCI-0680 (SiI0680A) and its ATA disks."""

from typing import Final

from usrdrv.chips import DISKS, Chip

CHIPS: Final = (Chip(__name__, (0x1095, 0x0680), DISKS, "Controller", model="cmd680"),)
