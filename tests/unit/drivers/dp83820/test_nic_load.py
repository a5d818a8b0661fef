# SPDX-License-Identifier: MIT
"""What the NIC driver costs, idle and under load: sleeps, interrupts, register accesses, system calls, copies."""

from __future__ import annotations

import time

from tests.unit.drivers.dp83820.nic_packets import gso, tcp_packet
from tests.unit.drivers.dp83820.nic_pair import TCPV4, Pair
from tests.waiting import at_best, still, until
from usrdrv.drivers.dp83820._dp83820 import lib


def test_idle_does_nothing() -> None:
    with Pair() as pair:
        pair.a.send(pair.frame(100))
        assert pair.b.receive().frame == pair.frame(100)

        def spent() -> list[tuple[float, int]]:
            """What each end did in two seconds: sleeps a second, and wake-ups of the chip."""
            begun = time.monotonic()
            before = [(e.stats("sleeps"), e.counter("wakeups")) for e in (pair.a, pair.b)]
            time.sleep(2)  # what is counted is divided by the time that this took
            after = [(e.stats("sleeps"), e.counter("wakeups")) for e in (pair.a, pair.b)]
            took = time.monotonic() - begun
            pairs = zip(before, after, strict=True)
            return [((new[0] - old[0]) / took, new[1] - old[1]) for old, new in pairs]

        # One look at memory a second, for lost interrupts; the chip sleeps.
        at_best(spent, lambda ends: all(x <= 1.5 and not y for x, y in ends), "rest")


def test_polling_under_load_and_interrupts_after_it() -> None:
    """Many frames: it looks every 50 us, and the chip holds interrupts off (IHR). Later each has its interrupt."""
    with Pair() as pair:
        ends = (pair.a, pair.b)

        def held_off() -> list[int]:
            return [end.device.read32(1, lib.DP83820_IHR) for end in ends]

        assert held_off() == [0, 0]
        packet = tcp_packet(pair, 60_000)
        header = gso(packet, 1400, TCPV4)
        frames = 300 * 43

        def load() -> tuple[float, int, int]:
            """Return interrupts for each frame, polls, and whether the chip was told to hold them off."""
            names = ("rx_frames", "interrupts", "polls")
            before = [pair.b.stats(name) for name in names] + [pair.b.counter("interrupts")]
            seen = 0
            for _ in range(300):
                pair.a.send(packet, header)
                got = 0
                while got < 60_000:
                    got += len(pair.b.receive().frame) - 54
                seen = max(seen, held_off()[1])
            after = [pair.b.stats(name) for name in names] + [pair.b.counter("interrupts")]
            came, taken, polls, raised = (x - y for x, y in zip(after, before, strict=True))
            assert came == frames
            return max(taken, raised) / frames, polls, seen

        at_best(load, lambda found: found[0] < 0.1 and all(found[1:]), "polling")

        def lone() -> tuple[int, int, int]:
            """A frame by itself: what it takes of interrupts and polls."""
            until(lambda: held_off() == [0, 0])
            names = ("interrupts", "lost_interrupts", "polls")
            before = still(lambda: [pair.b.stats(name) for name in names])
            pair.a.send(pair.frame(100))
            assert pair.b.receive().frame == pair.frame(100)
            after = still(lambda: [pair.b.stats(name) for name in names])
            interrupts, lost, polls = (x - y for x, y in zip(after, before, strict=True))
            return interrupts, lost, polls

        # One poll: the round that the interrupt began.
        at_best(lone, lambda found: found[:2] == (1, 0) and found[2] <= 1, "an interrupt")


def test_few_frames_are_not_polled_for() -> None:
    """Each has its interrupt."""
    with Pair() as pair:

        def taken() -> int:
            return pair.b.stats("interrupts") + pair.b.stats("lost_interrupts")

        def interrupts() -> int:
            before = still(taken)
            for i in range(100):
                asleep = pair.b.stats("sleeps")
                pair.a.send(pair.frame(100, i))
                assert pair.b.receive().frame == pair.frame(100, i)
                until(lambda: pair.b.stats("sleeps") > asleep)  # noqa: B023
            assert pair.b.device.read32(1, lib.DP83820_IHR) == 0
            return taken() - before

        # One that comes before the driver sleeps is found without.
        at_best(interrupts, lambda found: 90 <= found <= 100, "an interrupt for each frame")


def test_costs_per_frame() -> None:
    """Counts that must not creep up: register accesses, system calls, copies."""
    with Pair() as pair:
        packet = tcp_packet(pair, 60_000)
        names = ("register_reads", "register_writes", "descriptors")
        header = gso(packet, 1400, TCPV4)
        frames = 43 * 20

        def counts() -> dict[str, int]:
            found = {name: pair.a.counter(name) for name in names}
            found |= {name: pair.a.stats(name) for name in ("tx_frames", "system_calls", "copied")}
            return found | {"received": pair.b.stats("rx_frames"), "there": pair.b.stats("copied")}

        def spent() -> dict[str, int]:
            before = counts()
            for _ in range(20):
                pair.a.send(packet, header)
                got = 0
                while got < 60_000:
                    got += len(pair.b.receive().frame) - 54
            gained = {name: value - before[name] for name, value in counts().items()}
            assert gained["tx_frames"] == frames == gained["received"]
            assert gained["copied"] == frames * 54
            return gained

        most = {
            "register_writes": frames // 10,
            "register_reads": frames // 40,
            "descriptors": 2 * frames + 60,
            "system_calls": 20 * 4 + 10,
            "there": frames * 54 // 2,
        }
        at_best(spent, lambda found: all(found[x] <= most[x] for x in most), f"{most}")
