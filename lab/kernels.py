# SPDX-License-Identifier: MIT
"""The kernels that guests can have."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from usrdrv import errors
from usrdrv.lab import cache

NAMES: Final = ("stock", "base", "debug")


def find(name: str, root: Path, report: cache.Report = cache.silent) -> tuple[Path, Path | None]:
    """Return the image of a kernel and the folder of its modules, None if the root has them.

    stock: Debian's; base, debug: our own, built when they are not there.
    """
    if name == "stock":
        return root / "boot/vmlinuz", None
    if name not in NAMES:
        raise errors.UsageError(f"no kernel {name!r}: there are {', '.join(NAMES)}")
    from usrdrv.lab import kernel

    folder = kernel.build(name, report)
    return folder / "vmlinuz", next((folder / "modules/lib/modules").iterdir())
