# SPDX-License-Identifier: MIT
"""`usrdrv net` with the kernel's own network stack at both ends of a cable, in namespaces of our own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.host.net_sides import (
    IN_SOCKETS,
    USRDRV,
    Side,
    connect,
    connected,
    ip,
    iperf,
    killed_in_a_flow,
    ping,
)
from tests.names import namespace
from tests.needs import NEEDS_TAP
from tests.waiting import PATIENCE, at_best
from tests.waiting import until as wait_for
from usrdrv.devices import control
from usrdrv.lab.models import Model

pytestmark = NEEDS_TAP


def test_interface_is_what_was_asked_for(pair: tuple[Side, Side]) -> None:
    a, b = pair
    link = a.link()
    assert link["address"] == "02:00:00:00:00:01" == a.said["mac"]
    assert link["mtu"] == 1500 and link["linkinfo"]["info_data"]["type"] == "tap"
    assert link["ifalias"].startswith("usrdrv model:dp83820")
    ping(a, b)
    ping(b, a, "-s", "9000")  # fragments
    assert a.stats()["speed"] == 1000
    shown = a.run("cat", "/sys/class/net/usr0/speed", "/sys/class/net/usr0/duplex").stdout
    assert shown.split() == ["1000", "full"]
    a.stop()
    wait_for(lambda: not b.carrier())
    b.stop()


def test_tcp_both_ways_and_udp(pair: tuple[Side, Side]) -> None:
    a, b = pair

    def lost() -> float:
        udp = iperf(a, b, "-u", "-b", "50M", "-n", "12M")["end"]["sum"]
        assert udp["bytes"] >= 12 << 20
        return float(udp["lost_percent"])

    # A receiver without a CPU loses what came.
    at_best(lost, lambda percent: percent < 1, "datagrams arrive, lost in percent")

    def moved() -> dict[str, int]:
        """What 256 MiB each way cost."""
        before = a.stats()
        for options in ((), ("-R",)):
            end = iperf(a, b, "-n", "256M", *options)["end"]
            assert end["sum_received"]["bytes"] >= (256 << 20) - IN_SOCKETS
        after = a.stats()
        assert after["tx_errors"] == after["rx_errors"] == after["resets"] == 0
        counted = ("tx_frames", "tx_packets", "rx_frames", "rx_packets", "system_calls", "copied")
        return {name: after[name] - before[name] for name in counted}

    def in_large_packets(did: dict[str, int]) -> bool:
        """The kernel hands over large packets and gets large ones back, in few calls and without copies."""
        frames = did["tx_frames"] + did["rx_frames"]
        return (
            did["tx_frames"] > 5 * did["tx_packets"]
            and did["rx_frames"] > 3 * did["rx_packets"]
            and did["system_calls"] < frames / 2
            and did["copied"] < 80 * frames
        )

    # Without a CPU for a while, one side finds little at once.
    at_best(moved, in_large_packets, "large packets")


def test_without_offloads(sides: tuple[Side, Side]) -> None:
    connect(sides, "--no-offload")
    end = iperf(*sides, "-n", "64M")["end"]
    assert end["sum_received"]["bytes"] >= (64 << 20) - IN_SOCKETS

    def nothing_was_cut() -> bool:
        """A packet may be on its way."""
        stats = sides[0].stats()
        assert stats["tx_checksums"] == 0
        return bool(stats["tx_frames"] == stats["tx_packets"])

    wait_for(nothing_was_cut)


def test_models_in_other_processes(sides: tuple[Side, Side]) -> None:
    """Over vfio-user: a driver's death leaves the NIC and its link alone."""
    cable = f"cable={sides[0].netns}"
    with ExitStack() as stack:
        models = [
            stack.enter_context(
                Model("dp83820", "--option", cable, "--option", f"mac=02:00:00:00:00:0{n}")
            )
            for n in (1, 2)
        ]
        for side, model in zip(sides, models, strict=True):
            side.start(model.name)
        connected(*sides)
        ping(*sides, "-s", "8000")
        for options in ((), ("-R",)):
            end = iperf(*sides, "-n", "64M", *options)["end"]
            assert end["sum_received"]["bytes"] >= (64 << 20) - IN_SOCKETS
        killed_in_a_flow(*sides, "send", victim=sides[1])
        for side, model in zip(sides, models, strict=True):
            assert control.call(model.control, {"op": "counters"})["unexpected"] == 0
            side.stop()


def test_a_model_that_dies_is_a_device_that_is_gone(sides: tuple[Side, Side]) -> None:
    """kill -9 of the hardware, under load: `usrdrv net` says so and ends; the other end has no link."""
    cable = f"cable={sides[0].netns}"
    with ExitStack() as stack:
        for number, side in enumerate(sides):
            mac = f"mac=02:00:00:00:00:0{number + 1}"
            options = ("--option", cable, "--option", mac)
            model = stack.enter_context(Model("dp83820", *options))
            side.start(model.name)
        connected(*sides)
        near, far = sides
        flood = subprocess.Popen(
            ["ip", "netns", "exec", near.netns, "ping", "-q", "-f", far.address],
            stdout=subprocess.DEVNULL,
        )
        try:
            wait_for(lambda: far.stats()["rx_frames"] > 100, "frames")
            os.kill(model.child.pid, signal.SIGKILL)
            _, said = far.process.communicate(timeout=PATIENCE)
        finally:
            flood.kill()
            flood.wait()
        assert far.process.returncode == 1 and "device is gone" in said, said
        assert said.splitlines()[-1].startswith("usrdrv: error: ") and "Traceback" not in said
        assert far.ifname not in far.run("ip", "link").stdout
        wait_for(lambda: not near.carrier())
        assert near.stats()["restarts"] == 0
        near.stop()


