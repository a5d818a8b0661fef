# SPDX-License-Identifier: MIT
"""/dev/nbdX: the kernel's NBD client, through its generic netlink family (linux/nbd-netlink.h)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from pyroute2.netlink import (  # type: ignore[import-untyped]
    NLM_F_ACK,
    NLM_F_REQUEST,
    genlmsg,
    nla,
)
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]
from pyroute2.netlink.generic import GenericNetlinkSocket  # type: ignore[import-untyped]

from usrdrv import errors
from usrdrv.bridge import mounts, nbd_handshake
from usrdrv.bridge.process import Child

FAMILY: Final = "nbd"
VERSION: Final = 1

CMD_CONNECT: Final = 1
CMD_DISCONNECT: Final = 2
CMD_RECONFIGURE: Final = 3

CFLAG_DISCONNECT_ON_CLOSE: Final = 2

CONNECTIONS: Final = 4
COMMAND_TIMEOUT: Final = 180
"""Seconds until the kernel gives a request up: more than the driver's own recovery ever takes."""


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
    export: nbd_handshake.Export, fds: Sequence[int], index: int | None = None
) -> NbdMessage:
    """Hand sockets in the transmission phase to /dev/nbd`index`, or to any free one.

    No DEAD_CONN_TIMEOUT: a lost server is an I/O error at once, not a wait.
    """
    which = [] if index is None else [["NBD_ATTR_INDEX", index]]
    items = [["NBD_SOCK_ITEM", {"attrs": [["NBD_SOCK_FD", fd]]}] for fd in fds]
    return _message(
        CMD_CONNECT,
        [
            *which,
            ["NBD_ATTR_SIZE_BYTES", export.size],
            ["NBD_ATTR_BLOCK_SIZE_BYTES", export.minimum_block],
            ["NBD_ATTR_TIMEOUT", COMMAND_TIMEOUT],
            ["NBD_ATTR_SERVER_FLAGS", export.flags],
            ["NBD_ATTR_SOCKETS", {"attrs": items}],
        ],
    )


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


class NbdAttachment:
    """A drive as /dev/nbdX.

    We hold the device open, and the kernel disconnects it with the last close: if we are killed,
    it goes with whoever has it mounted.
    """

    children: Sequence[Child] = ()

    def __init__(self, address: str | tuple[str, int], *, timeout: float) -> None:
        self._fd = -1
        self._index: int | None = None
        self._family = _Family()
        sockets: list[socket.socket] = []
        try:
            sock, export = nbd_handshake.connect(address, timeout)
            sockets.append(sock)
            for _ in range(CONNECTIONS - 1 if export.multi_conn else 0):
                sockets.append(nbd_handshake.connect(address, timeout)[0])
            fds = [sock.fileno() for sock in sockets]
            for reply in self._family.request(connect_message(export, fds)):
                index = reply.get_attr("NBD_ATTR_INDEX")
                self._index = index if index is not None else self._index
            if self._index is None:
                raise errors.DeviceError("kernel nbd: no device number in the answer")
            self.name = f"nbd{self._index}"
            self.where = f"/dev/{self.name}"
            self._await_size(export.size // 512, time.monotonic() + timeout)
            self._fd = os.open(
                self.where, (os.O_RDONLY if export.read_only else os.O_RDWR) | os.O_CLOEXEC
            )
            # Only now: a probe by udev between connect and open would have been the last close.
            self._family.request(keep_while_open_message(self._index))
        except OSError as error:
            self.close()
            raise errors.DeviceError(f"kernel nbd: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise
        finally:
            for sock in sockets:
                sock.close()  # the kernel has its own reference

    def _await_size(self, sectors: int, deadline: float) -> None:
        size = Path(f"/sys/block/{self.name}/size")
        while True:
            with suppress(OSError):
                if int(size.read_text()) == sectors and Path(self.where).is_block_device():
                    return
            if time.monotonic() > deadline:
                raise errors.DeviceError(f"{self.where} did not appear")
            time.sleep(0.01)

    def users(self) -> list[str]:
        return mounts.users(self.name)

    def sync(self) -> None:
        os.fsync(self._fd)

    def close(self) -> None:
        """Disconnect, also while in use: the server is gone or goes next.

        The kernel would keep a request that has no reply yet for COMMAND_TIMEOUT, even with its
        connections closed; a disconnect fails it now.
        """
        index, self._index = self._index, None
        if index is not None:
            for message in (keep_while_open_message(index, False), disconnect_message(index)):
                with suppress(errors.UsrdrvError):
                    self._family.request(message)
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)
        if index is not None and not self.users():
            deadline = time.monotonic() + 5
            while Path(f"/sys/block/nbd{index}/pid").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
        self._family.close()
