# SPDX-License-Identifier: MIT
"""The exports by name, and which of them is the best here."""

from __future__ import annotations

import importlib
from typing import Any, Final

from usrdrv.bridge.block.contract import Export

NAMES: Final = ("usrloop", "nbd", "fuse", "socket")
"""The best first. Each is a module export_NAME.py."""


def get(name: str) -> Export[Any]:
    """Return an export; its module is imported now, as most need another one."""
    export: Export[Any] = importlib.import_module(f"usrdrv.bridge.block.export_{name}").EXPORT
    return export


def choose(wanted: str, *, option: str | None = None) -> Export[Any]:
    """Return the export that is wanted; of `auto` the best that this kernel has.

    option: one that it has to have.
    """
    if wanted != "auto":
        return get(wanted)
    able = (get(name) for name in NAMES)
    return next(
        export for export in able if option in (None, *export.options) and export.available()
    )
