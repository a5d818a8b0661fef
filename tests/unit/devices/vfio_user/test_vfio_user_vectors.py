# SPDX-License-Identifier: MIT
"""MSI and MSI-X of the vfio-user server, message by message."""

import errno
import os
import select
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.irq_model import LEVEL, MESSAGE, descriptors, irq_model, serving
from tests.unit.devices.vfio_user.vfio_user_peer import IRQ_INFO, RESET, SET_IRQS, Peer
from tests.waiting import until

INTX, MSI, MSIX = range(3)
CONNECT, DISABLE, TEST, TEST_SOME, MASK, UNMASK = 0x24, 0x21, 0x21, 0x22, 0x09, 0x11


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    with irq_model() as model, serving(model, tmp_path / "s"):
        peer = Peer(tmp_path / "s")
        yield peer
        peer.close()


@pytest.fixture
def eventfds() -> Iterator[list[int]]:
    fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(8)]
    yield fds
    for fd in fds:
        os.close(fd)


def set_irqs(
    peer: Peer, flags: int, index: int, start: int, count: int, fds: list[int], data: bytes = b""
) -> int:
    payload = struct.pack("<IIIII", 20 + len(data), flags, index, start, count) + data
    return peer.ask(SET_IRQS, payload, fds=tuple(fds))[0]


def connect(peer: Peer, index: int, start: int, fds: list[int]) -> int:
    return set_irqs(peer, CONNECT, index, start, len(fds), fds)


def send(peer: Peer, vector: int) -> None:
    assert peer.write(0, MESSAGE, struct.pack("<I", vector)) == 0


def came(fds: list[int]) -> list[int]:
    """How often each was signalled."""
    ready = select.select(fds, [], [], 0)[0]
    return [os.eventfd_read(fd) if fd in ready else 0 for fd in fds]


def test_information(peer: Peer) -> None:
    infos = []
    for index in range(5):
        code, payload = peer.ask(IRQ_INFO, struct.pack("<IIII", 16, 0, index, 0))
        assert code == 0
        infos.append(struct.unpack("<IIII", payload)[1:])
    assert infos == [(7, 0, 1), (1, 1, 4), (1, 2, 20), (0, 3, 0), (0, 4, 0)]


def test_ranges_are_connected_and_taken_away_one_by_one(peer: Peer, eventfds: list[int]) -> None:
    assert connect(peer, MSIX, 12, eventfds) == 0
    assert connect(peer, MSIX, 0, eventfds[:1]) == 0
    for vector in (0, 12, 19, 19):
        send(peer, vector)
    assert came(eventfds) == [2, 0, 0, 0, 0, 0, 0, 2]
    # a message without eventfds takes away, as QEMU says it
    assert set_irqs(peer, CONNECT, MSIX, 13, 7, []) == 0
    for vector in (0, 12, 19):
        send(peer, vector)
    assert came(eventfds) == [2, 0, 0, 0, 0, 0, 0, 0]
    assert connect(peer, MSIX, 17, eventfds[:3]) == 0
    assert came(eventfds) == [0, 0, 1, 0, 0, 0, 0, 0], "it has waited"
    assert set_irqs(peer, DISABLE, MSIX, 0, 0, []) == 0
    for vector in range(20):
        send(peer, vector)
    assert came(eventfds) == [0] * 8


def test_a_client_tries_its_eventfds(peer: Peer, eventfds: list[int]) -> None:
    assert connect(peer, MSI, 0, eventfds[:4]) == 0
    assert set_irqs(peer, TEST, MSI, 1, 3, []) == 0
    assert came(eventfds[:4]) == [0, 1, 1, 1]
    assert set_irqs(peer, TEST_SOME, MSI, 0, 4, [], b"\x01\x00\x00\x02") == 0
    assert came(eventfds[:4]) == [1, 0, 0, 1]


def test_one_kind_at_a_time(peer: Peer, eventfds: list[int]) -> None:
    assert connect(peer, INTX, 0, eventfds[:1]) == 0
    for index in (MSI, MSIX):
        assert connect(peer, index, 0, eventfds[1:2]) == errno.EINVAL
        assert set_irqs(peer, CONNECT, index, 0, 1, []) == errno.EINVAL
        assert set_irqs(peer, DISABLE, index, 0, 0, []) == 0, "nothing to do"
    assert peer.write(0, LEVEL, b"\x01\0\0\0") == 0
    assert came(eventfds) == [1, 0, 0, 0, 0, 0, 0, 0]
    assert set_irqs(peer, DISABLE, INTX, 0, 0, []) == 0
    assert connect(peer, MSIX, 0, eventfds[1:2]) == 0
    assert connect(peer, INTX, 0, eventfds[:1]) == errno.EINVAL
    assert connect(peer, MSI, 0, eventfds[:1]) == errno.EINVAL
    send(peer, 0)
    assert came(eventfds) == [0, 1, 0, 0, 0, 0, 0, 0]


