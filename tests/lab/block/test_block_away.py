# SPDX-License-Identifier: MIT
"""Requests while there is no driver: they wait so long and no longer."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab.block.ways import EACH_WAY, NBD, USRLOOP, Served, Way, nothing_is_left
from tests.lab.helpers.kmod import wait
from tests.lab.helpers.loads import gets_on, writing
from tests.model_faults import broken, hits
from usrdrv.lab.guest import Guest
from usrdrv.lab.models import Model


@contextmanager
def no_other_driver(guest: Guest, way: Way, served: Served, program: str) -> Iterator[None]:
    """Whoever starts the driver meanwhile gets that program instead."""
    if way.export == "usrloop":
        wait(lambda: not guest.run("pgrep -x usrdrv-standby").code, 60, "standby")
    (guest.share / "instead").write_text(
        f"#!/bin/sh\n{program}\n"
        if way.export == "nbd"
        else f"import os\nos._exit(os.waitstatus_to_exitcode(os.system({program!r})))\n"
    )
    guest.run(
        "cp /share/instead /tmp/instead && chmod +x /tmp/instead && "
        f"mount --bind /tmp/instead {way.program}",
        check=True,
    )
    try:
        if way.export == "usrloop":  # the process that waits is from before
            guest.run("pkill -9 -x usrdrv-standby", check=True)
            served.says("standby was killed")
        yield
    finally:
        guest.run(f"umount {way.program}", check=True)


HANGS = ("sleep infinity", "3 s", 3)
FAILS = ("exit 4", "ended with status 4", 20)
"""A driver that cannot be started: what runs instead, what is said of it, --restart-time in seconds."""


@pytest.mark.parametrize(
    ("way", "program", "why", "patience"),
    [
        pytest.param(NBD, *HANGS, id="nbd-hangs"),
        pytest.param(NBD, *FAILS, id="nbd-fails", marks=pytest.mark.rare),
        pytest.param(USRLOOP, *HANGS, id="usrloop-hangs", marks=pytest.mark.rare),
        pytest.param(USRLOOP, *FAILS, id="usrloop-fails"),
    ],
    indirect=["way"],
)
def test_requests_wait_for_a_driver_so_long_and_no_longer(
    guest: Guest, model: Model, way: Way, program: str, why: str, patience: int
) -> None:
    """Those under way and those that come while it is away: I/O errors in time.

    One that fails has time to say so on a busy machine. The first dies with a command in the drive, and so with no
    interrupt pending, which QEMU without KVM would not forget: docs/testing.md.
    """
    served = Served(guest, way, "--restart-time", str(patience))
    device = served.device
    if way.export == "nbd":
        assert guest.run(f"cat /sys/block/{Path(device).name}/queue/io_timeout").out == "2000\n"
    with no_other_driver(guest, way, served, program):
        under_way = writing(guest, device, "4k")
        # Open before, so that on a slow machine, too, where the disk may be gone by then, it has one to write to.
        late = guest.start(
            f"rm -f /tmp/late; exec 3<>{device}; echo open; until [ -e /tmp/late ]; do sleep 0.1; done; "
            "exec dd if=/dev/zero bs=4k count=1 oflag=direct,seek_bytes seek=16M >&3"
        )
        wait(lambda: late.out or late.done.is_set(), 60, "an open disk")
        gets_on(guest, device, under_way, late, sectors=800)
        with broken(model.control, {"kind": "hang", "on": "write"}):
            wait(lambda: hits(model.control), 60, "a command that does not end")
            begun = time.monotonic()
            served.signal_driver("KILL")
        guest.run("touch /tmp/late", check=True)
        assert under_way.wait(120).code == 1 and "Input/output error" in under_way.err
        # A disk that is gone has no room, either.
        assert late.wait(120).code == 1
        assert re.search("Input/output error|No space left|No such device", late.err), late.err
        assert time.monotonic() - begun > 2.5, "restart time"
        served_result = served.job.wait(60)
    assert served_result.code == 1
    last = served_result.err.splitlines()[-1]
    assert "was killed by SIGKILL and does not come back" in last and why in last
    nothing_is_left(guest, way)


@EACH_WAY
def test_ctrl_c_while_the_driver_is_away(guest: Guest, way: Way) -> None:
    served = Served(guest, way, "--restart-time", "3600")
    with no_other_driver(guest, way, served, "sleep infinity"):
        (pid,) = guest.run(f"pgrep -x {way.process}", check=True).out.split()
        served.signal_driver("KILL")
        wait(lambda: guest.run(f"kill -0 {pid}").code == 1, 60, "its death is noticed")
        served.job.signal(signal.SIGINT)
        result = served.job.wait(120)
    assert result.code == 1 and "while its driver was down" in result.err
    nothing_is_left(guest, way)


def test_restart_can_be_declined(guest: Guest, way: Way) -> None:
    served = Served(guest, way, "--restart-time", "0")
    served.signal_driver("KILL")
    result = served.job.wait(60)
    assert result.code == 1
    assert f"{served.child} was killed by SIGKILL" in result.err
    nothing_is_left(guest, way)
