# SPDX-License-Identifier: MIT
"""What one register access costs from the guest (pytest -rP shows it), and how little the server does for it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from bench import syscalls
from tests.files import GUEST
from tests.lab.helpers.referee import Referee, start
from tests.needs import NEEDS_TRACING
from tests.waiting import at_best
from usrdrv.lab.qemu import address

COUNT = 3000
SOURCE = GUEST / "access.c"
SCRATCH = 0x4C
"""A register of the chip that only stores."""


@pytest.fixture(scope="module")
def referee(guest_factory: Any) -> Iterator[Referee]:
    for referee in start(guest_factory, ["--ram=16M"]):
        program = referee.guest.share / "access"
        subprocess.run(["gcc", "-O2", "-static", "-o", program, SOURCE], check=True)
        yield referee


def access(referee: Referee, kind: str) -> float:
    """Make COUNT accesses; returns microseconds for each."""
    bar = f"/sys/bus/pci/devices/{address(0)}/resource5"
    return float(referee.run(f"/share/access {bar} {SCRATCH:#x} {COUNT} {kind}").out)


def test_one_message_for_each_access(referee: Referee) -> None:
    before = referee.counters()
    took = {kind: access(referee, kind) for kind in ("read", "write")}
    after = referee.counters()
    made = {key: after[key] - before[key] for key in ("register_reads", "register_writes")}
    assert made == {"register_reads": COUNT + 1, "register_writes": COUNT}
    print(f"a read {took['read']:.1f} us, a posted write {took['write']:.1f} us")
    assert took["read"] > 0 < took["write"]


@NEEDS_TRACING
@pytest.mark.parametrize(("kind", "answers"), [("read", 1), ("write", 0)])
def test_system_calls_of_the_server(referee: Referee, kind: str, answers: int) -> None:
    """A message is one call, or less where several have come, and an answer another one."""

    def calls() -> dict[str, float]:
        with syscalls.counted(referee.models[0].child.pid) as counts:
            access(referee, kind)
        return {name: count / COUNT for name, count in counts.items()}

    def few(each: dict[str, float]) -> bool:
        sent = each["sendto"] == pytest.approx(answers, abs=0.05)
        return sent and each["recvmsg"] < 1.1 and sum(each.values()) < 1.2 + answers

    # A server whose client has no processor sleeps more often.
    at_best(calls, few, "calls for each access", 200)