BAD = {
    "beyond the last": (CONNECT, MSIX, 19, 2, 2, b"", errno.EINVAL),
    "far beyond the last": (CONNECT, MSIX, 2**32 - 1, 2, 2, b"", errno.EINVAL),
    "too many": (DISABLE, MSIX, 0, 2**32 - 1, 0, b"", errno.EINVAL),
    "too few eventfds": (CONNECT, MSIX, 0, 3, 2, b"", errno.EINVAL),
    "too many eventfds": (CONNECT, MSIX, 0, 2, 3, b"", errno.EINVAL),
    "an eventfd for nobody": (CONNECT, MSIX, 20, 0, 1, b"", 0),
    "5 MSI": (CONNECT, MSI, 0, 5, 5, b"", errno.EINVAL),
    "2 lines": (CONNECT, INTX, 0, 2, 2, b"", errno.EINVAL),
    "an error interrupt": (CONNECT, 3, 0, 1, 1, b"", errno.EINVAL),
    "no error interrupts": (DISABLE, 3, 0, 0, 0, b"", errno.EINVAL),
    "masked": (MASK, MSIX, 0, 1, 0, b"", errno.EOPNOTSUPP),
    "unmasked": (UNMASK, MSI, 0, 1, 0, b"", errno.EOPNOTSUPP),
    "too little data": (TEST_SOME, MSIX, 0, 20, 0, bytes(19), errno.EINVAL),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_message_changes_nothing(peer: Peer, eventfds: list[int], case: str) -> None:
    flags, index, start, count, fds, data, code = BAD[case]
    before = descriptors()
    assert set_irqs(peer, flags, index, start, count, eventfds[:fds], data) == code
    until(lambda: descriptors() == before, "the server has closed what it did not use")
    assert connect(peer, MSIX, 0, eventfds[:3]) == 0, "nothing is connected"
    for vector in (0, 2):
        send(peer, vector)
    assert came(eventfds) == [1, 0, 1, 0, 0, 0, 0, 0]


def test_what_is_no_eventfd_spoils_its_message(peer: Peer, eventfds: list[int]) -> None:
    """And none of its eventfds is kept."""
    assert connect(peer, MSIX, 0, eventfds[:3]) == 0
    ends = os.pipe()
    before = descriptors()
    assert connect(peer, MSIX, 0, [*eventfds[3:5], ends[1]]) == errno.EINVAL
    assert descriptors() == before
    for vector in range(3):
        send(peer, vector)
    assert came(eventfds) == [1, 1, 1, 0, 0, 0, 0, 0]
    for fd in ends:
        os.close(fd)


def test_a_message_that_has_lost_descriptors_is_refused(peer: Peer, eventfds: list[int]) -> None:
    """More than the server takes, or more than it has room for: none of them counts, and the next message does."""
    before = descriptors()
    assert connect(peer, MSIX, 0, [*eventfds, *eventfds]) == errno.EMFILE
    assert descriptors() == before
    assert connect(peer, MSIX, 0, eventfds) == 0
    send(peer, 7)
    assert came(eventfds) == [0, 0, 0, 0, 0, 0, 0, 1]


def test_no_message_is_refused_for_what_another_has_lost(peer: Peer, eventfds: list[int]) -> None:
    """The first comes in two pieces, the second behind it."""
    payload = struct.pack("<IIIII", 20, DISABLE, MSIX, 0, 0)
    first, second = (struct.pack("<HHIII", n, SET_IRQS, 36, 0, 0) + payload for n in (1, 2))
    socket.send_fds(peer.sock, [first[:20]], [*eventfds, *eventfds])
    peer.sock.sendall(first[20:] + second)
    for number, code in ((1, errno.EMFILE), (2, 0)):
        peer.id = number
        assert peer.receive()[0] == code


def test_a_full_eventfd_makes_nobody_wait(peer: Peer, eventfds: list[int]) -> None:
    os.eventfd_write(eventfds[0], 2**64 - 2)
    os.set_blocking(eventfds[0], True)
    assert connect(peer, MSIX, 0, eventfds[:2]) == 0
    for vector in (0, 0, 1):
        send(peer, vector)
    assert came(eventfds[1:2]) == [1]


def test_a_reset_forgets_what_waits(peer: Peer, eventfds: list[int]) -> None:
    for vector in range(3):
        send(peer, vector)
    assert peer.ask(RESET)[0] == 0
    send(peer, 1)
    assert connect(peer, MSIX, 0, eventfds[:3]) == 0
    assert came(eventfds[:3]) == [0, 1, 0]


def test_the_next_client_has_none_of_the_last_ones(tmp_path: Path, eventfds: list[int]) -> None:
    path = tmp_path / "s"
    with irq_model() as model, serving(model, path):
        before = descriptors()
        first = Peer(path)
        assert connect(first, MSIX, 0, eventfds) == 0
        send(first, 8)
        first.close()
        until(lambda: descriptors() == before, "its eventfds are closed")
        second = Peer(path)
        assert connect(second, MSI, 0, eventfds[:1]) == 0, "another kind"
        assert set_irqs(second, DISABLE, MSI, 0, 0, []) == 0
        assert connect(second, MSIX, 8, eventfds[:1]) == 0
        send(second, 0)
        assert came(eventfds) == [0] * 8
        second.close()
