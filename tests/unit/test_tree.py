# SPDX-License-Identifier: MIT
"""What holds for every file: a licence, headers that stand alone, sources of one topic."""

import subprocess
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
