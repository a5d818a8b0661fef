# SPDX-License-Identifier: MIT
"""Builds usrdrv.backends._access: the access layer's backends in C."""

from usrdrv.base._cffi import INCLUDE, PACKAGE, extension

ffibuilder = extension(
    "usrdrv.backends._access",
    ["backends/*.c"],
    [
        INCLUDE / "usrdrv/dev.h",
        INCLUDE / "usrdrv/model.h",
        PACKAGE / "backends/backends.h",
        PACKAGE / "backends/qemu.h",
    ],
    include=["backends"],
)
