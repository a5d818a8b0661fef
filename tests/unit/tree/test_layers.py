# SPDX-License-Identifier: MIT
"""Arrows point down: what a folder imports or includes is in the same folder or in a lower layer."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import files
from tests.files import ROOT

LAYERS = """
bench  scripts
bridge/cli
bridge/block  bridge/net
bridge/worker
bridge
lab
drivers                                     devices
drivers/*                                   devices/*
usrdrv/net  usrdrv/block                    devices/wire
usrdrv/loop                                 devices/base
usrdrv
usrdrv/backends
usrdrv/base  usrdrv/include/usrdrv          loopback-kmod
loopback-kmod/include/uapi
"""
"""The folders, the highest first. Two in one layer do not know each other, so there is no circle of folders.
A folder that * finds is in the lowest layer that names it."""


def folders(pattern: str) -> list[str]:
    """The folders of ours that a word of LAYERS names: one, or each with files in it."""
    if "*" not in pattern:
        return [pattern]
    return sorted({str(file.parent.relative_to(ROOT)) for file in ROOT.glob(f"{pattern}/*.py")})


LAYER = {
    folder: -number
    for number, line in enumerate(LAYERS.splitlines())
    for pattern in line.split()
    for folder in folders(pattern)
}
APART = ("tests", "bench/peers", "docs")
"""Folders that look at any other, and programs that are run by name."""
INCLUDE = ("usrdrv/include", "loopback-kmod/include/uapi", "usrdrv/net", "usrdrv/block", "devices")
"""Where #include "..." finds a header, after the file's own folder."""
QUOTED = re.compile(r'^#include "(.+)"$', re.MULTILINE)


def tracked(*patterns: str) -> list[Path]:
    return [path for path in files.tracked(*patterns) if not path.is_symlink() and not apart(path)]


def apart(path: Path) -> bool:
    return any(path.is_relative_to(ROOT / folder) for folder in APART) or path.parent == ROOT


def folder_of(path: Path) -> str:
    return str(path.parent.relative_to(ROOT))


def module(name: str) -> Path | None:
    """Return the file of a module of ours; of an extension its .pyi."""
    place = ROOT / name.replace(".", "/")
    for path in (place.with_suffix(".py"), place / "__init__.py", place.with_suffix(".pyi")):
        if path.is_file():
            return path.resolve()
    return None


def imports(path: Path) -> Iterator[Path]:
    """The files of ours that a Python file imports, anywhere in it; extensions are what their C includes."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: an import from ."
            package = node.module or ""
            names = [f"{package}.{alias.name}" for alias in node.names]
            names = [name if module(name) else package for name in names]
        found = [file for name in names if (file := module(name))]
        yield from (file for file in found if file.suffix == ".py")


def includes(path: Path) -> Iterator[Path]:
    """The headers of ours that a C file includes."""
    for name in QUOTED.findall(path.read_text()):
        places = [path.parent, *(ROOT / folder for folder in INCLUDE)]
        found = next((place / name for place in places if (place / name).is_file()), None)
        assert found, f"{path}: no {name}"
        yield found.resolve()


def arrows() -> Iterator[tuple[Path, Path]]:
    for path in tracked("*.py"):
        yield from ((path, other) for other in imports(path))
    for path in tracked("*.c", "*.h"):
        yield from ((path, other) for other in includes(path))


def test_every_folder_is_in_a_layer() -> None:
    assert {folder_of(path) for path in tracked("*.py", "*.c", "*.h")} == set(LAYER)


def test_arrows_point_down() -> None:
    found = list(arrows())
    assert len(found) > 500
    wrong = {
        f"{path.relative_to(ROOT)} -> {other.relative_to(ROOT)}"
        for path, other in found
        if folder_of(path) != folder_of(other)
        and LAYER.get(folder_of(path), 0) <= LAYER.get(folder_of(other), 0)
    }
    assert not wrong, "\n".join(sorted(wrong))


ONE_WAY = ("devices/*", "drivers/*", "loopback-kmod", "usrdrv/*")
"""Folders whose C files call each other in one direction."""
DEFINED = re.compile(
    r"^(?!static\b|extern\b|typedef\b)[a-z_][\w *]*?\b(\w+)\([^;]*?\)\s*\{", re.MULTILINE
)
WORD = re.compile(r"\b\w+\b")
REMARK = re.compile(r"/\*.*?\*/", re.DOTALL)


def calls(folder: Path) -> dict[str, set[str]]:
    """Return for each C file of a folder those whose functions it names."""
    texts = {path.name: REMARK.sub("", path.read_text()) for path in folder.glob("[!_]*.c")}
    where = {name: file for file, text in texts.items() for name in DEFINED.findall(text)}
    return {
        file: {where[word] for word in WORD.findall(text) if where.get(word, file) != file}
        for file, text in texts.items()
    }


def reached(start: str, ways: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    ahead = [start]
    while ahead:
        more = ways[ahead.pop()] - found
        found |= more
        ahead += more
    return found


FOLDERS = [
    path
    for pattern in ONE_WAY
    for path in sorted(ROOT.glob(pattern))
    if not path.is_symlink() and any(calls(path))
]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_circle_of_c_files(folder: Path) -> None:
    ways = calls(folder)
    circles = {file for file in ways if file in reached(file, ways)}
    assert not circles, f"files that call each other in a circle: {sorted(circles)}"


def test_circles_are_looked_for_where_there_are_calls() -> None:
    folders = {str(path.relative_to(ROOT)) for path in FOLDERS}
    assert {"drivers/dp83820", "loopback-kmod", "usrdrv/block", "devices/cmd680"} <= folders
    assert sum(map(len, calls(ROOT / "usrdrv/block").values())) > 15


PLANS = ("devices/cmd680/cmd680_priv.h", "devices/dp83820/nic.h")
"""Headers that begin with the layers of their folder's files, the highest first."""
PLAN_LINE = re.compile(r"^ \*\t(\w+\.c(?: \w+\.c)*)", re.MULTILINE)


@pytest.mark.parametrize("plan", PLANS)
def test_files_call_those_in_lower_layers(plan: str) -> None:
    header = ROOT / plan
    lines = [line.split() for line in PLAN_LINE.findall(header.read_text())]
    layer = {file: -number for number, files in enumerate(lines) for file in files}
    ways = calls(header.parent)
    assert set(layer) == set(ways)
    wrong = [
        f"{file} -> {other}" for file in ways for other in ways[file] if layer[other] >= layer[file]
    ]
    assert not wrong, "\n".join(sorted(wrong))


PREFIXES = {
    "devices/base": ("faults_", "peer_signal_", "usrdrv_testhost_"),
    "devices/cmd680": ("cmd680_", "ata_"),
    "devices/dp83820": ("dp83820_", "nic_"),
    "devices/vfio_user": ("vu_",),
    "devices/wire": ("wire_", "ring_"),
}
"""Models are one extension, and a test links one with its driver: their functions share a name space."""


def test_a_function_of_a_model_says_whose_it_is() -> None:
    sources = tracked("devices/*.c")
    names = [
        (folder_of(path), name) for path in sources for name in DEFINED.findall(path.read_text())
    ]
    assert len(names) > 100
    bare = [f"{folder}: {name}" for folder, name in names if not name.startswith(PREFIXES[folder])]
    assert not bare, "\n".join(bare)
