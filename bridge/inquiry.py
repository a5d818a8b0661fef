# SPDX-License-Identifier: MIT
"""Asking a driver in service about its drives: `usrdrv identify` of a device that `usrdrv block` has.

The driver's process answers at a socket in the run directory. It is named after the supervisor, as claims are.
"""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from usrdrv.base import errors, lines
from usrdrv.claim import run_directory

if TYPE_CHECKING:
    from usrdrv.drivers.ide_cmd680.driver import Controller, Drive

log: Final = logging.getLogger(__name__)


def describe(drive: Drive) -> dict[str, Any]:
    """Return what is known of a drive, as JSON has it."""
    identity = drive.identity
    smart = drive.smart
    return {
        "drive": drive.index,
        **asdict(identity),
        "size": identity.size,
        "mode": drive.mode,
        "modes": [
            *(f"PIO{n}" for n in range(identity.pio_highest + 1)),
            *(f"MWDMA{n}" for n in range(3) if identity.mwdma_mask >> n & 1),
            *(f"UDMA{n}" for n in range(7) if identity.udma_mask >> n & 1),
        ],
        "smart": None if smart is None else asdict(smart),
    }


def _path(owner: int) -> Path:
    return run_directory() / f"driver-{owner}.sock"


def answer(controller: Controller) -> AbstractContextManager[object]:
    """Answer questions about the drives of our supervisor's device, in the context. That we cannot is not fatal."""

    def drives(request: dict[str, Any]) -> list[dict[str, Any]]:
        if request.get("op") != "identify":
            raise errors.UsageError("the only op is identify")
        controller.ask_health()
        return [describe(drive) for drive in controller.drives if drive is not None]

    try:
        return lines.LineServer(_path(os.getppid()), drives)
    except errors.UsrdrvError as error:
        log.warning("nobody will be told of the drives in service: %s", error)
        return nullcontext()


def forget() -> None:
    """Remove what a driver of ours left that was killed."""
    _path(os.getpid()).unlink(missing_ok=True)


def ask(owner: int) -> list[dict[str, Any]] | None:
    """What the driver of process `owner` says of its drives. None: it has none that answers."""
    try:
        return list(lines.call(_path(owner), {"op": "identify"}))
    except errors.NoSuchDeviceError:
        return None
