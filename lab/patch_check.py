# SPDX-License-Identifier: MIT
"""`make patch-check`: the series of usrdrv-patch as a kernel maintainer would look at it.

Each patch in turn, on a fresh source tree: it applies, checkpatch --strict has nothing to say, what it touches
compiles without a warning, and sparse and kernel-doc find nothing in ours.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from usrdrv.base import errors
from usrdrv.base.process import find_tool
from usrdrv.lab import cache, kernel

IGNORED: Final = (
    # The entry in MAINTAINERS, of patch 3, has patterns for all files that come later.
    "FILE_PATH_CHANGES",
    # Said of a forward declaration.
    "CONST_STRUCT",
)
# They call device_match_driver_override(), which is inline and has a guard(); sparse sees only its beginning.
GUARDED: Final = re.compile(
    r"context imbalance in 'usrdrv_(?:un)?reserve'|lock contexts .*reserve'"
)
OBJECTS: Final = ("kernel/irq/", "kernel/dma/", "drivers/base/", "drivers/usrdrv/")
COMPLAINT: Final = re.compile(
    r"(?:drivers/usrdrv|include/(?:uapi/)?linux/usrdrv)\S*:.*(?:warning|error)"
)
DOCUMENTED: Final = (
    "drivers/usrdrv/*.[ch]",
    "include/linux/usrdrv.h",
    "include/uapi/linux/usrdrv.h",
)


def _check_style(tree: Path, patch: Path) -> list[str]:
    command = [
        *("perl", "scripts/checkpatch.pl", "--strict", "--terse", "--no-summary", "--color=never"),
        *("--ignore", ",".join(IGNORED), str(patch)),
    ]
    # What it has to say is on standard output; on the other, which Python modules it would like.
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def _compile(tree: Path) -> list[str]:
    objects = [name for name in OBJECTS if (tree / name).exists()]
    said = kernel.run(["make", "-j2", "W=1", "C=2", "CC=ccache gcc", *objects], tree)
    lines = said.splitlines()
    return [line for line in lines if COMPLAINT.search(line) and not GUARDED.search(line)]


def _check_documentation(tree: Path) -> list[str]:
    files = [str(path) for pattern in DOCUMENTED for path in sorted(tree.glob(pattern))]
    if not files:
        return []
    said = kernel.run(["perl", "scripts/kernel-doc", "-none", "-Wall", *files], tree)
    return [line for line in said.splitlines() if "warning" in line or "error" in line]


def check(tree: Path) -> int:
    """Unpack the source to `tree` and go through the series. Return how many complaints there were."""
    kernel.unpack(tree, cache.silent)
    wrong = 0
    for number, patch in enumerate(kernel.patches(), 1):
        kernel.run(["patch", "-p1", "--batch", "--fuzz=0", "-i", str(patch)], tree)
        if number == 1:
            kernel.configure(tree, "base", strict=False)
            kernel.run(["make", "-j2", "CC=ccache gcc", "prepare"], tree)
        else:
            kernel.run(["make", "olddefconfig"], tree)
            kernel.run(["scripts/config", "-e", "USRDRV", "-m", "USRDRV_KUNIT_TEST"], tree)
            kernel.run(["make", "olddefconfig"], tree)
        complaints = [*_check_style(tree, patch), *_compile(tree), *_check_documentation(tree)]
        print(f"patch-check: {patch.name}: {'; '.join(complaints) or 'good'}", flush=True)
        wrong += len(complaints)
    return wrong


def main() -> int:
    for tool, package in {**kernel.TOOLS, "sparse": "sparse"}.items():
        find_tool(tool, package)
    folder = Path(tempfile.mkdtemp(prefix="usrdrv-patch-", dir=cache.folder()))
    try:
        return 1 if check(folder / "source") else 0
    except errors.UsrdrvError as error:
        print(f"patch-check: error: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
