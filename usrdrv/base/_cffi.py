# SPDX-License-Identifier: MIT
"""How a _build.py makes an extension of C: cffi reads our headers, so that each definition exists once."""

import re
from collections.abc import Sequence
from pathlib import Path

from cffi import FFI

PACKAGE = Path(__file__).parents[1]
INCLUDE = PACKAGE / "include"
UAPI = PACKAGE / "kmod/include/uapi"
KERNEL_TYPES = "".join(
    f"typedef {sign}int{bits}_t __{sign or 's'}{bits};"
    for sign in ("u", "")
    for bits in (8, 16, 32, 64)
)
"""What the kernel's headers call its integers."""
FLAGS = ["-O2", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]

_SECTION = re.compile(r"/\* cffi: begin \*/\n(.*?)/\* cffi: end \*/", re.DOTALL)
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_EXPRESSION = re.compile(
    r"^#define[ \t]+(\w+)[ \t]+(?=\S)(?!(?:0x[0-9a-fA-F]+|\d+)[ \t]*$).+$", re.MULTILINE
)


def cdef(header: Path) -> str:
    """Return the declarations between the `cffi:` markers of `header`, in the form that ffi.cdef takes.

    A constant that is more than a literal is left to the compiler (`#define X ...`).
    """
    sections = _SECTION.findall(header.read_text())
    if not sections:
        raise ValueError(f"{header}: no cffi section")
    return _EXPRESSION.sub(r"#define \1 ...", _COMMENT.sub("", "\n".join(sections)))


def _here(path: Path) -> str:
    """Return `path` as setuptools wants it, from the folder of setup.py."""
    return str(path.relative_to(PACKAGE.parent))


def extension(
    module: str,
    sources: Sequence[str],
    headers: Sequence[Path],
    *,
    include: Sequence[str] = (),
    before: str = "",
    after: str = "",
) -> FFI:
    """Describe an extension module.

    sources: patterns of C files in the package. headers: those that Python uses, in order. include: folders of the
    package for #include, besides the shared ones. before, after: declarations that no header has for cffi.
    """
    files = [path for pattern in sources for path in sorted(PACKAGE.glob(pattern))]
    folders = [INCLUDE, UAPI, *(PACKAGE / folder for folder in include)]
    ffi = FFI()
    ffi.cdef(before)
    for header in headers:
        ffi.cdef(cdef(header))
    ffi.cdef(after)
    ffi.set_source(
        module,
        "".join(f'#include "{header}"\n' for header in headers),
        sources=[_here(path) for path in files],
        include_dirs=[_here(folder) for folder in folders],
        depends=[_here(header) for folder in folders for header in sorted(folder.rglob("*.h"))],
        libraries=["pthread"],
        extra_compile_args=FLAGS,
    )
    return ffi
