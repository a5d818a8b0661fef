# SPDX-License-Identifier: MIT
"""Interfaces of usrloop in a guest: a NIC on the bus, then two whose models are in their drivers' processes.

guest                                                             host
usr0 (usrloop) == driver == VFIO or usrdrv == vfio-user device == model == TAP `far` in a namespace

left: usr0 (usrloop) == driver, model == cable == model, driver == usr0 (usrloop) :right
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.files import ROOT
from tests.lab.helpers import nics
from tests.lab.helpers.kmod import wait
from tests.lab.helpers.loads import FLOW, WAYS, client
from tests.lab.helpers.nics import answers, end, killed_in_a_flow, ping, start, stats, until
from tests.model_faults import broken
from tests.names import own
from tests.needs import NEEDS_TAP
from tests.waiting import at_best
from usrdrv.lab.guest import Guest, Job
from usrdrv.lab.models import Model
from usrdrv.lab.qemu import address
from usrdrv.pci import USRDRV, VFIO

pytestmark = NEEDS_TAP

Boot = Callable[..., Guest]

MAC = "02:00:00:00:00:0c"
NEAR, FAR, BEYOND = "10.89.0.1", "10.89.0.2", "192.0.2.0/24"
IN_LEFT = "ip netns exec left"


@dataclass
class Wire:
    """The other end, on the host."""

    namespace: str
    tap: str
    model: Model

    def run(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    def set_mtu(self, mtu: int) -> None:
        self.run("-n", self.namespace, "link", "set", self.tap, "mtu", str(mtu))

    def unplugged(self) -> AbstractContextManager[None]:
        return broken(self.model.control, {"kind": "link-down"})

    @contextmanager
    def flow_server(self) -> Iterator[None]:
        """What a flow has at its other end, until it has ended well."""
        words = ["ip", "netns", "exec", self.namespace, sys.executable, str(ROOT / FLOW), "serve"]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None and server.stdout.readline() == b"listening\n"
            try:
                yield
                assert server.wait(60) == 0
            finally:
                server.kill()


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    tap, namespace = own("far"), own("usrdrv")
    with Model("dp83820", "--option", f"tap={tap}", "--option", f"mac={MAC}") as model:
        wire = Wire(namespace, tap, model)
        wire.run("netns", "add", namespace)
        server = None
        try:
            wire.run("link", "set", tap, "netns", namespace)
            wire.run("-n", namespace, "addr", "add", f"{FAR}/24", "dev", tap)
            wire.run("-n", namespace, "link", "set", tap, "up")
            inside = ("ip", "netns", "exec", namespace)
            server = subprocess.Popen([*inside, "iperf3", "-s"], stdout=subprocess.DEVNULL)
            wait(lambda: b":5201" in subprocess.check_output([*inside, "ss", "-ltn"]), 60, "iperf3")
            yield wire
        finally:
            if server is not None:
                server.kill()
                server.wait()
            wire.run("netns", "del", namespace)


@pytest.fixture(scope="module", params=[pytest.param(VFIO, marks=pytest.mark.rare), USRDRV])
def through(request: pytest.FixtureRequest) -> str:
    """The kernel driver that has the NIC, because that is the best way there."""
    return str(request.param)


@pytest.fixture(scope="module")
def guest(wire: Wire, guest_factory: Boot, through: str) -> Iterator[Guest]:
    kernel = "base" if through == USRDRV else "stock"
    guest = guest_factory(devices=[wire.model.socket], kernel=kernel, kmod=True, iommu=True)
    yield guest
    guest.run("rmmod usrloop", check=True)  # nothing has it any more
    guest.close()  # the next one wants the model


def carrier(up: bool) -> str:
    return f"grep -qx {int(up)} /sys/class/net/usr0/carrier"


def iperf(guest: Guest, *options: str) -> dict[str, Any]:
    result = guest.run(f"iperf3 -c {FAR} -J {' '.join(options)}", timeout=120)
    assert result.code == 0, result.out + result.err
    found: dict[str, Any] = json.loads(result.out)
    return found


@pytest.fixture(scope="module")
def served(guest: Guest) -> Iterator[dict[str, Any]]:
    """The interface, up, with an address and a route."""
    job, said = start(guest, "net", f"{address(0)} --no-zero-copy")
    guest.run(
        f"ip addr add {NEAR}/24 dev usr0 && ip link set usr0 up && "
        f"ip route add {BEYOND} via {FAR} && ip -o monitor link dev usr0 > /tmp/monitor &",
        check=True,
    )
    until(guest, carrier(True))
    yield said
    end(guest, job, said)
    assert "usr0" not in guest.run("ip -br link", check=True).out
    assert "ns83820" in guest.run(f"lspci -k -s {address(0)}", check=True).out, "given back"


def test_it_is_an_interface_like_any(guest: Guest, served: dict[str, Any], through: str) -> None:
    shown = guest.run(f"lspci -k -s {address(0)}", check=True).out
    assert f"Kernel driver in use: {through}" in shown
    assert (served["ifname"], served["export"], served["mac"]) == ("usr0", "usrloop", MAC)
    said = guest.run("cat /tmp/net.err", check=True).out
    assert said == "usrdrv: export usrloop: the kernel has module usrloop\n"
    shown = json.loads(guest.run("ip -j -d link show usr0", check=True).out)[0]
    assert shown["address"] == MAC and shown["mtu"] == 1500 and shown["max_mtu"] == 9000
    assert shown["ifalias"] == f"usrdrv {address(0)}"
    text = guest.run("ethtool -i usr0; ethtool usr0; ethtool -k usr0", check=True).out
    for line in (
        *("driver: usrloop", f"bus-info: {address(0)}", "Speed: 1000Mb/s", "Duplex: Full"),
        *("Link detected: yes", "tcp-segmentation-offload: on", "tx-udp-segmentation: on"),
        *("rx-checksumming: on", "tx-checksumming: on"),
    ):
        assert line in text, line
    label = guest.run("cat /sys/class/net/usr0/usrloop/label", check=True).out.strip()
    assert label == address(0)


def test_both_ways(guest: Guest, served: dict[str, Any]) -> None:
    ping(guest, FAR)
    ping(guest, FAR, "-s", "8000")  # fragments

    def load() -> dict[str, int]:
        before = stats(guest)
        for options in ((), ("-R",)):
            ended = iperf(guest, "-n", "32M", *options)["end"]
            assert ended["sum_received"]["bytes"] > 24 << 20
        after = stats(guest)
        spent = {name: n - before[name] for name, n in after.items() if isinstance(n, int)}
        for name in ("tx_errors", "rx_errors", "tx_dropped", "rx_dropped", "resets"):
            assert spent[name] == 0, name
        spent["frames"] = spent["tx_frames"] + spent["rx_frames"]
        spent["packets"] = spent["tx_packets"] + spent["rx_packets"]
        assert spent["frames"] > 25_000
        return spent

    def few(spent: dict[str, int]) -> bool:
        """With a TAP they are more than the packets."""
        return spent["frames"] > 2 * spent["packets"] > 4 * spent["system_calls"]

    at_best(load, few, "large packets, several for each system call", 200)
    counters = guest.run("ethtool -S usr0", check=True).out
    assert "queue0_rx_errors: 0" in counters and "queue0_tx_dropped: 0" in counters


def test_idle_costs_nothing(guest: Guest, served: dict[str, Any]) -> None:

    def spent() -> int:
        before = stats(guest)["system_calls"]
        guest.run("sleep 5")
        return int(stats(guest)["system_calls"] - before)

    # Neighbours, and a heartbeat a second.
    at_best(spent, lambda calls: calls < 60, "rest, in system calls")


def test_changes_by_the_user_reach_the_chip(
    guest: Guest, served: dict[str, Any], wire: Wire
) -> None:
    wire.set_mtu(9000)
    guest.run("ip link set usr0 mtu 9000", check=True)
    until(guest, "usrdrv net stats usr0 | grep -q 'mtu *9000'")
    until(guest, carrier(True))
    ping(guest, FAR, "-M", "do", "-s", "8972")
    ended = iperf(guest, "-n", "16M")["end"]
    assert ended["sum_received"]["bytes"] > 8 << 20
    wire.set_mtu(1500)
    guest.run("ip link set usr0 mtu 1500", check=True)
    until(guest, "usrdrv net stats usr0 | grep -q 'mtu *1500'")
    guest.run("ip link set usr0 address 02:00:00:00:00:99", check=True)
    until(guest, carrier(True))
    answers(guest, FAR)
    ping(guest, FAR)
    assert guest.run("ip link set usr0 mtu 9001").code, "more than the chip can"


def test_link_loss_is_carrier_loss(guest: Guest, served: dict[str, Any], wire: Wire) -> None:
    with wire.unplugged():
        until(guest, carrier(False))
    until(guest, carrier(True))
    ping(guest, FAR)


def test_taken_down_and_up(guest: Guest, served: dict[str, Any]) -> None:
    guest.run("ip link set usr0 down; sleep 1; ip link set usr0 up", check=True)
    guest.run(f"ip route replace {BEYOND} via {FAR}", check=True)
    until(guest, carrier(True))
    ping(guest, FAR)


def test_killed_driver_comes_back_under_load(
    guest: Guest, served: dict[str, Any], wire: Wire
) -> None:
    """The kernel drops the carrier itself; the flow, addresses and routes stay."""
    for way in WAYS:
        guest.run("wc -l < /tmp/monitor > /tmp/seen", check=True)
        with wire.flow_server():
            killed_in_a_flow(guest, client(guest, FAR, way))
        news = guest.run("tail -n +$(($(cat /tmp/seen) + 1)) /tmp/monitor", check=True).out
        states = ["LOWER_UP" in line for line in news.splitlines()]
        assert False in states and states[-1], news
        shown = guest.run("ip addr show usr0; ip route", check=True).out
        assert NEAR in shown and BEYOND in shown
    found = stats(guest)
    assert found["restarts"] >= 2 and found["resets"] == 0, guest.run("cat /tmp/net.err").out
    assert "was killed by SIGKILL; restarted in" in guest.run("cat /tmp/net.err").out
    ping(guest, FAR)
    refused = guest.run("cat /sys/class/net/usr0/usrloop/refused", check=True).out.strip()
    assert refused == "0"


@pytest.fixture(scope="module")
def pair(guest: Guest) -> Iterator[list[tuple[Job, dict[str, Any]]]]:
    """left and right, up, with addresses."""
    made = []
    for number, name in enumerate(("left", "right"), 1):
        guest.run(f"ip netns add {name}", check=True)
        device = f"'model:dp83820?cable=inside&mac=02:00:00:00:01:0{number}'"
        made.append(start(guest, name, f"{device} --netns {name} --export usrloop --mtu 9000"))
        guest.run(
            f"ip -n {name} addr add 10.90.0.{number}/24 dev usr0 && ip -n {name} link set usr0 up",
            check=True,
        )
    for name in ("left", "right"):
        until(guest, f"ip -n {name} link show usr0 | grep -q LOWER_UP")
    yield made


def test_models_in_the_drivers_processes(
    guest: Guest, pair: list[tuple[Job, dict[str, Any]]]
) -> None:
    for options in ("", "-M do -s 8972"):
        ping(guest, "10.90.0.2", options, inside=IN_LEFT)
    ended = nics.iperf(guest, "10.90.0.2", "-n 16M", namespace="right", inside=IN_LEFT)
    assert ended["sum_received"]["bytes"] > 8 << 20
    assert "driver: usrloop" in guest.run(f"{IN_LEFT} ethtool -i usr0").out


def reached(guest: Guest, address: str, options: str = "") -> None:
    """Until a ping from left is answered."""
    until(guest, f"{IN_LEFT} ping -q -c 1 -W 1 {options} {address}")


def test_moved_to_another_namespace_and_back(
    guest: Guest, pair: list[tuple[Job, dict[str, Any]]]
) -> None:
    guest.run("ip netns add third", check=True)
    for old, new in (("right", "third"), ("third", "right")):
        guest.run(
            f"ip -n {old} link set usr0 netns {new} && ip -n {new} addr add 10.90.0.2/24 dev usr0 && "
            f"ip -n {new} link set usr0 up",
            check=True,
        )
        reached(guest, "10.90.0.2", "-M do -s 8972")
        found = json.loads(guest.run(f"usrdrv net stats usr0 --netns {new} --json", check=True).out)
        guest.run(f"ip -n {new} link set usr0 mtu 4000", check=True)
        until(guest, f"usrdrv net stats usr0 --netns {new} | grep -q 'mtu *4000'")
        guest.run(f"kill -KILL {found['driver_pid']}", check=True)
        reached(guest, "10.90.0.2", "-M do -s 3972")
        guest.run(f"ip -n {new} link set usr0 mtu 9000", check=True)
    said = guest.run("cat /tmp/right.err", check=True).out
    for name in ("third", "right"):
        assert f"usrdrv: usr0 was moved to network namespace {name}\n" in said, said
    guest.run("ip netns del third", check=True)


FORGET = "ip -n left neigh flush dev usr0"
"""Who has another address by now is asked for it at once, and not when it has long not answered."""


def test_a_port_of_a_bond(guest: Guest, pair: list[tuple[Job, dict[str, Any]]]) -> None:
    """It takes the bond's address, and gets its own back; the driver dies meanwhile."""
    guest.run(
        "modprobe bonding max_bonds=0 && ip -n right link set usr0 down && "
        "ip -n right addr flush dev usr0 && "
        "ip -n right link add bond0 address 02:00:00:00:01:77 type bond mode active-backup miimon 100 && "
        "ip -n right link set usr0 master bond0 && ip -n right link set bond0 up && "
        f"ip -n right addr add 10.90.0.2/24 dev bond0 && {FORGET}",
        check=True,
    )
    reached(guest, "10.90.0.2")
    assert "02:00:00:00:01:77" in guest.run("ip -n right link show usr0", check=True).out
    pid = "usrdrv net stats usr0 --netns right --json"
    victim = json.loads(guest.run(pid, check=True).out)["driver_pid"]
    guest.run(f"kill -KILL {victim}", check=True)
    wait(lambda: json.loads(guest.run(pid).out)["driver_pid"] != victim, 60, "another driver")
    reached(guest, "10.90.0.2")
    guest.run(
        "ip -n right link del bond0 && ip -n right addr add 10.90.0.2/24 dev usr0 && "
        f"ip -n right link set usr0 up && {FORGET}",
        check=True,
    )
    assert pair[1][1]["mac"] in guest.run("ip -n right link show usr0", check=True).out
    reached(guest, "10.90.0.2")


