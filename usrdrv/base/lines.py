# SPDX-License-Identifier: MIT
"""Requests over a Unix socket: one JSON object per line, one reply per line.

Replies: `{"ok": true, "result": ...}` or `{"ok": false, "error": "..."}`.
"""

import contextlib
import errno
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from usrdrv.base.closing import Closing
from usrdrv.base.errors import (
    DeviceError,
    NoSuchDeviceError,
    PermissionDeniedError,
    UsageError,
    UsrdrvError,
)
from usrdrv.base.sockets import check_socket_path, listen, remover

MAX_LINE = 1 << 16
TIMEOUT = 10.0


def _connect(path: Path) -> socket.socket:
    check_socket_path(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(TIMEOUT)
        sock.connect(str(path))
    except OSError as error:
        sock.close()
        if error.errno == errno.EACCES:
            raise PermissionDeniedError(f"no permission to connect to {path}") from None
        raise NoSuchDeviceError(f"nobody answers at {path}: {error.strerror or error}") from None
    return sock


def _read_line(sock: socket.socket) -> bytes:
    """One line without its end; b"" when the peer is gone."""
    data = b""
    while b"\n" not in data:
        if len(data) > MAX_LINE:
            raise UsageError(f"line longer than {MAX_LINE} bytes")
        chunk = sock.recv(65536)
        if not chunk:
            return b""
        data += chunk
    return data.split(b"\n", 1)[0]


class LineServer(Closing):
    """Answers requests at a socket until close(); `answer` runs in a thread of its own for each."""

    def __init__(self, path: Path, answer: Callable[[dict[str, Any]], Any]) -> None:
        self.path = path
        self._do = answer
        self._clients: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closed = False
        self._listener = listen(path)
        self._remove = remover(path)
        self._thread = threading.Thread(target=self._accept, name="control", daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError as error:
                if self._closed or error.errno not in (errno.ECONNABORTED, errno.EMFILE):
                    return
                continue
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            with self._lock:
                if self._closed:
                    client.close()
                    return
                self._clients.add(client)
                self._threads = [t for t in self._threads if t.is_alive()] + [thread]
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(TIMEOUT)
        with contextlib.suppress(OSError), client:
            try:
                reply = self._answer(_read_line(client))
            except UsrdrvError as error:
                reply = {"ok": False, "error": str(error)}
            client.sendall(json.dumps(reply).encode() + b"\n")
        with self._lock:
            self._clients.discard(client)

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            raise UsageError("request is not JSON") from None
        if not isinstance(request, dict):
            raise UsageError("request is not an object")
        return {"ok": True, "result": self._do(request)}

    def close(self) -> None:
        """Stop serving; after this nothing is asked any more."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            clients, threads = list(self._clients), list(self._threads)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for client in clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in [self._thread, *threads]:
            if thread.ident is not None:
                thread.join()
        self._listener.close()
        self._remove()


def call(path: Path, request: dict[str, Any]) -> Any:
    """Send one request to whoever serves `path` and return its result."""
    with _connect(path) as sock:
        try:
            sock.sendall(json.dumps(request).encode() + b"\n")
            line = _read_line(sock)
        except OSError as error:
            raise DeviceError(f"{path}: {error.strerror or error}") from None
    try:
        reply = json.loads(line)
        ok = reply["ok"]
        answer = reply["result"] if ok else reply["error"]
    except (ValueError, KeyError, TypeError):
        raise DeviceError(f"{path}: no sensible reply") from None
    if not ok:
        raise UsageError(f"{path}: {answer}")
    return answer
