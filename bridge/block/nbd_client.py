# SPDX-License-Identifier: MIT
"""/dev/nbdX: the kernel's NBD client, through its generic netlink family (linux/nbd-netlink.h).

Requests wait in the kernel for a connection to the next server. How long is ours to say, as long as we live:
meanwhile the kernel gets a stand-in, a connection that takes nothing. Once we are gone as well, for instance
with the container that we were in, requests wait for ORPHANED seconds and fail.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

from pyroute2.netlink import (  # type: ignore[import-untyped]
    NLM_F_ACK,
    NLM_F_REQUEST,
    genlmsg,
    nla,
)
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]
from pyroute2.netlink.generic import GenericNetlinkSocket  # type: ignore[import-untyped]

from usrdrv.base import errors, sockets
from usrdrv.base.process import DYING, Child, find_tool
from usrdrv.bridge.block import nbd_handshake
from usrdrv.bridge.block.chosen import check_same
from usrdrv.bridge.block.contract import REPLAY_TIME
from usrdrv.bridge.block.kernel_disk import KernelDisk

FAMILY: Final = "nbd"
VERSION: Final = 1

CMD_CONNECT: Final = 1
CMD_DISCONNECT: Final = 2
CMD_RECONFIGURE: Final = 3

CFLAG_DISCONNECT_ON_CLOSE: Final = 2

REPLAY_PERIOD_MS: Final = int(REPLAY_TIME * 1000)
"""How often the kernel looks whether a request's connection is another one now."""
ORPHANED: Final = 10
"""Seconds that requests wait without any connection. We give the kernel a stand-in long before."""
REPLACING: Final = 5.0
"""Seconds; many times what the kernel takes to see the end of a connection."""


class NbdMessage(genlmsg):  # type: ignore[misc]
    """A message of the family."""

    nla_map = (
        ("NBD_ATTR_UNSPEC", "none"),
        ("NBD_ATTR_INDEX", "uint32"),
        ("NBD_ATTR_SIZE_BYTES", "uint64"),
        ("NBD_ATTR_BLOCK_SIZE_BYTES", "uint64"),
        ("NBD_ATTR_TIMEOUT", "uint64"),
        ("NBD_ATTR_SERVER_FLAGS", "uint64"),
        ("NBD_ATTR_CLIENT_FLAGS", "uint64"),
        ("NBD_ATTR_SOCKETS", "sockets"),
        ("NBD_ATTR_DEAD_CONN_TIMEOUT", "uint64"),
    )

    class sockets(nla):  # type: ignore[misc]
        nla_map = (("NBD_SOCK_UNSPEC", "none"), ("NBD_SOCK_ITEM", "item"))

        class item(nla):  # type: ignore[misc]
            nla_map = (("NBD_SOCK_ITEM_UNSPEC", "none"), ("NBD_SOCK_FD", "uint32"))


def _message(command: int, attributes: list[list[Any]]) -> NbdMessage:
    message = NbdMessage()
    message["cmd"] = command
    message["version"] = VERSION
    message["attrs"] = attributes
    return message


def connect_message(
    export: nbd_handshake.Export, fd: int, patience: int, index: int | None = None
) -> NbdMessage:
    """Hand a socket in the transmission phase to /dev/nbd`index`, or to any free one.

    patience: seconds that requests wait for another connection when this one is lost; 0: they fail at once.

    One connection, and TIMEOUT 0: so the kernel sends a request again only when its connection is another
    one now. With a time-out, or a second connection to try, it would do that to a living server that is just
    slow, and a write could be done twice, the second time over a newer one (Linux, drivers/block/nbd.c,
    nbd_xmit_timeout).
    """
    which = [] if index is None else [["NBD_ATTR_INDEX", index]]
    return _message(
        CMD_CONNECT,
        [
            *which,
            ["NBD_ATTR_SIZE_BYTES", export.size],
            ["NBD_ATTR_BLOCK_SIZE_BYTES", export.minimum_block],
            ["NBD_ATTR_TIMEOUT", 0],
            ["NBD_ATTR_DEAD_CONN_TIMEOUT", patience],
            ["NBD_ATTR_SERVER_FLAGS", export.flags],
            _sockets(fd),
        ],
    )


