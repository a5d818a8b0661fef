# SPDX-License-Identifier: MIT
"""The C extensions; everything else is in pyproject.toml.

USRDRV_ONLY=devices (or backends, dp83820, ide_cmd680, loop) builds just that one.
"""

import os

from setuptools import Extension, setup

BUILDERS = {
    "backends": "usrdrv/backends/_build.py:ffibuilder",
    "devices": "devices/_build.py:ffibuilder",
    "dp83820": "drivers/dp83820/_build.py:ffibuilder",
    "ide_cmd680": "drivers/ide_cmd680/_build.py:ffibuilder",
    "loop": "usrdrv/loop/_build.py:ffibuilder",
}
only = os.environ.get("USRDRV_ONLY")

REQUEST = Extension(
    "usrdrv._request",
    ["usrdrv/_request.c"],
    include_dirs=["usrdrv/include"],
    depends=["usrdrv/include/usrdrv/block.h"],
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"],
    py_limited_api=True,
)

setup(
    cffi_modules=[BUILDERS[only]] if only else list(BUILDERS.values()),
    ext_modules=[] if only else [REQUEST],
)
