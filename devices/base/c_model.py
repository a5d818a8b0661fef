# SPDX-License-Identifier: MIT
"""A model that C makes: what those of all chips have in common, seen from Python."""

from __future__ import annotations

import errno
import os
from typing import Any, ClassVar

from usrdrv.base.closing import Closing
from usrdrv.base.errors import UsageError, UsrdrvError
from usrdrv.devices._models import ffi, lib


class Model(Closing):
    """A model made by C. `kind` is also the prefix of its C functions."""

    kind: ClassVar[str]
    fault_type: ClassVar[Any]
    """The dataclass of its faults, a ModelFault."""

    def __init__(self, pointer: Any) -> None:
        self._model = pointer

    @property
    def pointer(self) -> int:
        """`struct usrdrv_model *` for the shell that runs it; valid until close()."""
        return int(ffi.cast("uintptr_t", self._open()))

    def _open(self) -> Any:
        if self._model is None:
            raise UsrdrvError("the model is closed")
        return self._model

    def _call(self, name: str, *arguments: Any) -> Any:
        return getattr(lib, f"{self.kind}_{name}")(self._open(), *arguments)

    def add_fault(self, fault: Any) -> int:
        """Break something; the id is for clear_fault."""
        c = fault.to_c()
        result = int(lib.faults_add(self._call("faults"), ffi.addressof(c, "base")))
        if result == -errno.ENOSPC:
            raise UsageError("too many faults at once")
        if result < 0:
            raise UsageError(f"{fault.kind}: {os.strerror(-result)}")
        return result

    def clear_fault(self, fault_id: int | None = None) -> int:
        """Mend one fault, or all of them; returns how many."""
        if fault_id is not None and not 0 < fault_id < 1 << 32:
            raise UsageError(f"there is no fault {fault_id}")
        result = int(lib.faults_clear(self._call("faults"), fault_id or 0))
        if result < 0:
            raise UsageError(f"there is no fault {fault_id}")
        return result

    def faults(self) -> list[Any]:
        """The faults that are active now."""
        array = ffi.new(f"struct {self.kind}_fault[]", lib.FAULTS_ROOM)
        n = lib.faults_list(self._call("faults"), array, len(array))
        return [self.fault_type.from_c(array[i]) for i in range(n)]

    def counters(self) -> dict[str, Any]:
        """Counters by name."""
        c = self._counters()
        return {name: int(getattr(c, name)) for name, field in _fields(c) if _is_number(field)}

    def _counters(self) -> Any:
        c = ffi.new(f"struct {self.kind}_counters *")
        self._call("counters", c)
        return c

    def status(self) -> dict[str, Any]:
        """What the model is made of."""
        return {"model": self.kind}

    def close(self) -> None:
        """Free the model; whoever ran it has stopped. Waits for work in progress."""
        if self._model is not None:
            model, self._model = self._model, None
            model.ops.destroy(model)


def _fields(c: Any) -> list[tuple[str, Any]]:
    return list(ffi.typeof(c).item.fields)


def _is_number(field: Any) -> bool:
    return bool(field.type.kind == "primitive")
