# SPDX-License-Identifier: MIT
"""Builds usrdrv.devices._models."""

from usrdrv.base._cffi import INCLUDE, PACKAGE, extension

DEVICES = PACKAGE / "devices"

ffibuilder = extension(
    "usrdrv.devices._models",
    ["devices/*.c", "devices/*/*.c"],
    [
        *(INCLUDE / "usrdrv" / name for name in ("model.h", "dev.h", "ata.h")),
        *(INCLUDE / "usrdrv" / name for name in ("cmd680_regs.h", "dp83820_regs.h")),
        *(DEVICES / "cmd680/cmd680.h", DEVICES / "dp83820/dp83820.h"),
        *(DEVICES / "base/testhost.h", DEVICES / "vfio_user/server.h"),
    ],
    include=["devices"],
)
