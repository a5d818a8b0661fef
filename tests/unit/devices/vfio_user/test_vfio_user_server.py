# SPDX-License-Identifier: MIT
"""The vfio-user server and its clients: who is served, who is not, and how it ends."""

import errno
import socket
import struct
import subprocess
import time
from pathlib import Path

import pytest

from tests.files import ROOT
from tests.unit.devices.vfio_user.vfio_user_peer import (
    CONFIG,
    READ,
    VERSION,
    Peer,
    serving,
)
from tests.waiting import PATIENCE, at_best, until
from usrdrv.base import errors
from usrdrv.base.sockets import listen
from usrdrv.devices import models
from usrdrv.devices.vfio_user.server import Server


def test_nothing_works_before_the_greeting(served: Path) -> None:
    peer = Peer(served, greet=False)
    assert peer.ask(READ, struct.pack("<QII", 0, 7, 4))[0] == errno.EINVAL
    assert peer.ask(VERSION, struct.pack("<HH", 1, 0))[0] == errno.EINVAL
    assert peer.ask(VERSION, struct.pack("<HH", 0, 0) + b"{}")[0] == errno.EINVAL  # no NUL
    assert peer.ask(VERSION, struct.pack("<HH", 0, 0))[0] == 0
    assert peer.alive()
    peer.close()


@pytest.mark.parametrize("size", [0, 15, 2**32 - 1, 2**24])
def test_broken_framing_ends_the_connection_only(served: Path, size: int) -> None:
    peer = Peer(served)
    peer.sock.sendall(struct.pack("<HHIII", 1, READ, size, 0, 0))
    assert peer.sock.recv(1) == b""
    peer.close()
    again = Peer(served)
    assert again.alive()
    again.close()


def next_peer(path: Path) -> Peer:
    """A client, once the server has noticed that the last one left."""

    def greeted() -> Peer | None:
        peer = Peer(path, greet=False)
        if peer.ask(VERSION, struct.pack("<HH", 0, 0) + b"{}\0")[0] == 0:
            return peer
        peer.close()
        return None

    found = until(greeted, "the server is free")
    assert found is not None
    return found


def test_a_second_client_is_told_that_the_first_is_there(served: Path) -> None:
    first = Peer(served)
    second = Peer(served, greet=False)
    assert second.ask(VERSION, struct.pack("<HH", 0, 0) + b"{}\0")[0] == errno.EBUSY
    assert first.alive()
    first.close()
    second.close()
    third = next_peer(served)
    assert third.alive()
    third.close()


def test_a_client_that_leaves_resets_the_device(served: Path) -> None:
    peer = Peer(served)
    assert peer.write(CONFIG, 4, b"\x07\x00") == 0
    peer.close()
    peer = next_peer(served)
    assert peer.read(CONFIG, 4, 2) == (0, b"\0\0")
    peer.close()


def test_only_a_client_ends_a_server_for_one(tmp_path: Path) -> None:
    """Somebody who only tries whether the socket is taken is none."""
    with serving(tmp_path / "s", once=True) as thread:
        thread.start()
        with pytest.raises(errors.DeviceBusyError):
            listen(tmp_path / "s")
        time.sleep(0.1)  # nothing is to happen
        assert thread.is_alive()
        Peer(tmp_path / "s").close()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_a_silent_second_client_holds_nobody_up(served: Path) -> None:
    """It is answered before the server loses its patience with those that say nothing."""

    def answered_first() -> bool:
        first = Peer(served)
        silent = [Peer(served, greet=False) for _ in range(3)]
        assert first.alive()
        for peer in silent:
            peer.sock.setblocking(False)
        waiting = [waits(peer) for peer in silent]
        for peer in [first, *silent]:
            peer.close()
        return all(waiting)

    at_best(answered_first, bool, "answered while others are silent")


def waits(peer: Peer) -> bool:
    """Whether the server has not hung up on it."""
    try:
        peer.sock.recv(1)
    except BlockingIOError:
        return True
    return False


def test_a_client_that_does_not_read_is_dropped(served: Path) -> None:
    """Its replies fill the socket; the server waits a few seconds and then serves the next one."""
    peer = Peer(served)
    peer.sock.setblocking(False)
    message = struct.pack("<HHIIIQII", 7, READ, 32, 0, 0, 0, 7, 256)

    def dropped() -> bool:
        try:
            peer.sock.send(message * 100)
        except BlockingIOError:
            time.sleep(0.05)  # and again
        except OSError:
            return True
        return False

    until(dropped, "it is dropped")
    peer.close()
    again = next_peer(served)
    assert again.alive()
    again.close()


def test_a_client_that_hardly_reads_does_not_keep_a_server_from_ending(tmp_path: Path) -> None:
    message = struct.pack("<HHIIIQII", 7, READ, 32, 0, 0, 0, 7, 256)

    def end() -> float:
        """How long the end takes of a server that waits for such a client."""
        with serving(tmp_path / "s") as thread:
            thread.start()
            peer = Peer(tmp_path / "s")
            peer.sock.setblocking(False)
            stuck = 0
            while stuck < 5:
                try:
                    peer.sock.send(message * 100)
                    stuck = 0
                except BlockingIOError:
                    stuck += 1
                    time.sleep(0.05)  # and again
            started = time.monotonic()
        peer.close()
        return time.monotonic() - started

    # The server has five seconds of patience with such a client while it serves.
    at_best(end, lambda seconds: seconds < 2, "its end, in seconds")


@pytest.mark.parametrize("make", ["long", "folder", "file", "taken"])
def test_a_bad_socket_path_is_named(tmp_path: Path, make: str, served: Path) -> None:
    path = {
        "long": tmp_path / ("x" * 120),
        "folder": tmp_path / "none" / "s",
        "file": tmp_path / "f",
        "taken": served,
    }[make]
    (tmp_path / "f").write_text("")
    with models.create("cmd680", "ram=1M") as model:
        with pytest.raises(errors.UsrdrvError, match=str(path)):
            Server(model.pointer, path)
    assert served.exists()


def test_what_a_killed_server_left_is_replaced(tmp_path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / "s"))
    stale.close()
    with models.create("cmd680", "ram=1M") as model, Server(model.pointer, tmp_path / "s"):
        assert (tmp_path / "s").is_socket()
    assert not (tmp_path / "s").exists()


def test_the_socket_of_another_server_stays(tmp_path: Path) -> None:
    """Somebody has removed ours, and another server has its path."""
    path = tmp_path / "s"
    with models.create("cmd680", "ram=1M") as model, Server(model.pointer, path) as server:
        path.unlink()
        with models.create("cmd680", "ram=1M") as second, Server(second.pointer, path):
            server.close()
            assert path.is_socket()
        assert not path.exists()


def test_a_client_that_fills_its_eventfd_at_the_last_moment_is_not_waited_for(
    tmp_path: Path,
) -> None:
    program = tmp_path / "full_eventfd"
    subprocess.run(
        [
            *("gcc", "-g", "-std=gnu11", "-Wall", "-Werror", "-Dpoll=played_poll", "-o", program),
            *(f"-I{ROOT / folder}" for folder in ("usrdrv/include", "devices")),
            ROOT / "tests/fuzz/full_eventfd.c",
            *(ROOT / f"devices/{part}.c" for part in ("vfio_user/irq", "base/peer_signal")),
            "-lpthread",
        ],
        check=True,
    )
    done = subprocess.run([program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, int(done.stdout)) == (0, 400)