def _sockets(fd: int) -> list[Any]:
    item = ["NBD_SOCK_ITEM", {"attrs": [["NBD_SOCK_FD", fd]]}]
    return ["NBD_ATTR_SOCKETS", {"attrs": [item]}]


def reconnect_message(index: int, fd: int) -> NbdMessage:
    """Replace the lost connection of /dev/nbd`index`."""
    return _message(CMD_RECONFIGURE, [["NBD_ATTR_INDEX", index], _sockets(fd)])


def keep_while_open_message(index: int, keep: bool = True) -> NbdMessage:
    """Let the kernel disconnect with the last close, or no more."""
    flags = CFLAG_DISCONNECT_ON_CLOSE if keep else 0
    return _message(CMD_RECONFIGURE, [["NBD_ATTR_INDEX", index], ["NBD_ATTR_CLIENT_FLAGS", flags]])


def disconnect_message(index: int) -> NbdMessage:
    """Disconnect now; requests under way fail."""
    return _message(CMD_DISCONNECT, [["NBD_ATTR_INDEX", index]])


class _Family:
    """A socket bound to the family."""

    def __init__(self) -> None:
        self._socket = GenericNetlinkSocket()
        try:
            self._socket.bind(FAMILY, NbdMessage)
        except NetlinkError as error:
            self._socket.close()
            raise errors.MissingToolError(
                "this kernel has no NBD client: module nbd (CONFIG_BLK_DEV_NBD)"
            ) from error

    def request(self, message: NbdMessage) -> list[Any]:
        try:
            return list(
                self._socket.nlm_request(
                    message, msg_type=self._socket.prid, msg_flags=NLM_F_REQUEST | NLM_F_ACK
                )
            )
        except NetlinkError as error:
            if error.code in (1, 13):
                raise errors.PermissionDeniedError(
                    "kernel nbd: needs root (CAP_SYS_ADMIN)"
                ) from error
            raise errors.DeviceError(f"kernel nbd: {os.strerror(error.code)}") from error

    def close(self) -> None:
        self._socket.close()


def _stay() -> None:
    """Let no signal end the keeper that is sent to all processes: until the end, what is cached is written."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def stand_in() -> tuple[socket.socket, socket.socket]:
    """Return the ends of a connection; what is sent into the second waits until the first is closed.

    Requests that were sent would be sent again late, when the kernel looks at their age.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            theirs.send(bytes(1 << 16))
    return ours, theirs


def _inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


