# SPDX-License-Identifier: MIT
"""What holds for every file: a licence, headers that stand alone, sources of one topic."""

import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.files import ROOT, tracked

HEADERS = sorted((ROOT / "usrdrv/include").rglob("*.h"))
LONGEST = 600
BARE = (".gitignore", "py.typed")


def test_licence_of_every_file() -> None:
    files = [f for f in tracked() if f.name not in BARE and f.parent.name != "LICENSES"]
    assert len(files) > 50
    bare = [
        str(path.relative_to(ROOT))
        for path in files
        if b"SPDX-License-Identifier: " not in path.read_bytes()[:300]
    ]
    assert not bare


def test_length_of_every_source() -> None:
    sources = [path for path in tracked() if path.suffix in (".c", ".h", ".py")]
    long = {
        str(path.relative_to(ROOT)): lines
        for path in sources
        if (lines := len(path.read_text().splitlines())) > LONGEST
    }
    assert not long


@pytest.mark.parametrize("header", HEADERS, ids=lambda path: path.name)
def test_header_compiles_alone(header: Path) -> None:
    """Twice, so that a missing include guard shows."""
    name = header.relative_to(ROOT / "usrdrv/include")
    done = subprocess.run(
        [
            *("gcc", "-std=gnu11", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-xc", "-"),
            f"-I{ROOT / 'usrdrv/include'}",
            f"-I{ROOT / 'loopback-kmod/include/uapi'}",
        ],
        input=f'#include "{name}"\n#include "{name}"\n',
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


UNNAMED = ("__init__.py", "__main__.py", "_build.py")


def test_readmes_name_every_source() -> None:
    """Each in that of its folder, or of the next one above that has one: by its name, a pattern or its folder."""
    files = tracked()
    readmes = {path.parent: path for path in files if path.name == "README.md"}
    named = {
        folder: re.findall(r"`([^`\s]+)`", path.read_text())
        for folder, path in readmes.items()
        if folder != ROOT
    }
    unnamed = []
    for path in files:
        folder = next((above for above in path.parents if above in named), None)
        if folder is None or path.suffix not in (".c", ".py") or path.name in UNNAMED:
            continue
        inside = path.relative_to(folder)
        if not any(
            fnmatch(str(inside), name)
            or fnmatch(inside.name, name)
            or (name.endswith("/") and str(inside).startswith(name))
            for name in named[folder]
        ):
            unnamed.append(str(path.relative_to(ROOT)))
    assert not unnamed


def test_decisions_and_code_name_each_other() -> None:
    """Each page is in the index; each file that its last line names is there, and some file names the page."""
    folder = ROOT / "docs/design"
    index = (folder / "README.md").read_text()
    pages = [path for path in folder.glob("*.md") if path.name != "README.md"]
    code = "".join(path.read_text() for path in tracked() if path.suffix in (".c", ".h", ".py"))
    assert len(pages) > 20
    for page in pages:
        last = page.read_text().rstrip().splitlines()[-1]
        named = re.findall(r"`([^`]+)`", last)
        assert last.startswith("Code: ") and named, page
        assert not [name for name in named if not list(ROOT.glob(name))], page
        assert f"({page.name})" in index
        assert f"docs/design/{page.name}" in code, page
