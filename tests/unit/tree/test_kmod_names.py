# SPDX-License-Identifier: MIT
"""Names of functions in usrloop.ko. An oops, lockdep and ftrace print a static function's name alone."""

import re
from pathlib import Path

import pytest

from tests.files import ROOT

KMOD = ROOT / "loopback-kmod"
OTHER = {
    "blk_": "blk.c",
    "dev_": "device.c",
    "net_ethtool_": "ethtool.c",
    "usrloop_": "main.c",
    "zc_": "zerocopy.c",
    "zcb_": "zc_blk.c",
    "zcn_": "zc_net.c",
}
"""Prefixes that are not the name of the file, or the kernel's own: net/ethtool/ioctl.c has `ethtool_`."""
REMARK = re.compile(r"/\*.*?\*/", re.DOTALL)
DEFINED = re.compile(
    r"^(?P<static>static )?(?!static\b|typedef\b)[a-z_][\w *]*?\b(?P<name>\w+)\([^;{}=]*\)\s*\{",
    re.MULTILINE,
)
FILES = sorted(KMOD.glob("[!_]*.c"))


def functions(path: Path) -> list[tuple[str, bool]]:
    """Names, and whether they are static."""
    text = REMARK.sub("", path.read_text())
    return [(match["name"], bool(match["static"])) for match in DEFINED.finditer(text)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_name_says_whose_it_is(path: Path) -> None:
    prefix = {file: prefix for prefix, file in OTHER.items()}.get(path.name, f"{path.stem}_")
    found = functions(path)
    assert found
    wrong = [
        name
        for name, static in found
        # The kernel's macros want an attribute's function to be called by its name.
        if not name.startswith(prefix if static else "usrloop_")
        and not (static and path.name == "sysfs.c" and name.endswith("_show"))
    ]
    assert not wrong


def test_functions_are_found() -> None:
    assert sum(static for path in FILES for _, static in functions(path)) > 100
