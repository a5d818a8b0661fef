# SPDX-License-Identifier: MIT
"""The exports of disks."""

from __future__ import annotations

from typing import Any, Final

from usrdrv.block.options import Options
from usrdrv.bridge.block.contract import Export
from usrdrv.bridge.exports import Exports

EXPORTS: Final[Exports[Export[Any]]] = Exports(
    "usrdrv.bridge.block", ("usrloop", "nbd", "fuse", "socket"), Options
)
