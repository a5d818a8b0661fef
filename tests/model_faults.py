# SPDX-License-Identifier: MIT
"""Faults of a running model, through its control socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from usrdrv.base import errors
from usrdrv.devices import control


@contextmanager
def broken(socket: Path, *faults: dict[str, Any]) -> Iterator[None]:
    """Break something for a while."""
    numbers = [control.call(socket, {"op": "fault-add", "fault": fault}) for fault in faults]
    try:
        yield
    finally:
        for number in numbers:
            with suppress(errors.UsrdrvError):  # it may be used up
                control.call(socket, {"op": "fault-clear", "id": number})


def left(socket: Path) -> Any:
    """Faults that are not used up."""
    return control.call(socket, {"op": "fault-list"})


def hits(socket: Path) -> int:
    """How often the only fault was met."""
    (fault,) = left(socket)
    return int(fault.get("hits", 0))
