# SPDX-License-Identifier: MIT
"""Asking a driver in service about its drives: `usrdrv identify` of a device that `usrdrv block` has.

The driver's process answers at a socket in the run directory. It is named after the supervisor, as claims are.
"""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict

from usrdrv.base import errors, lines, sockets
from usrdrv.claim import run_directory

if TYPE_CHECKING:
    from usrdrv.drivers.disks import DiskController

log: Final = logging.getLogger(__name__)


class Answer(TypedDict):
    """What there is to say of a drive: for scripts, and for people."""

    known: dict[str, Any]
    rows: dict[str, str]


def tell(controller: DiskController) -> list[Answer]:
    """Return what there is to say of each drive."""
    drives = filter(None, controller.drives)
    return [{"known": drive.describe(), "rows": drive.rows()} for drive in drives]


def _path(owner: int) -> Path:
    return run_directory() / f"driver-{owner}.sock"


def answer(controller: DiskController) -> AbstractContextManager[object]:
    """Answer questions about the drives of our supervisor's device, in the context. That we cannot is not fatal."""

    def drives(request: dict[str, Any]) -> list[Answer]:
        if request.get("op") != "identify":
            raise errors.UsageError("the only op is identify")
        controller.ask_health()
        return tell(controller)

    try:
        return lines.LineServer(_path(os.getppid()), drives)
    except errors.UsrdrvError as error:
        log.warning("nobody will be told of the drives in service: %s", error)
        return nullcontext()


def forget() -> None:
    """Remove what a driver of ours left that was killed."""
    sockets.remove_dead(_path(os.getpid()))


def ask(owner: int) -> list[Answer] | None:
    """What the driver of process `owner` says of its drives. None: it has none that answers."""
    try:
        return list(lines.call(_path(owner), {"op": "identify"}))
    except errors.NoSuchDeviceError:
        return None
