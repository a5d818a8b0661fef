# SPDX-License-Identifier: MIT
"""Builds usrdrv.drivers.null._null: the front end with memory behind it."""

from usrdrv.base._cffi import INCLUDE, PACKAGE, extension

ffibuilder = extension(
    "usrdrv.drivers.null._null",
    ["drivers/null/*.c", "block/*.c"],
    [
        *(INCLUDE / "usrdrv" / name for name in ("dev.h", "block.h", "block_chip.h")),
        PACKAGE / "drivers/null/null.h",
    ],
    include=["block", "drivers/null"],
    after="int usrdrv_block_submit(struct usrdrv_block *, int, uint64_t, uint64_t, void *, unsigned int);",
)
