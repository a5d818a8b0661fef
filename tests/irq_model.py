# SPDX-License-Identifier: MIT
"""The model of tests/fuzz/irq_model.h, a function that interrupts and does nothing else, for tests in Python."""

import ctypes
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from threading import Thread

from tests.compiled import compiled
from tests.files import ROOT
from tests.waiting import PATIENCE
from usrdrv.backends import _access
from usrdrv.device import Device, open_device
from usrdrv.devices._models import ffi
from usrdrv.devices.vfio_user.server import Server

SIZE, MESSAGE, LEVEL, WIDE = 0x20000, 0x00, 0x04, 0x08
LAST = SIZE - 8


@cache
def _create() -> "ctypes._FuncPointer":
    path = compiled(
        [ROOT / "tests/fuzz/irq_model.c"], ["usrdrv/include"], "-g", "-shared", "-fPIC", "-Wall"
    )
    function = ctypes.CDLL(str(path)).irq_model_create
    function.restype = ctypes.c_void_p
    return function


def descriptors() -> int:
    """How many this process has; the server of a test is in it."""
    return len(list(Path("/proc/self/fd").iterdir()))


@contextmanager
def irq_model(intx: int = 1, msi: int = 4, msix: int = 20) -> Iterator[int]:
    """A model with so many interrupts of each kind; yields the address of its struct usrdrv_model."""
    address: int = _create()(intx, msi, msix)
    model = ffi.cast("struct usrdrv_model *", address)
    try:
        yield address
    finally:
        model.ops.destroy(model)


@contextmanager
def serving(model: int, path: Path) -> Iterator[None]:
    """A vfio-user server of a model."""
    with Server(model, path) as server:
        thread = Thread(target=server.run)
        thread.start()
        try:
            yield
        finally:
            server.stop()
            thread.join(PATIENCE)
            assert not thread.is_alive()


def in_process(model: int) -> Device:
    """A model as a device of this process."""
    out = _access.ffi.new("struct usrdrv_dev **")
    pointer = _access.ffi.cast("struct usrdrv_model *", model)
    assert _access.lib.usrdrv_inproc_open(pointer, out) == 0
    return Device("model", out[0])


@contextmanager
def device(path: Path | None, intx: int = 1, msi: int = 4, msix: int = 20) -> Iterator[Device]:
    """A device that is such a model: in this process or, with a path, at the other end of that socket."""
    with ExitStack() as stack:
        model = stack.enter_context(irq_model(intx, msi, msix))
        if path:
            stack.enter_context(serving(model, path))
        opened = open_device(f"vfio-user:{path}") if path else in_process(model)
        yield stack.enter_context(opened)
