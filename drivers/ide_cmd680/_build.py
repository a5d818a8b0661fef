# SPDX-License-Identifier: MIT
"""Builds usrdrv.drivers.ide_cmd680._cmd680: the driver's data path, and the register names for Python."""

from usrdrv.base._cffi import INCLUDE, PACKAGE, extension

ffibuilder = extension(
    "usrdrv.drivers.ide_cmd680._cmd680",
    ["drivers/ide_cmd680/*.c", "block/*.c"],
    [
        *(
            INCLUDE / "usrdrv" / name
            for name in ("dev.h", "block.h", "block_chip.h", "ata.h", "cmd680_regs.h")
        ),
        PACKAGE / "drivers/ide_cmd680/ide.h",
    ],
    include=["block", "drivers/ide_cmd680"],
    after="int usrdrv_block_submit(struct usrdrv_block *, int, uint64_t, uint64_t, void *, unsigned int);",
)
