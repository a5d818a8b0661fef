# SPDX-License-Identifier: MIT
"""System calls per request: what a change must not make worse unseen.

futex is left out where counts are compared: how often threads wait for each other is chance.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from bench import fio, syscalls
from bench.servers import Server, bytearray_peer, in_process, vfio_user
from tests.host.net_sides import Side, iperf
from tests.needs import NEEDS_TAP, NEEDS_TRACING
from tests.waiting import at_best

pytestmark = NEEDS_TRACING

REQUESTS = 2000


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="usrdrv-test-") as name:
        monkeypatch.setenv("USRDRV_RUN_DIR", str(Path(name) / "run"))
        yield Path(name)


def calls(
    start: Callable[[Path], AbstractContextManager[Server]], folder: Path, job: fio.Job
) -> dict[str, float]:
    with start(folder) as server:
        return syscalls.per_request(server, job, REQUESTS)


def without_futex(counts: dict[str, float]) -> float:
    return sum(counts.values()) - counts.get("futex", 0)


def test_a_model_in_process_adds_none(folder: Path) -> None:
    """One request at a time is served where it arrives: no wait, no thread woken."""

    def both() -> tuple[dict[str, float], dict[str, float]]:
        peer = calls(bytearray_peer, folder, fio.RANDREAD_1)
        ours = calls(in_process, folder, fio.RANDREAD_1)
        assert "epoll_wait" not in ours
        return peer, ours

    def none(found: tuple[dict[str, float], dict[str, float]]) -> bool:
        peer, ours = found
        more = without_futex(ours) - without_futex(peer)
        return abs(more) <= 0.1 and ours.get("futex", 0) < peer.get("futex", 0) + 1

    at_best(both, none, "as many calls")


def of_vfio_user(folder: Path, job: fio.Job) -> None:
    most = {"epoll_wait": 1.1, "sendmsg": 5.1, "recvfrom": 2.1}
    at_best(
        lambda: calls(vfio_user, folder, job),
        lambda found: all(found[name] < most[name] for name in most),
        f"{most}",
    )


def test_vfio_user(folder: Path) -> None:
    """Issue; wake up; read; stop and read; acknowledge; unmask."""
    of_vfio_user(folder, fio.RANDREAD_1)


def test_vfio_user_at_depth(folder: Path) -> None:
    """Random requests are not merged; the next goes out with the last one's acknowledgement."""
    of_vfio_user(folder, fio.RANDREAD_32)


SIGNAL = ("io_submit", "io_getevents")
"""How a model wakes the other one, which it does not trust (devices/base/peer_signal.c)."""


def net_calls(pair: tuple[Side, Side], *options: str) -> tuple[dict[str, int], dict[str, int]]:
    """Calls of the near driver's process under iperf3, and what its counters gained."""
    a, b = pair
    before = a.stats()
    with syscalls.counted(a.said["driver_pid"]) as calls:
        iperf(a, b, "-n", "128M", *options)
    after = a.stats()
    return calls, {key: after[key] - before[key] for key in before if isinstance(before[key], int)}


@NEEDS_TAP
@pytest.mark.parametrize("options", [(), ("-R",)])
def test_network_driver(pair: tuple[Side, Side], options: tuple[str, ...]) -> None:
    """One for each packet of up to 64 KiB; what else there is are sleeps and the model waking the other one."""
    bulk = ("writev", "rx_frames") if options else ("readv", "tx_frames")

    def wrong() -> list[str]:
        calls, gained = net_calls(pair, *options)
        frames = gained["tx_frames"] + gained["rx_frames"]
        assert frames > 80_000
        data_path = calls["readv"] + calls["writev"] + gained["sleeps"]
        others = set(calls) - {"readv", "writev", "epoll_pwait2", "write", "futex", *SIGNAL}
        rules = {
            # Packets, and looks that found none before a sleep.
            "writes": abs(calls["writev"] - gained["rx_packets"]) <= 20,
            "reads": -20 <= calls["readv"] - gained["tx_packets"] <= gained["sleeps"] + 20,
            "bulk": calls[bulk[0]] < gained[bulk[1]] / 10,
            "counted": data_path == pytest.approx(gained["system_calls"], rel=0.02, abs=50),
            # How often the model finds the other one asleep is chance, but not more than once a frame.
            "all": calls["readv"] + calls["writev"] + calls["epoll_pwait2"] < frames / 2,
            "wake-ups": calls["write"] + sum(calls[name] for name in SIGNAL) < frames,
            "others": sum(calls[name] for name in others) < 100,
        }
        return [f"{name}: {calls} {gained}" for name, holds in rules.items() if not holds]

    at_best(wrong, lambda found: not found, "system calls")
