# SPDX-License-Identifier: MIT
"""The control socket of a running model (usrdrv.base.lines).

Requests: `{"op": "fault-add", "fault": {"kind": ..., ...}}`, `{"op": "fault-list"}`,
`{"op": "fault-clear", "id": 3}` (no id: all), `{"op": "counters"}`, `{"op": "status"}`.
"""

from functools import partial
from pathlib import Path
from typing import Any, Protocol

from usrdrv.base.errors import UsageError
from usrdrv.base.lines import LineServer
from usrdrv.base.lines import call as call


class Model(Protocol):
    """What the server needs of a model."""

    @property
    def fault_type(self) -> Any: ...
    def add_fault(self, fault: Any) -> int: ...
    def clear_fault(self, fault_id: int | None = None) -> int: ...
    def faults(self) -> list[Any]: ...
    def counters(self) -> dict[str, Any]: ...
    def status(self) -> dict[str, Any]: ...


def answer(model: Model, request: dict[str, Any]) -> Any:
    """Do what a request asks of the model."""
    match request.get("op"):
        case "fault-add":
            return model.add_fault(model.fault_type.from_json(request.get("fault")))
        case "fault-list":
            return [fault.to_json() for fault in model.faults()]
        case "fault-clear":
            fault_id = request.get("id")
            if fault_id is not None and (
                isinstance(fault_id, bool) or not isinstance(fault_id, int)
            ):
                raise UsageError(f"fault id {fault_id!r} is not a number")
            return model.clear_fault(fault_id)
        case "counters":
            return model.counters()
        case "status":
            return model.status()
        case op:
            raise UsageError(f"unknown request {op!r}")


class ControlServer(LineServer):
    """Serves a model at a socket until close()."""

    def __init__(self, path: Path, model: Model) -> None:
        super().__init__(path, partial(answer, model))
