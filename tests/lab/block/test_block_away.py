# SPDX-License-Identifier: MIT
"""Requests while there is no driver: they wait so long and no longer."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from disks import sectors_written
from kmod import wait
from model_faults import broken, hits
from ways import Served, Way, nothing_is_left

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
            wait(lambda: "standby was killed" in served.job.err, 60, "its death")
        yield
    finally:
        guest.run(f"umount {way.program}", check=True)


@pytest.mark.parametrize(
    ("program", "why"),
    [("sleep 1000", "3 s"), ("exit 4", "ended with status 4")],
    ids=["hangs", "fails"],
)
def test_requests_wait_for_a_driver_so_long_and_no_longer(
    guest: Guest, model: Model, way: Way, program: str, why: str
) -> None:
    """Those under way and those that come while it is away: I/O errors in time.

    It dies with a command in the drive, and so with no interrupt pending, which QEMU without KVM would not
    forget: docs/testing.md.
    """
    served = Served(guest, way, "--restart-time", "3")
    device = served.device
    if way.export == "nbd":
        assert guest.run(f"cat /sys/block/{Path(device).name}/queue/io_timeout").out == "2000\n"
    with no_other_driver(guest, way, served, program):
        dd = f"dd if=/dev/zero of={device} bs=4k oflag=direct seek=%d"
        before = sectors_written(guest, device)
        under_way = guest.start(dd % 0)
        wait(lambda: sectors_written(guest, device) > before + 800, 60, "I/O before the kill")
        with broken(model.control, {"kind": "hang", "on": "write"}):
            wait(lambda: hits(model.control), 60, "a command that does not end")
            begun = time.monotonic()
            served.signal_driver("KILL")
        late = guest.start(dd % 4096)
        for job in (under_way, late):
            result = job.wait(120)
            assert result.code == 1 and "Input/output error" in result.err
        assert time.monotonic() - begun > 2.5, "restart time"
        served_result = served.job.wait(60)
    assert served_result.code == 1
    last = served_result.err.splitlines()[-1]
    assert "was killed by SIGKILL and does not come back" in last and why in last
    nothing_is_left(guest, way)


def test_ctrl_c_while_the_driver_is_away(guest: Guest, way: Way) -> None:
    served = Served(guest, way)
    with no_other_driver(guest, way, served, "sleep 1000"):
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
