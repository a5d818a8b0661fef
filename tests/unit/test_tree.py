# SPDX-License-Identifier: MIT
"""What holds for every file: a licence, headers that stand alone, sources of one topic; tests without a clock."""

import ast
import re
import subprocess
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEADERS = sorted((ROOT / "usrdrv/include").rglob("*.h"))
LONGEST = 600
BARE = (".gitignore", "py.typed")


def tracked() -> list[Path]:
    """Return the files of the project."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git work tree")
    listing = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


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


def test_name_of_every_test_file() -> None:
    """pytest imports test files and their helpers by name alone, and refuses the second of one name."""
    names = Counter(
        path.name
        for path in tracked()
        if path.suffix == ".py"
        and path.is_relative_to(ROOT / "tests")
        and path.name != "conftest.py"
    )
    assert [name for name, count in names.items() if count > 1] == []


CLOCKS = ("monotonic", "perf_counter", "time")
CLOCKLESS = "tests/waiting.py"
"""Where tests wait."""


def calls(node: ast.AST, *names: str) -> bool:
    return isinstance(node, ast.Call) and getattr(node.func, "attr", "") in names


def limits_a_time(node: ast.AST) -> bool:
    """Whether it compares what a clock has measured with an upper limit."""
    if not isinstance(node, ast.Compare):
        return False
    terms = [node.left, *node.comparators]
    took = [isinstance(term, ast.BinOp) and calls(term.left, *CLOCKS) for term in terms]
    return any(
        (took[at] and isinstance(op, ast.Lt | ast.LtE))
        or (took[at + 1] and isinstance(op, ast.Gt | ast.GtE))
        for at, op in enumerate(node.ops)
    )


def clocks(source: str) -> list[tuple[int, str]]:
    """Lines of a test that a busy machine may decide, and why."""
    lines = ["", *source.splitlines()]
    found = []
    for node in ast.walk(ast.parse(source)):
        if limits_a_time(node):
            found.append((node.lineno, "an upper limit for a time"))
        if calls(node, "sleep") and "#" not in lines[node.lineno]:
            found.append(
                (node.lineno, "a sleep, without a comment that says why it decides nothing")
            )
    return found


def test_no_test_is_decided_by_a_clock() -> None:
    """See docs/testing.md."""
    tests = [path for path in tracked() if path.suffix == ".py" and ROOT / "tests" in path.parents]
    assert len(tests) > 50
    found = [
        f"{path.relative_to(ROOT)}:{line}: {why}"
        for path in tests
        if path != ROOT / CLOCKLESS
        for line, why in clocks(path.read_text())
    ]
    assert not found, "\n".join(found)


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
