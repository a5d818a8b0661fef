# SPDX-License-Identifier: MIT
"""What we say to the kernel's nbd family, byte by byte (linux/nbd-netlink.h), and the handshake."""

import os
import select
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tests.waiting import PATIENCE
from usrdrv import mounts
from usrdrv.base import errors
from usrdrv.bridge.block import nbd_client, nbd_handshake
from usrdrv.bridge.block.nbd_handshake import Export


def attributes(data: bytes) -> list[tuple[int, bytes]]:
    """Decode netlink attributes without any help of pyroute2."""
    found = []
    while data:
        length, kind = struct.unpack_from("=HH", data)
        assert length >= 4
        found.append((kind & 0x3FFF, data[4:length]))
        data = data[(length + 3) & ~3 :]
    return found


def encoded(message: nbd_client.NbdMessage) -> tuple[int, int, list[tuple[int, bytes]]]:
    message.encode()
    data = bytes(message.data)
    assert struct.unpack_from("=I", data)[0] == len(data)
    command, version = data[16], data[17]
    return command, version, attributes(data[20:])


def test_connect_message() -> None:
    command, version, found = encoded(
        nbd_client.connect_message(Export(1 << 40, 0x1FD, 512), 7, 60, index=3)
    )
    assert (command, version) == (1, 1)
    plain = {kind: int.from_bytes(value, "little") for kind, value in found if kind != 7}
    assert plain == {1: 3, 2: 1 << 40, 3: 512, 4: 0, 5: 0x1FD, 8: 60}
    assert {kind: len(value) for kind, value in found if kind != 7} == {
        1: 4,
        2: 8,
        3: 8,
        4: 8,
        5: 8,
        8: 8,
    }
    (sockets,) = [value for kind, value in found if kind == 7]
    items = attributes(sockets)
    assert [kind for kind, _ in items] == [1]
    assert [attributes(value) for _, value in items] == [[(1, struct.pack("=I", 7))]]


def test_any_free_device_is_no_index() -> None:
    _, _, found = encoded(nbd_client.connect_message(Export(512, 0), 4, 0))
    assert 1 not in [kind for kind, _ in found]


def test_a_new_connection_for_a_lost_one() -> None:
    command, _, found = encoded(nbd_client.reconnect_message(2, 9))
    assert command == 3 and [kind for kind, _ in found] == [1, 7]
    assert attributes(attributes(found[1][1])[0][1]) == [(1, struct.pack("=I", 9))]


def test_disconnect_and_reconfigure() -> None:
    assert encoded(nbd_client.disconnect_message(2)) == (2, 1, [(1, struct.pack("=I", 2))])
    assert encoded(nbd_client.keep_while_open_message(2)) == (
        3,
        1,
        [(1, struct.pack("=I", 2)), (6, struct.pack("=Q", 2))],
    )


def test_a_kernel_without_the_family_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nbd_client, "FAMILY", "no-such-family")
    with pytest.raises(errors.MissingToolError, match="CONFIG_BLK_DEV_NBD"):
        nbd_client.NbdAttachment("/nonexistent", timeout=1)


GREETING = struct.pack(">QQH", 0x4E42444D41474943, 0x49484156454F5054, 3)


def reply(kind: int, data: bytes = b"", *, magic: int = 0x3E889045565A9, option: int = 7) -> bytes:
    return struct.pack(">QIII", magic, option, kind, len(data)) + data


def info_export(size: int, flags: int) -> bytes:
    return reply(3, struct.pack(">HQH", 0, size, flags))


