# SPDX-License-Identifier: MIT
"""Parts that are found rather than listed: packages in a package, each with a module of an agreed name."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType


def parts(package: ModuleType, module: str) -> list[str]:
    """Return the names of the packages in `package` that have such a module, sorted; nothing is imported."""
    folders = (Path(folder) for folder in package.__path__)
    return sorted(file.parent.name for folder in folders for file in folder.glob(f"*/{module}.py"))
