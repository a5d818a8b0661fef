# SPDX-License-Identifier: MIT
"""What killed processes leave in the run directory."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from usrdrv.base.sockets import remover, sweep

DEAD = 1 << 22
"""No process has this number: it is Linux's PID_MAX_LIMIT."""


def left(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen(1)


def test_what_another_server_has_put_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    left(path)
    remove = remover(path)
    path.rename(tmp_path / "old")
    left(path)
    remove()
    assert path.is_socket()
    path.unlink()
    remove()
    (tmp_path / "old").rename(path)
    remove()
    assert not list(tmp_path.iterdir())


def test_only_what_nobody_answers_goes(tmp_path: Path) -> None:
    gone = [tmp_path / f"{what}-{DEAD}.sock" for what in ("net", "block")]
    kept = [tmp_path / f"net-{os.getpid()}.sock", tmp_path / "net-x.sock", tmp_path / "disk.sock"]
    for path in gone + kept:
        left(path)
    text = tmp_path / f"text-{DEAD}.sock"
    text.write_text("no socket")
    answered = tmp_path / f"far-{DEAD}.sock"  # by a process of another container
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(answered))
        server.listen(1)
        sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([*kept, text, answered])
