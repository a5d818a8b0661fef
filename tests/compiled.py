# SPDX-License-Identifier: MIT
"""C programs of the tests, each compiled once for each state of what goes into it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tests.files import ROOT
from usrdrv.lab.cache import cached, digest


@cache
def _compiler() -> str:
    return subprocess.run(["gcc", "-v"], capture_output=True, text=True, check=True).stderr


def compiled(sources: Sequence[Path], includes: Sequence[str | Path], *options: str) -> Path:
    """Return what gcc makes of the sources, in the cache of the lab (usrdrv.lab.cache).

    includes: folders of headers, below the project's or absolute.
    """
    flags = ["-std=gnu11", *options, *(f"-I{ROOT / folder}" for folder in includes)]
    files = list(map(str, sources))
    # What is included is among the inputs; of the system's headers the compiler's version has to do.
    listed = subprocess.run(
        ["gcc", *flags, "-MM", *files], capture_output=True, text=True, check=True
    ).stdout.replace("\\\n", " ")
    inputs = sorted({word for word in listed.split() if not word.endswith(":")})
    parts = [_compiler(), *flags, *files]
    parts += [text for name in inputs for text in (name, Path(name).read_text())]

    def make(folder: Path) -> None:
        # Libraries come behind what needs them.
        command = ["gcc", *flags, *files, "-pthread", "-o", str(folder / "program")]
        subprocess.run(command, check=True)

    return cached("test-program", digest(parts), make) / "program"
