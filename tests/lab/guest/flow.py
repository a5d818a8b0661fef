# SPDX-License-Identifier: MIT
"""Runs in a guest: TCP that flows until there is a certain file, and of which every byte is compared.

flow.py take             prints a line when it listens; takes one connection to its end
flow.py send HOST FILE   until there is that file
"""

from __future__ import annotations

import random
import socket
import sys
from pathlib import Path

PORT = 7778
DATA = random.Random(1).randbytes(1_000_003)
"""Comes again and again."""


def take() -> None:
    with socket.create_server(("0.0.0.0", PORT)) as server:
        print("listening", flush=True)
        connection, _ = server.accept()
    taken = 0
    while got := connection.recv(1 << 16):
        at = taken % len(DATA)
        assert got == (DATA + DATA[: len(got)])[at : at + len(got)], f"other bytes after {taken}"
        taken += len(got)
    connection.sendall(str(taken).encode())
    connection.close()


def send(host: str, told: str) -> None:
    with socket.create_connection((host, PORT)) as connection:
        sent = 0
        while not Path(told).exists():
            connection.sendall(DATA)
            sent += len(DATA)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while got := connection.recv(100):
            answer += got
    assert int(answer) == sent, (answer, sent)


if __name__ == "__main__":
    if sys.argv[1] == "take":
        take()
    else:
        send(*sys.argv[2:])
