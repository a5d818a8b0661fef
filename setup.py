# SPDX-License-Identifier: MIT
"""The C extensions; everything else is in pyproject.toml.

USRDRV_ONLY=devices (or backends, ide_cmd680) builds just that one.
"""

import os

from setuptools import setup

BUILDERS = {
    "backends": "usrdrv/backends/_build.py:ffibuilder",
    "devices": "devices/_build.py:ffibuilder",
    "ide_cmd680": "drivers/ide_cmd680/_build.py:ffibuilder",
}
only = os.environ.get("USRDRV_ONLY")

setup(cffi_modules=[BUILDERS[only]] if only else list(BUILDERS.values()))
