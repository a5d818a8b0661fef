# SPDX-License-Identifier: MIT
"""A device model on a vfio-user socket."""

from __future__ import annotations

import os
from pathlib import Path

from usrdrv.base import errors
from usrdrv.base.closing import Closing
from usrdrv.base.sockets import listen, remover
from usrdrv.devices import _models

ffi, lib = _models.ffi, _models.lib


class Server(Closing):
    """Serves one model to one client at a time. The socket is there from construction until close().

    model_pointer: address of struct usrdrv_model; the model must outlive the server.
    once: run() returns when the first client leaves. stop() may be called from any thread.
    """

    def __init__(self, model_pointer: int, socket: Path, *, once: bool = False) -> None:
        self.path = socket
        self._socket = listen(socket)
        self._remove = remover(socket)
        out = ffi.new("struct vu_server **")
        model = ffi.cast("struct usrdrv_model *", model_pointer)
        result = lib.vu_server_create(model, self._socket.fileno(), once, out)
        self._server = out[0] if result == 0 else None
        if result:
            self.close()
            raise errors.DeviceError(f"{socket}: {os.strerror(-result)}")

    def run(self) -> None:
        """Serve until stop(). The GIL is not held; Python handles signals in another thread only."""
        if self._server is None:
            raise errors.DeviceError(f"{self.path}: the server is closed")
        result = lib.vu_server_run(self._server)
        if result:
            raise errors.DeviceError(f"{self.path}: {os.strerror(-result)}")

    def stop(self) -> None:
        """Make run() return soon; the client, if any, is disconnected."""
        if self._server is not None:
            lib.vu_server_stop(self._server)

    def close(self) -> None:
        """Remove the socket and give everything back; run() must have returned. Idempotent."""
        if self._socket.fileno() >= 0:
            self._remove()
            self._socket.close()
        if self._server is not None:
            lib.vu_server_destroy(self._server)
            self._server = None
