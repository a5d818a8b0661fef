# SPDX-License-Identifier: MIT
"""Builds usrdrv.drivers.dp83820._dp83820: the driver's data path, and the register names for Python."""

import sys
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NET = ROOT / "usrdrv" / "net"
sys.path.insert(0, str(ROOT / "usrdrv"))
from _cffi import INCLUDE, UAPI, cdef  # noqa: E402

HEADERS = ["dev.h", "net.h", "dp83820_regs.h"]
SOURCES = [
    *(HERE / name for name in ("tx.c", "rx.c", "rx_pages.c", "dispatch.c", "control.c")),
    *(NET / name for name in ("checksum.c", "segment.c", "coalesce.c", "tap.c", "loop_port.c")),
    ROOT / "usrdrv/loop/loop.c",
]

ffibuilder = FFI()
ffibuilder.cdef("struct iovec { ...; }; struct usrloop_attach;")
for header in HEADERS:
    ffibuilder.cdef(cdef(INCLUDE / "usrdrv" / header))
ffibuilder.cdef(cdef(NET / "ports.h"))
ffibuilder.cdef(cdef(HERE / "dp.h"))
ffibuilder.set_source(
    "usrdrv.drivers.dp83820._dp83820",
    "".join(f'#include "usrdrv/{header}"\n' for header in HEADERS)
    + '#include "ports.h"\n#include "dp.h"\n',
    sources=[str(source.relative_to(ROOT)) for source in SOURCES],
    include_dirs=[str(INCLUDE), str(UAPI), str(NET), str(HERE)],
    depends=[
        *(str(path) for path in (HERE / "dp.h", NET / "offload.h", NET / "ports.h")),
        *(str(INCLUDE / "usrdrv" / header) for header in (*HEADERS, "loop.h")),
        str(UAPI / "usrloop.h"),
    ],
    libraries=["pthread"],
    extra_compile_args=[
        "-O2", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter",
    ],
)  # fmt: skip
