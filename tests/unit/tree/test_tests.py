# SPDX-License-Identifier: MIT
"""What holds for every test: no clock decides it, it is on the page about tests, and what a page names is there."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from tests.files import ROOT, tracked

TESTS = ROOT / "tests"


def python_files() -> list[Path]:
    found = [path for path in tracked() if path.suffix == ".py" and path.is_relative_to(TESTS)]
    assert len(found) > 50
    return found


def test_name_of_every_test_file() -> None:
    """Whoever says a file's name means one; what runs in guests is imported by name alone."""
    names = Counter(path.name for path in python_files() if path.name != "conftest.py")
    assert [name for name, count in names.items() if count > 1] == []


CLOCKS = ("monotonic", "perf_counter", "time")
CLOCKLESS = TESTS / "waiting.py"
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
        if not isinstance(node, ast.expr):
            continue
        if limits_a_time(node):
            found.append((node.lineno, "an upper limit for a time"))
        if calls(node, "sleep") and "#" not in lines[node.lineno]:
            found.append(
                (node.lineno, "a sleep, without a comment that says why it decides nothing")
            )
    return found


def test_no_test_is_decided_by_a_clock() -> None:
    """See docs/testing.md."""
    found = [
        f"{path.relative_to(TESTS)}:{line}: {why}"
        for path in python_files()
        if path != CLOCKLESS
        for line, why in clocks(path.read_text())
    ]
    assert not found, "\n".join(found)


def rows() -> Iterator[str]:
    """Patterns of test files in the tables of docs/testing.md: folders, names (`_b` after `test_x_a`: test_x_b)."""
    folder = ""
    for line in (ROOT / "docs/testing.md").read_text().splitlines():
        named = re.findall(r"`([^`]+)`", line.split("|")[1]) if line.startswith("| `") else []
        if named and named[0].startswith("tests/"):
            folder = named[0]
        elif named and folder and named[0].endswith("/"):
            yield from (f"{folder}/{name}*.py" for name in named if name.endswith("/"))
        elif named and folder and "test_" in named[0]:
            full = ""
            for name in named:
                full = full.rpartition("_")[0] + name if name.startswith("_") else name
                yield f"{folder}/{full}.py"


def test_every_test_file_is_on_the_page() -> None:
    """And each row is of some file."""
    files = [p.relative_to(ROOT) for p in python_files() if p.name.startswith("test_")]
    patterns = list(rows())
    assert len(patterns) > 40
    assert not [file for file in files if not any(file.match(row) for row in patterns)]
    assert not [row for row in patterns if not any(file.match(row) for file in files)]


def test_every_test_that_a_page_names_is_there() -> None:
    """As folder/file, or as folder/file::test."""
    missing, count = [], 0
    for page in (ROOT / "docs").rglob("*.md"):
        named = re.findall(
            r"\b((?:unit|host|lab)/[\w/*]*test_[\w*]+)(?:::([\w*]+))?", page.read_text()
        )
        for name, test in named:
            count += 1
            files = list(TESTS.glob(f"{name}.py"))
            tests = [
                found for file in files for found in re.findall(r"def (\w+)", file.read_text())
            ]
            if not files or (test and not any(fnmatch(found, test) for found in tests)):
                missing.append(f"{page.name}: {name}::{test}")
    assert count > 50
    assert not missing
