# SPDX-License-Identifier: MIT
"""Builds usrdrv.drivers.ide_cmd680._cmd680: the driver's data path, and the register names for Python."""

import sys
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "usrdrv"))
from _cffi import INCLUDE, KERNEL_TYPES, UAPI, cdef  # noqa: E402

HEADERS = ["dev.h", "block.h", "ata.h", "cmd680_regs.h"]
SOURCES = [
    "registers.c",
    "queue.c",
    "command.c",
    "pio.c",
    "events.c",
    "finish.c",
    "dispatch.c",
    "block.c",
    "serve.c",
    "controller.c",
]
LOOP = HERE.parents[1] / "usrdrv/loop/loop.c"

ffibuilder = FFI()
ffibuilder.cdef(KERNEL_TYPES)
ffibuilder.cdef(cdef(UAPI / "usrloop.h"))
for header in HEADERS:
    ffibuilder.cdef(cdef(INCLUDE / "usrdrv" / header))
ffibuilder.cdef(cdef(HERE / "ide.h"))
ffibuilder.cdef(
    "int usrdrv_block_submit(struct usrdrv_block *, int, uint64_t, uint64_t, void *, unsigned int);"
)
ffibuilder.set_source(
    "usrdrv.drivers.ide_cmd680._cmd680",
    "".join(f'#include "usrdrv/{header}"\n' for header in HEADERS) + '#include "ide.h"\n',
    sources=[
        str(HERE.joinpath(source).relative_to(HERE.parents[1])) for source in (*SOURCES, LOOP)
    ],
    include_dirs=[str(INCLUDE), str(UAPI), str(HERE)],
    depends=[
        *(str(path) for path in (HERE / "ide.h", UAPI / "usrloop.h", INCLUDE / "usrdrv/loop.h")),
        *(str(INCLUDE / "usrdrv" / header) for header in HEADERS),
    ],
    extra_compile_args=[
        "-O2",
        "-g",
        "-std=gnu11",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unused-parameter",
    ],
)