def talk(answer: bytes, name: str = "") -> tuple[Export, bytes]:
    """Negotiate with a server that says `answer`; return the result and what it heard."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(PATIENCE)
        theirs.sendall(answer)
        theirs.shutdown(socket.SHUT_WR)
        export = nbd_handshake.negotiate(ours, name)
        return export, theirs.recv(4096)


def test_handshake() -> None:
    export, heard = talk(
        GREETING
        + info_export(1 << 33, 0x103)
        + reply(3, struct.pack(">HIII", 3, 4096, 4096, 1 << 25))
        + reply(3, b"\0\x63unknown")
        + reply(3, b"\0\2a drive")
        + reply(1),
        "a",
    )
    assert export == Export(1 << 33, 0x103, 4096, "a drive")
    assert export.read_only
    assert heard == struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(
        ">IIIsHHH", 7, 11, 1, b"a", 2, 2, 3
    )


def listed(answer: bytes) -> list[str]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(PATIENCE)
        theirs.sendall(GREETING + answer)
        return nbd_handshake.list_names(ours)


def test_exports_are_listed() -> None:
    def server(data: bytes) -> bytes:
        return reply(2, data, option=3)

    end = reply(1, option=3)
    assert listed(server(b"\0\0\0\1a") + server(b"\0\0\0\2bcrest") + end) == ["a", "bc"]
    for bad in (server(b"\0\0\0\2a"), server(b"\0"), reply(3, b"\0\0\0\0", option=3), reply(1)):
        with pytest.raises(errors.DeviceError, match="bad NBD option reply"):
            listed(bad)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "closed"),
        (GREETING[:10], "closed"),
        (b"x" * 18, "fixed newstyle"),
        (struct.pack(">QQH", 0x4E42444D41474943, 0x49484156454F5054, 0), "fixed newstyle"),
        (GREETING + reply(1), "did not say the size"),
        (GREETING + reply(3, b"\0"), "bad NBD option reply"),
        (GREETING + reply(77), "bad NBD option reply"),
        (GREETING + reply(1, magic=1), "bad NBD option reply"),
        (GREETING + reply(1, option=1), "bad NBD option reply"),
        (GREETING + struct.pack(">QIII", 0x3E889045565A9, 7, 3, 1 << 30), "bad NBD option reply"),
        (GREETING + reply(1 << 31 | 6, b"unknown export"), "refuses the export: unknown export"),
    ],
)
def test_handshake_with_a_bad_server(answer: bytes, message: str) -> None:
    with pytest.raises(errors.DeviceError, match=message):
        talk(answer)


def test_handshake_with_a_silent_server_times_out(tmp_path: object) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(TimeoutError):
            nbd_handshake.connect(listener.getsockname(), 0.1)


def test_a_silent_server_is_not_waited_for_when_there_is_no_time() -> None:
    """So nbdkit is while its plugin opens a device: it takes nobody in."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(InterruptedError):
            nbd_handshake.connect(listener.getsockname(), 60, lambda: True)


def test_disconnect_says_so() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        nbd_handshake.disconnect(ours)
        assert theirs.recv(100) == struct.pack(">IHHQQI", 0x25609513, 0, 2, 0, 0, 0)


def ended(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLHUP)
    return bool(poll.poll(0))


class FakeKernel:
    """Stands in for the nbd family: writes down what it is asked, in turn with `open`; has its connection open.

    blind: so many messages come before it has seen that its connection ended. To these it says yes.
    """

    index: int | None = 5

    def __init__(self) -> None:
        self.log: list[str] = []
        self.closed = False
        self.blind = 0
        self.patience: int | None = None
        self.connection: socket.socket | None = None

    def request(self, message: nbd_client.NbdMessage) -> list[Any]:
        said = {1: "connect", 2: "disconnect", 3: "keep while open"}[message["cmd"]]
        flags = dict(message["attrs"]).get("NBD_ATTR_CLIENT_FLAGS")
        sockets = "NBD_ATTR_SOCKETS" in dict(message["attrs"])
        if message["cmd"] == 3 and sockets:
            said = "reconnect"
        self.log.append("keep on" if flags == 0 else said)
        if sockets:
            fds = [
                item[1]["attrs"][0][1]
                for item in dict(message["attrs"])["NBD_ATTR_SOCKETS"]["attrs"]
            ]
            assert len(set(fds)) == len(fds)
            self.log.append(f"{len(fds)} sockets")
            self.take(*fds)
        self.patience = dict(message["attrs"]).get("NBD_ATTR_DEAD_CONN_TIMEOUT", self.patience)
        reply = nbd_client.NbdMessage()
        reply["attrs"] = [("NBD_ATTR_INDEX", self.index)] if self.index is not None else []
        return [reply]

    def take(self, fd: int) -> None:
        if self.connection is not None:
            if self.blind:
                self.blind -= 1
                return
            assert ended(self.connection)
            self.connection.close()
        self.connection = socket.socket(fileno=os.dup(fd))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKernel]:
    kernel = FakeKernel()
    monkeypatch.setattr(nbd_client, "_Family", lambda: kernel)
    monkeypatch.setattr(
        nbd_client.NbdAttachment, "_await_size", lambda self, disk, sectors, deadline: None
    )
    monkeypatch.setattr(
        nbd_handshake,
        "connect",
        lambda address, timeout, name: (socket.socketpair()[0], Export(1 << 20, kernel_flags)),
    )
    real_open = os.open

    def open_node(path: str, flags: int, *rest: Any) -> int:
        if not str(path).startswith("/dev/nbd"):
            return real_open(path, flags, *rest)
        kernel.log.append(f"open {path} {'rw' if flags & os.O_RDWR else 'ro'}")
        return real_open("/dev/null", flags)

    monkeypatch.setattr(os, "open", open_node)
    yield kernel
    if kernel.connection is not None:
        kernel.connection.close()


