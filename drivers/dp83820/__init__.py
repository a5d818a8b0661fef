# SPDX-License-Identifier: MIT
"""The driver for the DP83820 gigabit NIC."""

from typing import Final

from usrdrv.chips import NETWORK, Chip

CHIPS: Final = (Chip(__name__, (0x100B, 0x0022), NETWORK, "Nic", model="dp83820"),)
