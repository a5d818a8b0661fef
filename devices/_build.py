# SPDX-License-Identifier: MIT
"""Builds usrdrv.devices._models."""

import sys
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "usrdrv"))
from _cffi import INCLUDE, cdef  # noqa: E402

ffibuilder = FFI()
ffibuilder.cdef(cdef(INCLUDE / "usrdrv/model.h"))
ffibuilder.cdef(cdef(INCLUDE / "usrdrv/dev.h"))
ffibuilder.set_source(
    "usrdrv.devices._models",
    '#include "usrdrv/dev.h"\n#include "usrdrv/model.h"\n',
    include_dirs=[str(INCLUDE)],
    extra_compile_args=["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"],
)
