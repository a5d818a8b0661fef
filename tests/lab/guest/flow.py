# SPDX-License-Identifier: MIT
"""TCP that flows until there is a certain file; each byte is compared. Runs in guests and on the host.

flow.py serve             prints a line when it listens; has one client
flow.py send HOST FILE    to who serves, until there is that file
flow.py take HOST FILE    from who serves, until there is that file
"""

from __future__ import annotations

import random
import select
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

PORT = 7778
DATA = random.Random(1).randbytes(1_000_003)
"""Comes again and again."""


def taken(connection: socket.socket) -> Iterator[int]:
    """Take and compare what comes until its end. Yields how many bytes came."""
    total = 0
    while got := connection.recv(1 << 16):
        at = total % len(DATA)
        assert got == (DATA + DATA[: len(got)])[at : at + len(got)], f"other bytes after {total}"
        total += len(got)
        yield len(got)


def send(connection: socket.socket, over: Callable[[], bool]) -> int:
    """Send until it is over. Return how many bytes."""
    sent = 0
    while not over():
        connection.sendall(DATA)
        sent += len(DATA)
    connection.shutdown(socket.SHUT_WR)
    return sent


def serve() -> None:
    with socket.create_server(("0.0.0.0", PORT)) as server:
        print("listening", flush=True)
        connection, _ = server.accept()
    with connection:
        if connection.recv(1) == b"s":
            connection.sendall(str(sum(taken(connection))).encode())
        else:
            send(connection, lambda: bool(select.select([connection], [], [], 0)[0]))


def client(way: str, host: str, told: str) -> None:
    with socket.create_connection((host, PORT)) as connection:
        connection.sendall(way[:1].encode())
        if way == "send":
            sent = send(connection, Path(told).exists)
            answer = b""
            while got := connection.recv(100):
                answer += got
            assert int(answer) == sent, (answer, sent)
            return
        flows = True
        for _ in taken(connection):
            if flows and Path(told).exists():
                connection.shutdown(socket.SHUT_WR)
                flows = False
        assert not flows, "the other end ended it"


if __name__ == "__main__":
    way, *words = sys.argv[1:]
    if way == "serve":
        serve()
    else:
        client(way, *words)
