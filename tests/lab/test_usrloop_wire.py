# SPDX-License-Identifier: MIT
"""Interfaces of usrloop.

main namespace                                     namespace far
usrneta 10.8.0.1  <->  usrloop_relay (rings)  <->  usrnetb 10.8.0.2
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

import pytest

from tests.lab.helpers.kmod import SLOWER, boot, call, delete, state, unload, wait
from tests.lab.helpers.loads import finish, flow
from tests.waiting import still
from usrdrv.lab.guest import Guest, Job

Boot = Callable[..., Guest]

CSUM, TSO, USO = 1, 2, 4
LIVE, QUIESCED = 2, 3
FAR = "ip netns exec far"

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def guest(guest_factory: Boot) -> Iterator[Guest]:
    guest = boot(guest_factory, "usrloop_relay", "usrloop_server")
    guest.run("ip netns add far && modprobe 8021q", check=True)
    yield guest
    unload(guest)


def relay(guest: Guest, features: int = 0, mtu: int = 1500, queues: int = 1) -> Job:
    job = guest.start(["/share/usrloop_relay", str(features), str(mtu), str(queues), "1000"])
    wait(lambda: "\n" in job.out or job.done.is_set(), 20, "relay")
    assert job.out, job.err
    return job


BOTH = pytest.mark.parametrize(
    "pair", ((0, 1), (CSUM | TSO | USO, 2)), ids=("plain", "all"), indirect=True
)


@pytest.fixture
def pair(request: pytest.FixtureRequest, guest: Guest) -> Iterator[Job]:
    """The relay, with (features, queues); all that there is, unless a test says BOTH."""
    features, queues = getattr(request, "param", (CSUM | TSO | USO, 2))
    job = relay(guest, features, queues=queues)
    guest.run(
        "ip link set usrnetb netns far && ip addr add 10.8.0.1/24 dev usrneta && ip link set usrneta up && "
        f"{FAR} ip addr add 10.8.0.2/24 dev usrnetb && {FAR} ip link set usrnetb up && {FAR} ip link set lo up",
        check=True,
    )
    yield job
    guest.run("pkill -9 -x usrloop_relay; pkill -9 -x iperf3; sleep 0.1")
    for number in (0, 1):
        call(guest, "delete", number, "net", force=True)
    assert "usrnet" not in guest.run(f"ip -o link; {FAR} ip -o link").out


def counters(guest: Guest, name: str = "usrneta", where: str = "") -> dict[str, int]:
    found = re.findall(r"(\w+): (\d+)", guest.run(f"{where} ethtool -S {name}", check=True).out)
    return {key: int(value) for key, value in found}


def total(guest: Guest, counter: str, name: str = "usrneta", where: str = "") -> int:
    return sum(v for k, v in counters(guest, name, where).items() if k.endswith(counter))


def sending(guest: Guest) -> None:
    """Wait until many packets have gone out from now on."""
    begun = total(guest, "_tx_packets")
    wait(lambda: total(guest, "_tx_packets") > begun + 100, 60, "traffic")


def ping(guest: Guest, to: str = "10.8.0.2", size: int = 56) -> None:
    """Three answers, whenever they come."""
    guest.run(f"ping -c 3 -i 0.05 -w 60 -q -s {size} -M do {to}", 90, check=True)


def iperf(guest: Guest, *more: str) -> None:
    """4 MiB of TCP; the receiver stops counting when the sender has handed over the last of them."""
    guest.run(f"{FAR} iperf3 -s -1 -D --pidfile /tmp/iperf3", check=True)
    wait(lambda: guest.run(f"{FAR} ss -ltn | grep -q 5201").code == 0, 60, "iperf3")
    said = guest.run(f"iperf3 -c 10.8.0.2 -n 4M -J {' '.join(more)}", 60 * SLOWER, check=True).out
    assert json.loads(said)["end"]["sum_received"]["bytes"] >= 2 << 20


@BOTH
def test_it_carries_packets(guest: Guest, pair: Job) -> None:
    """ping of several sizes, jumbo frames, TCP both ways; nothing is dropped, wrong or refused."""
    ping(guest, size=1472)
    iperf(guest)
    iperf(guest, "-R")
    guest.run(f"ip link set usrneta mtu 9000 && {FAR} ip link set usrnetb mtu 9000", check=True)
    ping(guest, size=8972)
    assert guest.run("ip link set usrneta mtu 9001").code != 0
    for name, where in (("usrneta", ""), ("usrnetb", FAR)):
        got = counters(guest, name, where)
        bad = [
            k for k, v in got.items() if v and k.endswith(("rx_errors", "rx_dropped", "tx_dropped"))
        ]
        assert not bad, got
        assert state(guest, 0, "net")["refused"] == 0


@BOTH
def test_offloads_are_as_agreed(guest: Guest, pair: Job, request: pytest.FixtureRequest) -> None:
    with_them = "[all]" in request.node.name
    said = guest.run("ethtool -k usrneta", check=True).out
    for name in (
        "tx-checksumming",
        "rx-checksumming",
        "tcp-segmentation-offload",
        "tx-udp-segmentation",
    ):
        assert f"{name}: {'on' if with_them else 'off'}" in said, f"{name}\n{said}"
    before = total(guest, "_tx_packets"), total(guest, "_tx_bytes")
    iperf(guest)
    packets, size = total(guest, "_tx_packets") - before[0], total(guest, "_tx_bytes") - before[1]
    assert (size / packets > 2000) == with_them, f"{size / packets:.0f} bytes a packet"
    if with_them:
        guest.run("ethtool -K usrneta tso off tx off && ethtool -K usrneta rx off", check=True)
        iperf(guest)
        used = [
            k for k, v in counters(guest).items() if v and re.fullmatch(r"queue\d_tx_packets", k)
        ]
        assert used, "no queue was used"


def test_vlans(guest: Guest, pair: Job) -> None:
    for end, name, where in ((1, "usrneta", ""), (2, "usrnetb", FAR)):
        make = f"{where} ip link add link {name} name v5 type vlan id 5"
        up = f"{where} ip addr add 10.9.0.{end}/24 dev v5 && {where} ip link set v5 up"
        guest.run(f"{make} && {up}", check=True)
    ping(guest, "10.9.0.2", 1472)


def test_ethtool_and_ip_say_what_it_is(guest: Guest, pair: Job) -> None:
    said = guest.run("ethtool -i usrneta", check=True).out
    assert "driver: usrloop\n" in said and "version: 0.1.0\n" in said
    said = guest.run("ethtool usrneta", check=True).out
    assert "Speed: 1000Mb/s" in said and "Duplex: Full" in said and "Link detected: yes" in said
    assert "02:00:00:00:00:01" in guest.run("ip link show usrneta", check=True).out
    guest.run("ip link set usrneta address 02:00:00:00:00:77", check=True)
    ping(guest)
    said = guest.run("ip -s -d link show usrneta", check=True).out
    assert "maxmtu 9000" in said and "numtxqueues" in said


def test_death_of_the_server(guest: Guest, pair: Job) -> None:
    """1. TCP flows  2. the server is killed: no carrier; addresses and routes stay  3. another one: it flows on."""
    guest.run("ip route add 10.77.0.0/16 via 10.8.0.2 dev usrneta", check=True)
    ends = flow(guest, "10.8.0.2", "far")
    sending(guest)
    pair.signal(9)
    pair.wait(60)
    assert guest.run("cat /sys/class/net/usrneta/carrier", check=True).out == "0\n"
    assert guest.run("cat /sys/class/net/usrneta/usrloop/state", check=True).out == "quiesced\n"
    assert "Link detected: no" in guest.run("ethtool usrneta", check=True).out
    assert "10.8.0.1/24" in guest.run("ip addr show usrneta", check=True).out
    assert "10.77.0.0/16" in guest.run("ip route", check=True).out
    sent = total(guest, "_tx_packets")
    guest.run("ping -c 2 -i 0.2 -W 1 -q 10.8.0.2", 30)
    assert total(guest, "_tx_packets") == sent, "sent without a server"
    job = relay(guest)
    assert state(guest, 0, "net")["state"] == LIVE
    wait(lambda: guest.run("cat /sys/class/net/usrneta/carrier").out == "1\n", 60, "carrier")
    # The other end's carrier comes on its own time, and who did not answer before is asked again later.
    wait(lambda: guest.run("ping -c 1 -W 1 10.8.0.2").code == 0, 60, "an answer")
    ping(guest)
    sending(guest)
    finish(guest, *ends)
    assert "10.77.0.0/16" in guest.run("ip route", check=True).out
    job.signal(9)


def test_down_and_up_under_load(guest: Guest, pair: Job) -> None:
    """Also while the server is stopped and all of the ring is on its way to it."""
    flood = guest.start("exec ping -f -q -s 1400 10.8.0.2")
    sending(guest)
    pair.signal(19)
    still(lambda: total(guest, "_tx_packets"))  # all of the ring is on its way
    for _ in range(3):
        guest.run(
            "ip link set usrneta down; ip link set usrneta up; "
            f"{FAR} ip link set usrnetb down; {FAR} ip link set usrnetb up",
            check=True,
        )
    pair.signal(18)
    flood.signal(2)
    flood.wait(60)
    ping(guest)
    assert state(guest, 0, "net")["refused"] == 0


def test_a_namespace_ends_with_an_interface_in_it(guest: Guest, pair: Job) -> None:
    """The interface goes with it, and a device can be deleted wherever its interface is."""
    guest.run("ip netns add brief && ip link set usrneta netns brief", check=True)
    guest.run("ip netns exec brief ip link set usrneta up && ip netns del brief", check=True)
    wait(lambda: state(guest, 0, "net")["state"] != LIVE, 60, "its end")
    assert guest.run("ip link show usrneta").code != 0
    delete(guest, 1, "net")  # in namespace far
    assert "usrnetb" not in guest.run(f"{FAR} ip -o link", check=True).out
