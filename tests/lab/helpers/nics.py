# SPDX-License-Identifier: MIT
"""`usrdrv net` in a guest, the NICs that it drives, and those who load them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.lab.helpers.kmod import SLOWER, wait
from tests.lab.helpers.loads import finish, flows
from tests.names import own
from tests.waiting import at_best
from usrdrv.lab.guest import Guest, Job
from usrdrv.lab.models import Model


@contextmanager
def cabled(*macs: str) -> Iterator[list[Model]]:
    """Two NICs at the ends of a cable."""
    cable = f"cable={own('lab')}"
    first, second = (("--option", cable, "--option", f"mac={mac}") for mac in macs)
    with Model("dp83820", *first) as near, Model("dp83820", *second) as far:
        yield [near, far]


def until(guest: Guest, condition: str, seconds: int = 60) -> None:
    """Wait for a command to succeed."""
    result = guest.run(
        f"for i in $(seq {seconds * 5}); do {condition} && exit 0; sleep 0.2; done; exit 1",
        timeout=seconds * 5 * SLOWER,
    )
    assert result.code == 0, f"{condition}: does not happen: {result.out}{result.err}"


def start(guest: Guest, name: str, command: str) -> tuple[Job, dict[str, Any]]:
    """Start `usrdrv net` with its output in /tmp/NAME.*. Returns the job and what it announced."""
    out, err = f"/tmp/{name}.out", f"/tmp/{name}.err"
    guest.run(f"rm -f {out}", check=True)
    job = guest.start(f"exec usrdrv net {command} --json > {out} 2> {err}")
    guest.run(
        f"for i in $(seq 300); do grep -q ifname {out} && break; sleep 0.3; done", 150 * SLOWER
    )
    line = guest.run(f"head -n 1 {out}", check=True).out
    assert line, guest.run(f"cat {err}").out
    said: dict[str, Any] = json.loads(line)
    return job, said


def end(guest: Guest, job: Job, said: dict[str, Any]) -> None:
    """Have it end as it should."""
    guest.run(f"kill -INT {said['pid']}", check=True)
    assert job.wait(60 * SLOWER).code == 0, guest.run("cat /tmp/*.err").out


COUNTERS = """
import json, sys
from usrdrv.base.lines import call
from usrdrv.bridge.stats import served
name, *home = sys.argv[1:]
(path,) = (path for path, who in served("net") if [who["first"], who["home"]] == [name, *(home or [None])])
print(json.dumps(call(path, {"op": "stats"})))
"""
"""What `usrdrv net stats --json` prints, which takes an emulated machine three times as long to begin."""


def stats(guest: Guest, netns: str = "", ifname: str = "usr0") -> dict[str, Any]:
    """The driver's counters. ifname, netns: what it was started with."""
    words = ["python3", "-c", COUNTERS, ifname, *([netns] if netns else [])]
    found: dict[str, Any] = json.loads(guest.run(words, 60, check=True).out)
    return found


def answers(guest: Guest, to: str) -> None:
    """Wait for the other end, whose link comes on its own time."""
    until(guest, f"ping -c 1 -W 1 {to} > /dev/null")


def ping(guest: Guest, to: str, *options: str, count: int = 5, inside: str = "") -> None:
    """So many are answered, as the exit code says; more if answers that had to wait come together."""
    words = " ".join(options)
    result = guest.run(f"{inside} ping -c {count} -i 0.05 -w 60 {words} {to}", timeout=90 * SLOWER)
    assert result.code == 0, result.out + result.err


@contextmanager
def kept_going(guest: Guest, to: str, inside: str = "") -> Iterator[None]:
    """Ping meanwhile from where the kernel's ns83820 sends.

    What stopped its queue, such as a link that went, is over with netif_start_queue() and then
    netif_wake_queue(), which has nothing to do any more: packets wait until somebody sends another one.
    A TCP whose packets are among those, and that gets no answers, does not.
    """
    job = guest.start(f"exec {inside} ping -q -i 0.5 {to}")
    try:
        yield
    finally:
        job.signal()
        job.wait(30 * SLOWER)


def iperf(
    guest: Guest, to: str, *options: str, namespace: str = "far", inside: str = ""
) -> dict[str, Any]:
    """iperf3 to a server in a namespace. Return its `end`, of a flow that ended well at both ends.

    inside: what runs the client where it is to be, if that is not the main namespace.
    """
    there = f"ip netns exec {namespace}"
    server = guest.start(f"exec {there} iperf3 -s -1 > /tmp/iperf-s.out 2>&1")
    until(guest, f"{there} ss -ltn | grep -q 5201")
    result = guest.run(f"{inside} iperf3 -c {to} -J {' '.join(options)}", timeout=180 * SLOWER)
    assert result.code == 0, result.out + result.err
    assert server.wait(30 * SLOWER).code == 0
    found: dict[str, Any] = json.loads(result.out)["end"]
    return found


def killed_in_a_flow(guest: Guest, *ends: Job, through: str = "usr0", netns: str = "") -> None:
    """The driver is killed while TCP flows, is started again, and TCP flows on to its good end.

    Args:
        ends: Of the flow, those that are in the guest (loads.py).
        through: The interface whose counters tell how much has been moved.
        netns: Where the driver's interface is.
    """
    alive = stats(guest, netns)
    flows(guest, through, *ends)
    guest.run(f"kill -KILL {alive['driver_pid']}", check=True)
    wait(lambda: stats(guest, netns)["restarts"] == alive["restarts"] + 1, 60, "restart")
    assert stats(guest, netns)["driver_pid"] != alive["driver_pid"]
    flows(guest, through, *ends)
    finish(guest, *ends)


def udp_arrives(guest: Guest, to: str, *options: str) -> None:
    """Datagrams at a rate that an emulated machine keeps up with, unless its host is busy."""

    def lost() -> float:
        # Seconds: with -R and so many bytes, iperf3 would wait for those that are lost.
        udp = iperf(guest, to, "-u", "-b", "5M", "-t", "1", *options)["sum"]
        assert udp["packets"] > 0
        return float(udp["lost_percent"])

    at_best(lost, lambda percent: percent < 2, "datagrams arrive, lost in percent", 200)