class NbdAttachment:
    """A drive as /dev/nbdX.

    The kernel disconnects the device with its last close. A child keeps it open, so if the supervisor is killed the
    device goes when the last mount ends. The supervisor itself does not keep it open: its end would wait for that
    close, the close for requests, and they for the end of the stand-in, which the supervisor's end closes only
    afterwards.
    """

    children: Sequence[Child] = ()
    news: int | None = None

    def __init__(
        self,
        address: str | tuple[str, int],
        export_name: str = "",
        *,
        timeout: float,
        patience: int = 0,
    ) -> None:
        self._address = address
        self._export_name = export_name
        self._timeout = timeout
        self.disks: Sequence[KernelDisk] = ()
        self._index: int | None = None
        self._family = _Family()
        self._socket: socket.socket | None = None
        """The connection that the kernel has or, of the stand-in, its other end."""
        self._held = False
        try:
            self._socket, export = nbd_handshake.connect(address, timeout, name=export_name)
            self._inode = _inode(self._socket)
            self._export = export
            message = connect_message(export, self._socket.fileno(), min(patience, ORPHANED))
            for reply in self._family.request(message):
                index = reply.get_attr("NBD_ATTR_INDEX")
                self._index = index if index is not None else self._index
            if self._index is None:
                raise errors.DeviceError("kernel nbd: no device number in the answer")
            disk = KernelDisk(f"nbd{self._index}")
            self.disks = [disk]
            self.where = disk.where
            self._look_often(disk)
            self._await_size(disk, export.size // 512, time.monotonic() + timeout)
            self._keep_open(os.O_RDONLY if export.read_only else os.O_RDWR)
            # Only now: a probe by udev between connect and open would have been the last close.
            self._family.request(keep_while_open_message(self._index))
        except OSError as error:
            self.close()
            raise errors.DeviceError(f"kernel nbd: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise

    def _keep_open(self, flags: int) -> None:
        fd = os.open(self.where, flags | os.O_CLOEXEC)
        try:
            sleep = [find_tool("sleep", "coreutils"), "infinity"]
            keeper = Child(
                "keeper", sleep, prepare=_stay, pass_fds=(fd,), parent_death=signal.SIGKILL
            )
        finally:
            os.close(fd)
        self.children = (keeper,)

    def _look_often(self, disk: KernelDisk) -> None:
        """Have requests of a lost connection sent again soon after there is another one."""
        with suppress(OSError):  # without it the kernel does so after 30 s
            (disk.folder / "queue/io_timeout").write_text(str(REPLAY_PERIOD_MS))

    def _await_size(self, disk: KernelDisk, sectors: int, deadline: float) -> None:
        size = disk.folder / "size"
        while True:
            with suppress(OSError):
                if int(size.read_text()) == sectors and Path(self.where).is_block_device():
                    return
            if time.monotonic() > deadline:
                raise errors.DeviceError(f"{self.where} did not appear")
            time.sleep(0.01)

    def hold(self) -> None:
        """Have requests wait for the next server for as long as we live. Idempotent until there is one."""
        if self._held:
            return
        ours, theirs = stand_in()
        with theirs:
            self._replace(theirs, ours)
        self._held = True

    def reconnect(self) -> None:
        """Hand the kernel a connection to the restarted server; what was under way is sent again."""
        try:
            fresh, export = nbd_handshake.connect(
                self._address, self._timeout, name=self._export_name
            )
        except OSError as error:
            raise errors.DeviceError(f"{self.where}: {error.strerror or error}") from error
        try:
            check_same(self.where, {0: self._export}, {0: export})
        except errors.DeviceError:
            fresh.close()
            raise
        self._held = False
        self._replace(fresh, fresh)

    def _replace(self, theirs: socket.socket, ours: socket.socket) -> None:
        """Have the kernel go on with another connection; ours: what ends that.

        The kernel replaces only a connection that it knows is dead. It learns that in a worker; to an early message
        it says yes and does nothing. The sign that it did is that the one before is closed.
        """
        assert self._index is not None
        self._drop_socket()
        self._socket = ours
        deadline = time.monotonic() + REPLACING
        while True:
            self._family.request(reconnect_message(self._index, theirs.fileno()))
            if not sockets.exists(self._inode):
                break
            if time.monotonic() > deadline:
                raise errors.DeviceError(f"{self.where}: the kernel takes no other connection")
            time.sleep(0.01)
        self._inode = _inode(theirs)

    def _drop_socket(self) -> None:
        """End the connection under the kernel: it may be stuck in sending to a server that does not read."""
        if self._socket is not None:
            with self._socket, suppress(OSError):  # OSError: the server was first
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket = None

    @property
    def resumable(self) -> Self:
        return self

    def lost_server(self) -> bool:
        return False

    def close(self) -> None:
        """Disconnect, also while in use: the server is gone or goes next.

        The kernel would keep a request that has no reply, even with its connection closed; a
        disconnect fails it now.
        """
        self._drop_socket()
        index, self._index = self._index, None
        if index is not None:
            for message in (keep_while_open_message(index, False), disconnect_message(index)):
                with suppress(errors.UsrdrvError):
                    self._family.request(message)
        for disk in self.disks:
            disk.release()
        for child in self.children:
            child.kill()
            child.wait(DYING)
        for disk in self.disks:
            if index is None or disk.users():
                continue
            deadline = time.monotonic() + 5
            while (disk.folder / "pid").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
        self._family.close()
