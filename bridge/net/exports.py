# SPDX-License-Identifier: MIT
"""The exports of interfaces."""

from __future__ import annotations

from typing import Final

from usrdrv.bridge.exports import Exports
from usrdrv.bridge.net.contract import Export
from usrdrv.net.options import Options

EXPORTS: Final[Exports[Export]] = Exports("usrdrv.bridge.net", ("usrloop", "tap"), Options)
