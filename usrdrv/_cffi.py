# SPDX-License-Identifier: MIT
"""How the cffi builders read our C headers, so that each definition exists once."""

import re
from pathlib import Path

INCLUDE = Path(__file__).parent / "include"
UAPI = Path(__file__).parents[1] / "loopback-kmod/include/uapi"
KERNEL_TYPES = "".join(
    f"typedef {sign}int{bits}_t __{sign or 's'}{bits};"
    for sign in ("u", "")
    for bits in (8, 16, 32, 64)
)
"""What the kernel's headers call its integers."""

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
