# SPDX-License-Identifier: MIT
"""Checks of usrloop: processors that go offline. Run in a guest (usrloop_calls.py)."""

from __future__ import annotations

import select
from pathlib import Path

from scenario import PATIENCE
from usrloop_rig import SIZE, Ram, attach, check, in_flight, polled, reader, wait

from usrdrv.loop import STATES, Control, Disk, Server

CPU = Path("/sys/devices/system/cpu/cpu1/online")
HELD = Disk(SIZE, max_io=16 << 10, depth=8, queues=2, policy="queue", recovery_ms=0)


@check
def a_processor_goes_offline_while_its_queues_requests_wait() -> None:
    """Also without a server, when they wait until there is one."""
    with Control() as control, Control() as first, Control() as second:
        number = control.create(HELD).id
        attach(first, number)
        control.start()
        device = f"/dev/usrblk{number}"
        waits = reader(device, "taskset", "-c", "1")
        try:
            assert polled(first, PATIENCE * 1000) & select.POLLIN
            first.close()
            wait(lambda: STATES[control.query().state] == "quiesced", "its server is gone")
            # That for a partition table failed with its server; the next one waits for another.
            wait(lambda: in_flight(device), "a request waits")
            CPU.write_text("0")
            assert waits.poll() is None and in_flight(device), "it waits as before"
            server = Server(second, attach(second, number))
            rams = [Ram(server), Ram(server, queue=1)]
            assert waits.wait(PATIENCE) == 0
        finally:
            CPU.write_text("1")
            control.delete(force=True)
        for ram in rams:
            ram.join(PATIENCE)
        server.close()
