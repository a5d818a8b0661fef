# SPDX-License-Identifier: MIT
"""Builds usrdrv.drivers.null._null: the front end with memory behind it."""

from usrdrv.base._cffi import INCLUDE, KERNEL_TYPES, PACKAGE, UAPI, extension

ffibuilder = extension(
    "usrdrv.drivers.null._null",
    ["drivers/null/*.c", "block/*.c", "loop/loop.c"],
    [
        UAPI / "usrloop.h",
        *(INCLUDE / "usrdrv" / name for name in ("dev.h", "block.h", "block_chip.h")),
        PACKAGE / "drivers/null/null.h",
    ],
    include=["block", "drivers/null"],
    before=KERNEL_TYPES,
    after="int usrdrv_block_submit(struct usrdrv_block *, int, uint64_t, uint64_t, void *, unsigned int);",
)
