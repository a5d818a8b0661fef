# SPDX-License-Identifier: MIT
"""Builds usrdrv.devices._models."""

from usrdrv.base._cffi import INCLUDE, PACKAGE, extension

DEVICES = PACKAGE / "devices"
KINDS = sorted(file.parent.name for file in DEVICES.glob("*/model.py"))

ffibuilder = extension(
    "usrdrv.devices._models",
    ["devices/*.c", "devices/*/*.c"],
    [
        DEVICES / "base/faults.h",
        *(INCLUDE / "usrdrv" / name for name in ("dev.h", "model.h", "ata.h")),
        *(INCLUDE / "usrdrv" / f"{kind}_regs.h" for kind in KINDS),
        *(DEVICES / kind / f"{kind}.h" for kind in KINDS),
        *(DEVICES / "base/testhost.h", DEVICES / "vfio_user/server.h"),
    ],
    include=["devices"],
)
