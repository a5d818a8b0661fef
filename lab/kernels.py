# SPDX-License-Identifier: MIT
"""The kernels that guests can have."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from usrdrv.base import errors
from usrdrv.lab import cache

NAMES: Final = ("stock", "base", "debug")


def find(
    name: str | Path, root: Path, report: cache.Report = cache.silent
) -> tuple[Path, Path | None]:
    """Return the image of a kernel and the folder of its modules, None if the root has them.

    stock: Debian's; base, debug: our own, built when they are not there; a folder that kernel.build() returned.
    """
    if isinstance(name, Path):
        return name / "vmlinuz", next((name / "modules/lib/modules").iterdir())
    if name == "stock":
        return root / "boot/vmlinuz", None
    if name not in NAMES:
        raise errors.UsageError(f"no kernel {name!r}: there are {', '.join(NAMES)}")
    from usrdrv.lab import kernel

    return find(kernel.build(name, report), root)
