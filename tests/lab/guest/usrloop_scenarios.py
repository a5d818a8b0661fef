# SPDX-License-Identifier: MIT
"""Checks of usrloop, continued: a scenario that fails, or does not end, leaves nothing to the next one."""

from __future__ import annotations

import os
import threading

from scenario import apart
from usrloop_rig import SMALL, check, no_device, sysfs, wait

from usrdrv.loop import Control, Server


def waits_for_itself() -> None:
    """A disk without an answer, and a client in the same process, which no signal ends as long as it waits."""
    control = Control()
    number = control.create(SMALL).id
    device = f"/dev/usrblk{number}"
    kept.append(Server(control, control.attach()))
    control.start()
    threading.Thread(target=os.open, args=(device, os.O_RDONLY)).start()
    wait(lambda: sysfs(device, "stat").split()[8] != "0", "a read of the first open")


kept: list[Server] = []


@check
def a_scenario_that_fails_leaves_nothing() -> None:
    def fails() -> None:
        waits_for_itself()
        raise AssertionError("as intended")

    said = apart(fails)
    assert said.endswith("AssertionError: as intended\n"), said
    no_device()


@check
def a_scenario_that_does_not_end_is_ended_and_leaves_nothing() -> None:
    def hangs() -> None:
        waits_for_itself()
        threading.Event().wait()

    said = apart(hangs, 10)
    assert said.startswith("not done within 10 s:") and "in hangs" in said, said
    no_device()


@check
def a_scenario_that_leaves_a_disk_fails() -> None:
    said = apart(waits_for_itself)
    assert "devices are left" in said, said
    no_device()