@pytest.mark.parametrize("way", ["send", "take"])
@pytest.mark.parametrize("dies", [0, 1])
def test_flow_survives_the_death_of_either_driver(
    pair: tuple[Side, Side], dies: int, way: str
) -> None:
    victim = pair[dies]
    route = [
        "ip",
        "-n",
        victim.netns,
        "route",
        "add",
        "192.0.2.0/24",
        "via",
        pair[1 - dies].address,
    ]
    subprocess.run(route, check=True)
    before = [side.carrier_counts() for side in pair]
    killed_in_a_flow(*pair, way, victim)
    for side, (came, went) in zip(pair, before, strict=True):  # the chip dies with its driver here
        up, down = side.carrier_counts()
        # On a loaded host the new pair of chips may lose each other once more while they find each other.
        assert up - came == down - went >= 1
    stats = victim.stats()
    assert stats["restarts"] == 1 and stats["driver_pid"] != victim.said["driver_pid"]
    assert any(r["dst"] == "192.0.2.0/24" for r in ip("-n", victim.netns, "route"))
    assert victim.link()["address"] == victim.said["mac"]
    assert "was killed by SIGKILL; restarted in" in victim.stop()
    pair[1 - dies].stop()


def test_counters_go_on_over_a_death(pair: tuple[Side, Side]) -> None:
    """Nobody asked for them before: what the dead driver counted is there all the same."""
    a, b = pair
    moved = iperf(a, b, "-n", "64M")["end"]["sum_received"]["bytes"]
    os.kill(a.said["driver_pid"], signal.SIGKILL)
    wait_for(lambda: a.stats()["restarts"] == 1, "another driver")
    connected(a, b)
    peer, stats = b.stats(), a.stats()
    assert stats["tx_bytes"] > moved >= (64 << 20) - IN_SOCKETS
    assert stats["tx_frames"] >= peer["rx_frames"] > moved / 1448
    assert stats["rx_packets"] > 0 and stats["link_changes"] >= 2
    ping(a, b)
    again = a.stats()
    assert 5 <= again["tx_frames"] - stats["tx_frames"] < 1000


def test_changes_by_the_user_reach_the_chip(pair: tuple[Side, Side]) -> None:
    a, b = pair
    for side in pair:
        subprocess.run(["ip", "-n", side.netns, "link", "set", "usr0", "mtu", "9000"], check=True)
    wait_for(lambda: a.stats()["mtu"] == b.stats()["mtu"] == 9000)
    connected(a, b)
    ping(a, b, "-M", "do", "-s", "8972")
    subprocess.run(
        ["ip", "-n", b.netns, "link", "set", "usr0", "address", "02:00:00:00:00:99"], check=True
    )
    subprocess.run(["ip", "-n", a.netns, "neigh", "flush", "all"], check=True)
    wait_for(lambda: "1 received" in a.run("ping", "-c", "1", "-W", "1", b.address).stdout)
    ping(a, b)


def test_a_deleted_interface_ends_it(pair: tuple[Side, Side]) -> None:
    a = pair[0]
    subprocess.run(["ip", "-n", a.netns, "link", "del", "usr0"], check=True)
    _, said = a.process.communicate(timeout=PATIENCE)
    assert a.process.returncode == 1
    assert (
        said.splitlines()[-1]
        == "usrdrv: error: usr0: somebody deleted the interface or its namespace"
    )


def test_killed_supervisor_leaves_nothing(pair: tuple[Side, Side]) -> None:
    a, b = pair
    driver = a.said["driver_pid"]
    a.process.kill()
    a.process.communicate()
    wait_for(lambda: not Path(f"/proc/{driver}").exists())
    wait_for(lambda: "usr0" not in a.run("ip", "link").stdout)
    wait_for(lambda: not b.carrier())


@pytest.fixture(scope="module")
def alone() -> Iterator[str]:
    """A network namespace in which nobody else makes interfaces."""
    with namespace() as name:
        yield name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model:dp83820", "--ifname", "a/b"], "'a/b' is no name for an interface"),
        (["model:dp83820", "--ifname", "x" * 16], "is no name for an interface"),
        (["model:dp83820", "--netns", "usrdrv-none"], "no network namespace usrdrv-none"),
        (["model:dp83820", "--ifname", "lo"], "there is an interface lo already"),
        (["model:dp83820", "--mtu", "9001"], "MTU 9001 is not between 68 and 9000"),
        (["model:dp83820", "--multicast", "02:00:00:00:00:01"], "not a group address"),
        (["model:dp83820?cable=a&tap=b"], "a NIC has one wire"),
        (["model:dp83820?mac=zz"], "expected six bytes"),
        (["model:dp83820?speed=1"], "unknown option 'speed' for dp83820"),
        (["model:cmd680?ram=1M"], "is not a network interface"),
        (["vfio-user:/nowhere"], "no such socket"),
        (["stats", "nosuch0"], "no interface nosuch0 is served here"),
        (["stats"], "stats of which interface"),
        (["model:dp83820", "more"], "unexpected argument 'more'"),
    ],
)
def test_bad_input_is_named(alone: str, words: list[str], said: str) -> None:
    done = subprocess.run(
        ["ip", "netns", "exec", alone, *USRDRV, "net", *words],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode in (1, 2)
    assert said in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.startswith("usrdrv: error: ") and done.stderr.count("\n") == 1
    assert [link["ifname"] for link in ip("-n", alone, "link", "show")] == ["lo"]
