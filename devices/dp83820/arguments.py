# SPDX-License-Identifier: MIT
"""What `usrdrv model dp83820` takes: options of the model only."""

from typing import Final

from usrdrv.devices.base.command_line import Arguments

ARGUMENTS: Final = Arguments(examples="a dp83820's mac=, cable=")