def test_what_may_be_put_on_it(guest: Guest, pair: list[tuple[Job, dict[str, Any]]]) -> None:
    """Children with addresses of their own, in namespaces of their own; full packets behind two tags."""
    guest.run("modprobe -a macvlan ipvlan 8021q", check=True)
    for number, kind in enumerate(("macvlan mode bridge", "ipvlan mode l2"), 5):
        guest.run(
            f"ip netns add child && ip -n right link add link usr0 name c0 type {kind} && "
            "ip -n right link set c0 netns child && ip -n child link set c0 up && "
            f"ip -n child addr add 10.90.0.{number}/24 dev c0",
            check=True,
        )
        reached(guest, f"10.90.0.{number}")
        reached(guest, "10.90.0.2")
        guest.run("ip netns del child", check=True)
        until(guest, "! ip -n right link show c0")
    for number, name in enumerate(("left", "right"), 1):
        guest.run(
            f"ip -n {name} link set usr0 mtu 1500 && "
            f"ip -n {name} link add link usr0 name s0 type vlan proto 802.1ad id 5 && "
            f"ip -n {name} link add link s0 name c0 type vlan id 6 && ip -n {name} link set s0 up && "
            f"ip -n {name} link set c0 up && ip -n {name} addr add 10.91.0.{number}/24 dev c0",
            check=True,
        )
    reached(guest, "10.91.0.2", "-M do -s 1472")


