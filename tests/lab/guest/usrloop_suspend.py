# SPDX-License-Identifier: MIT
"""Suspend, up to its freezer, while a request of a disk of usrloop waits. Runs in a guest: the check is named."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scenario import PATIENCE, SLOWER, apart
from usrloop_power import HELD
from usrloop_rig import Ram, attach, in_flight, polled, reader, run, served, wait

from usrdrv.loop import STATES, Control, Interface, Server, lib

POWER = Path("/sys/power")
ONE = dataclasses.replace(HELD, queues=1)
SHORT, LONG = 20_000 * SLOWER, 30_000 * SLOWER
"""Milliseconds that a server has, and that suspend tries to freeze whoever waits for it."""


def suspend(patience_ms: int) -> OSError | None:
    """Suspend, but no further than to the frozen processes, and come back at once."""
    Path("/sys/module/suspend/parameters/pm_test_delay").write_text("0")
    (POWER / "pm_test").write_text("freezer")
    (POWER / "pm_freeze_timeout").write_text(str(patience_ms))
    try:
        (POWER / "state").write_text("mem")
    except OSError as error:
        return error
    return None


class Late:
    """The `result` of a server that does not answer from some time on, until it is told to."""

    def __init__(self) -> None:
        self.hold, self.answer = threading.Event(), threading.Event()

    def __call__(self, sqe: Any) -> int:
        if self.hold.is_set():
            self.answer.wait()
        return 0


def refused() -> None:
    """A request that waits has suspend refused, which harms nothing. The next try may go through."""
    late = Late()
    with served(ONE, result=late) as (control, ram, device):
        data = os.urandom(4096)
        ram.data[:4096] = data
        # The first open looks for partitions, and suspend begins with a sync, which waits for that.
        assert reader(device).wait() == 0
        late.hold.set()
        before = len(ram.ops)
        waits = reader(device)
        wait(lambda: len(ram.ops) > before, "it is asked")
        error = suspend(2000)
        assert error is not None and waits.poll() is None
        assert STATES[control.query().state] == "live"
        late.answer.set()
        assert waits.wait(PATIENCE) == 0
        assert suspend(PATIENCE * 1000) is None
        fd = os.open(device, os.O_RDONLY)
        assert os.read(fd, 4096) == data
        os.close(fd)


@contextlib.contextmanager
def asked() -> Iterator[None]:
    """A server that has a request, which it answers in the end."""
    late = Late()
    with served(dataclasses.replace(ONE, timeout_ms=SHORT), result=late) as (control, ram, device):
        assert reader(device).wait() == 0
        late.hold.set()
        before = len(ram.ops)
        waits = reader(device)
        wait(lambda: len(ram.ops) > before, "it is asked")
        yield
        assert STATES[control.query().state] == "live", "it was taken for dead"
        late.answer.set()
        assert waits.wait(PATIENCE) == 0


@contextlib.contextmanager
def left() -> Iterator[tuple[Control, subprocess.Popen[str]]]:
    """A disk whose server has gone, and a request that waits for the next one."""
    with Control() as control, Control() as first:
        number = control.create(dataclasses.replace(ONE, recovery_ms=SHORT)).id
        device = f"/dev/usrblk{number}"
        ram = Ram(Server(first, attach(first, number)))
        control.start()
        assert reader(device).wait() == 0
        control.detach()
        ram.join(PATIENCE)
        waits = reader(device)
        wait(lambda: in_flight(device), "it waits")
        yield control, waits
        control.delete(force=True)
        ram.server.close()


@contextlib.contextmanager
def forlorn() -> Iterator[None]:
    """A request that waits for the next server, which comes in the end."""
    with left() as (control, waits), Control() as second:
        yield
        assert STATES[control.query().state] == "quiesced", "its time is over"
        ram = Ram(Server(second, attach(second, control.query().id)))
        assert waits.wait(PATIENCE) == 0
        control.stop(force=True)
        ram.join(PATIENCE)
        ram.server.close()


@contextlib.contextmanager
def given_up() -> Iterator[None]:
    """A request that waits for the next server, which never comes: what was left of the time goes on."""
    with left() as (control, waits):
        yield
        assert STATES[control.query().state] == "quiesced", "its time is over"
        assert polled(control, PATIENCE * 1000) & select.POLLIN
        assert STATES[control.query().state] == "failed"
        assert waits.wait(PATIENCE)


@contextlib.contextmanager
def sent() -> Iterator[None]:
    """A packet that its server leaves alone."""
    with Control() as control, Control() as server:
        number = control.create(Interface(name="still", timeout_ms=SHORT)).id
        attach(server, number, lib.USRLOOP_NET)
        control.start()
        control.carrier(1000)
        run("ip", "link", "set", "still", "up")
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind(("still", 0))
            wire.send(bytes(60))
        assert polled(server, PATIENCE * 1000) & select.POLLIN, "it is asked"
        yield
        assert STATES[control.query().state] == "live", "it was taken for dead"


def clock() -> None:
    """The times of servers stand still while nobody can serve: here for longer than they are."""
    with given_up(), asked(), forlorn(), sent():
        assert suspend(LONG) is not None


if __name__ == "__main__":
    result = apart({"refused": refused, "clock": clock}[sys.argv[1]])
    (POWER / "pm_test").write_text("none")
    sys.exit(result or None)