kernel_flags = 0x101


def test_attach_and_detach(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    attachment = nbd_client.NbdAttachment("/s", timeout=1)
    assert attachment.where == "/dev/nbd5"
    assert kernel.log == ["connect", "1 sockets", "open /dev/nbd5 rw", "keep while open"]
    attachment.close()
    assert kernel.log[4:] == ["keep on", "disconnect"]
    assert kernel.closed


def test_reconnect(kernel: FakeKernel) -> None:
    attachment = nbd_client.NbdAttachment("/s", timeout=1, patience=60)
    attachment.reconnect()
    assert kernel.log[4:] == ["reconnect", "1 sockets"]
    attachment.close()


def test_a_kernel_that_has_not_seen_the_end_of_a_connection_is_asked_again(
    kernel: FakeKernel,
) -> None:
    """It says yes and does nothing."""
    attachment = nbd_client.NbdAttachment("/s", timeout=1, patience=60)
    before, kernel.blind = kernel.connection, 3
    attachment.reconnect()
    assert kernel.log[4:] == ["reconnect", "1 sockets"] * 4
    assert kernel.connection is not before
    attachment.close()


def test_the_kernel_is_patient_only_while_somebody_is_there(kernel: FakeKernel) -> None:
    """A stand-in takes nothing, until there is another server."""
    for patience, told in ((3600, nbd_client.ORPHANED), (5, 5), (0, 0)):
        nbd_client.NbdAttachment("/s", timeout=1, patience=patience).close()
        assert kernel.patience == told
    attachment = nbd_client.NbdAttachment("/s", timeout=1, patience=3600)
    kernel.log.clear()
    attachment.hold()
    attachment.hold()
    assert kernel.log == ["reconnect", "1 sockets"], "once"
    assert kernel.connection is not None
    with pytest.raises(BlockingIOError):
        kernel.connection.send(bytes(28), socket.MSG_DONTWAIT)
    attachment.reconnect()
    assert kernel.log[2:] == ["reconnect", "1 sockets"]
    attachment.hold()
    assert kernel.log[4:] == ["reconnect", "1 sockets"], "again"
    attachment.close()
    assert ended(kernel.connection)


def test_detach_while_in_use_fails_what_is_under_way(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    attachment = nbd_client.NbdAttachment("/s", timeout=1)
    monkeypatch.setattr(mounts, "users", lambda name: ["/mnt"])
    attachment.close()
    assert kernel.log[4:] == ["keep on", "disconnect"]
    assert kernel.closed


def test_failed_attach_is_undone(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(errors.DeviceError, match="Permission denied"):
        nbd_client.NbdAttachment("/s", timeout=1)
    assert kernel.log[-1] == "disconnect"
    assert kernel.closed


def test_kernel_without_an_answer(kernel: FakeKernel) -> None:
    kernel.index = None
    with pytest.raises(errors.DeviceError, match="no device number"):
        nbd_client.NbdAttachment("/s", timeout=1)
    assert kernel.closed
