# SPDX-License-Identifier: MIT
"""The driver process (nbdkit with our plugin): started, awaited, watched, stopped."""

from __future__ import annotations

import json
import os
import re
import site
import socket
import sysconfig
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

from usrdrv.base import errors
from usrdrv.base.process import DYING, Child, find_tool
from usrdrv.base.sockets import claim_path, remove_dead
from usrdrv.block.options import DEFAULTS, Options
from usrdrv.bridge.block import inquiry, nbd_handshake
from usrdrv.bridge.block.chosen import check_same
from usrdrv.bridge.worker.memory import no_core
from usrdrv.bridge.worker.process import START_TIMEOUT

PLUGIN: Final = Path(__file__).with_name("plugin.py")
_ERROR: Final = re.compile(
    r"^nbdkit: (?:python[.\d\[\]]*: )?error: (?:.*?plugin\.py: \w+: error: )?"
)


@dataclass(frozen=True)
class Endpoint:
    """Where the NBD server listens: a Unix socket or, with `port`, TCP on `host`."""

    path: Path | None = None
    host: str = "127.0.0.1"
    port: int | None = None

    @property
    def address(self) -> str | tuple[str, int]:
        return (self.host, self.port) if self.port is not None else str(self.path)

    def uri(self, export: str = "") -> str:
        """The address of one of its exports; the first needs no name."""
        if self.port is not None:
            host = f"[{quote(self.host, safe=':')}]" if ":" in self.host else self.host
            return f"nbd://{host}:{self.port}" + (f"/{export}" if export else "")
        return f"nbd+unix:///{export}?socket={quote(str(self.path))}"


def claim_port(host: str, port: int) -> None:
    """See that TCP `port` can be had on an address of `host`, an IPv4 or IPv6 address or a name."""
    failure: OSError | None = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            failure = _try_to_bind(socket.socket(family, kind, protocol), address)
            if failure is None:
                return
    except OSError as error:
        failure = error
    raise errors.UsageError(f"{host} port {port}: {failure.strerror if failure else 'no address'}")


def _try_to_bind(sock: socket.socket, address: Any) -> OSError | None:
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind(address)
        except OSError as error:
            return error
    return None


def site_folders() -> str:
    """Where the interpreter inside nbdkit finds the packages that this one has."""
    found = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    return os.pathsep.join(dict.fromkeys(found))


