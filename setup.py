# SPDX-License-Identifier: MIT
"""The parts in C, and links in a source distribution; everything else is in pyproject.toml.

USRDRV_ONLY=NAME, the folder of any _build.py (such as devices, backends or null), builds just that one.

See docs/design/links.md.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.sdist import sdist

# Builders import usrdrv.base._cffi. A build frontend runs this file without its folder on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent))

PACKAGE = Path("usrdrv")
BUILDERS = {
    path.parent.name: f"{path}:ffibuilder"
    for pattern in ("*/_build.py", "drivers/*/_build.py")
    for path in sorted(PACKAGE.glob(pattern))
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


class LinkedSdist(sdist):
    """Keeps the package's links to what is beside it, where setuptools would put copies."""

    def make_release_tree(self, base_dir: str, files: Iterable[str]) -> None:
        links = [path for path in PACKAGE.iterdir() if path.is_symlink()]
        own = [name for name in files if not {Path(name), *Path(name).parents} & set(links)]
        super().make_release_tree(base_dir, own)
        for link in links:
            (base_dir / link).symlink_to(link.readlink())


setup(
    cffi_modules=[BUILDERS[only]] if only else list(BUILDERS.values()),
    ext_modules=[] if only else [REQUEST],
    cmdclass={"sdist": LinkedSdist},
)
