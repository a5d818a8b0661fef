# SPDX-License-Identifier: MIT
"""Builds usrdrv.backends._access: the access layer's backends in C."""

import sys
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from _cffi import INCLUDE, cdef  # noqa: E402

SHARED = ["dev.h", "model.h"]
HEADERS = ["areas.h", "backends.h", "regions.h", "usr_pci.h", "vfio_user_client.h"]
SOURCES = [
    *("areas.c", "inproc.c", "regions.c", "usrdrv.c", "vfio.c"),
    *("vfio_user.c", "vfio_user_wire.c"),
]

ffibuilder = FFI()
for header in SHARED:
    ffibuilder.cdef(cdef(INCLUDE / "usrdrv" / header))
ffibuilder.cdef(cdef(HERE / "backends.h"))
ffibuilder.set_source(
    "usrdrv.backends._access",
    '#include "backends.h"\n',
    sources=[str(HERE.joinpath(source).relative_to(HERE.parents[1])) for source in SOURCES],
    include_dirs=[str(INCLUDE), str(HERE)],
    depends=[
        *(str(HERE / header) for header in HEADERS),
        *(str(path) for path in (INCLUDE / "usrdrv").glob("*.h")),
    ],
    extra_compile_args=[
        *("-O2", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"),
    ],
)