class NbdServer:
    """nbdkit serving drives, each as an export. A context manager: inside, it answers at `endpoint`.

    drives: their numbers; None: all that there are. threads: requests served at once. trim: clients may do that.
    again: its client waits for it to be started again when it is gone.
    """

    standby: Child | None = None

    def __init__(
        self,
        device: str,
        drives: Sequence[int] | None,
        endpoint: Endpoint,
        options: Options = DEFAULTS,
        *,
        threads: int = 16,
        trim: bool = True,
        again: bool = False,
    ) -> None:
        self.device = device
        self.endpoint = endpoint
        self._parameters = (
            f"device={device}",
            f"options={json.dumps(asdict(options))}",
            f"trim={int(trim)}",
            f"again={int(again)}",
        )
        self._threads = threads
        self._counters = options.counters
        self._line: socket.socket | None = None
        self.child: Child
        self._wanted = drives
        self.drives: dict[int, nbd_handshake.Export] = {}
        """By number."""

    def _command(self) -> list[str]:
        end = self.endpoint
        drives = ("all",) if self._wanted is None else self._wanted
        listen = (
            ["-i", end.host, "-p", str(end.port)] if end.port is not None else ["-U", str(end.path)]
        )
        return [
            find_tool("nbdkit", "nbdkit"),
            *("-f", "--exit-with-parent", "--threads", str(self._threads), *listen),
            *("python", str(PLUGIN), *self._parameters),
            *(f"drive={drive}" for drive in drives),
        ]

    def prepare(self) -> None:
        """There is nothing: nbdkit claims the device when it starts."""

    def name(self, drive: int) -> str:
        """What a drive's export is called."""
        return "" if len(self.drives) == 1 else str(drive)

    def uri(self, drive: int) -> str | None:
        return self.endpoint.uri(self.name(drive))

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(
        self, hurried: Callable[[], bool] = lambda: False, timeout: float = START_TIMEOUT
    ) -> None:
        """Start the driver, again if it has ended; it answers when this returns, after `timeout` s at most.

        InterruptedError when `hurried` says so; DeviceError also if it is not the drive that it was.
        """
        if self.drives:  # it may live still, if the kernel did not take its connections
            self._kill()
        env = {**os.environ, "USRDRV_SITE": site_folders()}
        if self.endpoint.port is not None:
            claim_port(self.endpoint.host, self.endpoint.port)
        elif self.endpoint.path is not None:
            claim_path(self.endpoint.path)
            env["USRDRV_SOCKET"] = str(self.endpoint.path)
        # Its end says that we want it to end, or died: nbdkit alone would wait for its clients.
        self._let_go()
        self._line, theirs = socket.socketpair()
        with theirs:
            env["USRDRV_SUPERVISOR_FD"] = str(theirs.fileno())
            fds = [fd for fd in (theirs.fileno(), self._counters) if fd >= 0]
            self.child = Child("nbdkit", self._command(), env=env, pass_fds=fds, prepare=no_core)
        try:
            found = self._await_ready(timeout, hurried)
            if self.drives:
                check_same(self.device, self.drives, found)
        except BaseException:
            self._kill()
            self._forget()
            raise
        if not self.drives:
            self.drives = found
            self._wanted = list(found)  # those and no others, also if all were asked for
        self.child.talk()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _await_ready(
        self, timeout: float, hurried: Callable[[], bool]
    ) -> dict[int, nbd_handshake.Export]:
        deadline = time.monotonic() + timeout
        while True:
            if hurried():
                raise InterruptedError
            try:
                return self._look(timeout, hurried)
            except InterruptedError:
                raise
            except OSError as error:  # not listening yet, or it died while we were in its queue
                if self.child.wait(0.01):
                    raise self._explain() from error
                if time.monotonic() > deadline:
                    raise errors.DeviceError(
                        f"{self.device}: the driver is not ready after {timeout:.0f} s"
                    ) from error
            except errors.DeviceError as error:
                if self.child.wait(1):
                    raise self._explain() from error
                raise

    def _look(self, timeout: float, hurried: Callable[[], bool]) -> dict[int, nbd_handshake.Export]:
        """See what is served."""
        address = self.endpoint.address
        if self._wanted is not None and len(self._wanted) == 1:
            return {self._wanted[0]: nbd_handshake.look(address, timeout, hurried)}
        with nbd_handshake.dial(address, timeout, hurried) as sock:
            names = nbd_handshake.list_names(sock)
        return {int(name): nbd_handshake.look(address, timeout, hurried, name) for name in names}

    def _explain(self) -> errors.UsrdrvError:
        """Say why it ended before it was ready, in its own words."""
        found = [line for line in self.child.lines if "error: " in line]
        if any("nbdkit-python-plugin.so" in line for line in found):
            return errors.MissingToolError(
                "nbdkit has no Python plugin (Debian package nbdkit-plugin-python)"
            )
        if found and found[0].endswith("(most recent call last):"):
            last = [line for line in self.child.lines if line][-1]
            return errors.DeviceError(f"{self.device}: the driver failed: {last.strip()}")
        if found:
            return errors.DeviceError(_ERROR.sub("", found[0]))
        return errors.DeviceError(f"{self.device}: nbdkit {self.child.status()}")

    def device_gone(self) -> bool:
        """Whether the driver has ended because it believes that there is no device any more."""
        if self._line is None:
            return False
        try:
            return self._line.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) != b""
        except OSError:
            return False

    def _let_go(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None

    def _kill(self) -> None:
        """End a driver that is of no use, at once: the device is reset when its process is gone."""
        self.child.kill()
        self.child.wait(DYING)
        self._let_go()

    def stop(self) -> None:
        """End the driver: it quiesces the device. Idempotent."""
        self._let_go()
        self.child.stop()
        self._forget()

    def _forget(self) -> None:
        """Remove what a driver that has ended left behind."""
        inquiry.forget()
        if self.endpoint.path is not None:
            remove_dead(self.endpoint.path)
