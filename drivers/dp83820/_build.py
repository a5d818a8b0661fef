# SPDX-License-Identifier: MIT
"""Builds usrdrv.drivers.dp83820._dp83820: the driver's data path, and the register names for Python."""

from usrdrv.base._cffi import INCLUDE, PACKAGE, extension

ffibuilder = extension(
    "usrdrv.drivers.dp83820._dp83820",
    ["drivers/dp83820/*.c", "net/*.c", "loop/loop.c"],
    [
        *(INCLUDE / "usrdrv" / name for name in ("dev.h", "net.h", "dp83820_regs.h")),
        *(PACKAGE / "net/ports.h", PACKAGE / "drivers/dp83820/dp.h"),
    ],
    include=["net", "drivers/dp83820"],
    before="struct iovec { ...; }; struct usrloop_attach;",
)
