# SPDX-License-Identifier: MIT
"""The programs of tests/fuzz, built with sanitizers from the project's own sources, and what they have counted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.compiled import compiled
from tests.files import ROOT

MEMORY, THREADS = "address,undefined", "thread"
"""Sanitizers of gcc."""


def seconds(usual: int) -> int:
    """How long a program runs: so long, or what USRDRV_FUZZ_SECONDS says."""
    return int(os.environ.get("USRDRV_FUZZ_SECONDS", usual))


def build(
    program: str,
    sources: Iterable[str],
    includes: Iterable[str],
    *options: str,
    sanitizer: str = MEMORY,
) -> Path:
    """Return tests/fuzz/PROGRAM.c compiled with sources, which are patterns. It ends at the first find."""
    files = [path for pattern in sources for path in sorted(ROOT.glob(pattern))]
    flags = ("-g", "-O1", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all")
    return compiled(
        [ROOT / f"tests/fuzz/{program}.c", *files],
        ["usrdrv/include", *includes],
        *flags,
        *options,
    )


def counts(program: Path, seconds: int, *words: str, seed: int = 1) -> list[int]:
    """Run a program to its good end. Return the numbers that it prints."""
    done = subprocess.run(
        [program, str(seconds), str(seed), *words],
        capture_output=True,
        text=True,
        timeout=seconds + 120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [int(word) for word in done.stdout.split() if word.isdigit()]