def test_killed_supervisor_leaves_nothing(
    guest: Guest, pair: list[tuple[Job, dict[str, Any]]]
) -> None:
    (killed, left), (ended, right) = pair
    guest.run(f"kill -KILL {left['pid']}", check=True)
    killed.wait(60)
    until(guest, "! ip netns exec left ip -br link | grep -q usr0")
    until(guest, f"! test -e /proc/{left['driver_pid']}")
    until(guest, "ip -n right link show usr0 | grep -q NO-CARRIER")
    end(guest, ended, right)
    assert "usr0" not in guest.run("ip -n right -br link", check=True).out


def test_tap_on_request(guest: Guest, served: dict[str, Any]) -> None:
    guest.run("modprobe tun", check=True)
    job, said = start(guest, "tap", "'model:dp83820?cable=again' --export tap")
    assert (said["ifname"], said["export"]) == ("usr1", "tap")
    assert guest.run("cat /tmp/tap.err", check=True).out == ""
    assert "driver: tun" in guest.run("ethtool -i usr1", check=True).out
    end(guest, job, said)


def test_a_name_that_is_taken(guest: Guest, served: dict[str, Any]) -> None:
    result = guest.run("usrdrv net 'model:dp83820?cable=again' --ifname usr0", timeout=60)
    assert result.code == 1
    assert result.err == "usrdrv: error: there is an interface usr0 already\n"
