# SPDX-License-Identifier: MIT
"""The DP83820 in a guest: stock ns83820 at both ends of the wire, then our driver through VFIO at one."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lab.helpers.loads import flow
from tests.lab.helpers.nics import (
    answers,
    cabled,
    end,
    iperf,
    kept_going,
    killed_in_a_flow,
    ping,
    start,
    stats,
    udp_arrives,
    until,
)
from tests.model_faults import broken
from tests.waiting import at_best
from tests.waiting import until as wait_for
from usrdrv.devices import control
from usrdrv.lab.guest import Guest
from usrdrv.lab.models import Model
from usrdrv.lab.qemu import address

Boot = Callable[..., Guest]

NEAR_MAC, FAR_MAC = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
NEAR, FAR = "10.8.0.1", "10.8.0.2"


@pytest.fixture(scope="module")
def models() -> Iterator[list[Model]]:
    with cabled(NEAR_MAC, FAR_MAC) as models:
        yield models


@pytest.fixture(scope="module")
def guest(models: list[Model], guest_factory: Boot) -> Guest:
    # ns83820 points RXDP at a filled descriptor and relies on the chip to look before it is free again.
    guest = guest_factory(
        devices=[model.socket for model in models], kernel="stock", iommu=True, posted=False
    )
    guest.run("modprobe -a ns83820 tun 8021q && ip netns add far", check=True)
    return guest


def counters(model: Model) -> dict[str, int]:
    found: dict[str, int] = control.call(model.control, {"op": "counters"})
    return found


def moved(end: dict[str, Any]) -> int:
    """Bytes that arrived: what was sent, but for what was on its way when the time was over."""
    sent, received = end["sum_sent"]["bytes"], end["sum_received"]["bytes"]
    assert received > 0 and abs(sent - received) < 8 << 20
    return int(received)


@pytest.fixture(scope="module")
def stock(guest: Guest) -> Iterator[Guest]:
    """The kernel's driver at both ends."""
    guest.run(
        f"ip link set eth1 netns far && ip addr add {NEAR}/24 dev eth0 && ip link set eth0 up && "
        f"ip -n far addr add {FAR}/24 dev eth1 && ip -n far link set eth1 up",
        check=True,
    )
    answers(guest, FAR)
    yield guest


def test_probe_says_what_is_there(stock: Guest) -> None:
    log = stock.kernel_log()
    assert re.search(rf"eth0: ns83820 v[\d.]+: DP83820 v1\.3: {NEAR_MAC} .*f=h,sg", log)
    assert "subsystem: 1186:4900" in log and "bist failed" not in log and "timed out" not in log
    assert "eth0: link now 1000 mbps, full duplex and up." in log
    info = stock.run("ethtool eth0; ethtool -i eth0", check=True).out
    assert "Speed: 1000Mb/s" in info and "Duplex: Full" in info and "Link detected: yes" in info
    assert "driver: ns83820" in info and "bus-info: 0000:00:10.0" in info


def test_stock_at_both_ends(stock: Guest, models: list[Model]) -> None:
    ping(stock, FAR)
    ping(stock, FAR, "-s", "8000", count=3)  # fragments
    before = [counters(model) for model in models]
    for options in ((), ("-R",)):
        assert moved(iperf(stock, FAR, "-n", "16M", *options)) >= 8 << 20
        udp_arrives(stock, FAR, *options)
    after = [counters(model) for model in models]
    for old, new in zip(before, after, strict=True):
        assert new["tx_frames"] - old["tx_frames"] > 5000
        assert new["tx_checksums"] > old["tx_checksums"], "the chip fills in checksums"
        for name in ("unexpected", "master_aborts", "tx_hangs", "rx_misaligned", "tx_no_link"):
            assert new[name] == old[name], name


def test_what_ethtool_and_ip_say_of_stock(stock: Guest, models: list[Model]) -> None:
    """ns83820 has neither counters nor a register dump; the stack counts what the chip moved."""
    for option, said in (("-S", "no stats available"), ("-d", "Operation not supported")):
        result = stock.run(f"ethtool {option} eth0")
        assert result.code != 0 and said in result.out + result.err, result

    def counted() -> tuple[list[int], list[int]]:
        shown = json.loads(stock.run("ip -j -s link show eth0", check=True).out)[0]
        assert shown["stats64"]["rx"]["errors"] == shown["stats64"]["tx"]["errors"] == 0
        model = counters(models[0])
        return (
            [shown["stats64"][way]["packets"] for way in ("rx", "tx")],
            [model[f"{way}_frames"] for way in ("rx", "tx")],
        )

    def moved() -> list[list[int]]:
        """By the kernel's account and by the chip's, in and out."""
        before = counted()
        ping(stock, FAR, count=20)
        after = counted()
        return [[after[i][way] - before[i][way] for way in range(2)] for i in range(2)]

    # Both are asked one after the other; what the kernel sends of its own accord may come in between.
    at_best(moved, lambda by: by[0] == by[1] and min(by[0]) >= 20, "the same account", 200)


def test_stock_has_no_jumbo_frames(stock: Guest) -> None:
    result = stock.run("ip link set eth0 mtu 1501")
    assert result.code != 0 and "mtu greater than device maximum" in result.err
    assert json.loads(stock.run("ip -j link show eth0", check=True).out)[0]["mtu"] == 1500


def test_link_loss_is_noticed(stock: Guest, models: list[Model]) -> None:
    since = stock.console.position()
    with broken(models[1].control, {"kind": "link-down"}):
        wait_for(lambda: re.search(r"eth0: link now .*down", stock.kernel_log(since)), "its loss")
    up = "link now 1000 mbps, full duplex and up."
    wait_for(lambda: up in stock.kernel_log(since), "its return")
    ping(stock, FAR)


def test_an_interface_that_is_up_is_not_taken(stock: Guest) -> None:
    result = stock.run(f"usrdrv net {address(0)}", timeout=60)
    assert result.code == 1
    assert "ns83820 has it: interface eth0 is up" in result.err


@pytest.fixture(scope="module")
def ours(stock: Guest) -> Iterator[dict[str, Any]]:
    """Our driver at the far end, through VFIO."""
    stock.run("ip -n far link set eth1 down && ip -n far link set eth1 netns 1", check=True)
    job, said = start(stock, "net", f"{address(1)} --netns far")
    assert said["mac"] == FAR_MAC and said["netns"] == "far"
    stock.run(f"ip -n far addr add {FAR}/24 dev usr0 && ip -n far link set usr0 up", check=True)
    answers(stock, FAR)
    yield said
    end(stock, job, said)
    assert "usr0" not in stock.run("ip -n far -br link", check=True).out
    assert "ns83820" in stock.run(f"lspci -k -s {address(1)}", check=True).out, "given back"


def test_our_driver_against_stock(stock: Guest, ours: dict[str, Any], models: list[Model]) -> None:
    assert "vfio-pci" in stock.run(f"lspci -k -s {address(1)}", check=True).out
    ping(stock, FAR)
    before = counters(models[1])
    for options in ((), ("-R",)):
        assert moved(iperf(stock, FAR, "-n", "16M", *options)) >= 8 << 20
        udp_arrives(stock, FAR, *options)
    after = counters(models[1])
    found = stats(stock, "far")
    frames = after["tx_frames"] - before["tx_frames"] + after["rx_frames"] - before["rx_frames"]
    assert frames > 10_000
    assert found["tx_errors"] == found["rx_errors"] == found["resets"] == 0
    assert found["rx_checked"] > found["rx_frames"] * 0.9
    # What a PCI round trip costs is not paid per frame.
    assert after["register_reads"] - before["register_reads"] < frames / 5


@pytest.mark.kernel_log(allow=[r"vlan_do_receive", r"Call Trace"])
def test_vlan_tags_that_the_chips_put_in(stock: Guest, ours: dict[str, Any]) -> None:
    """One way: ns83820 calls received tags IPv6, at which the kernel warns."""
    stock.run(
        "ip link add link eth0 name eth0.42 type vlan id 42 egress-qos-map 0:5 && "
        "ip addr add 10.9.0.1/24 dev eth0.42 && ip link set eth0.42 up && "
        "ip -n far link add link usr0 name usr0.42 type vlan id 42 && "
        "ip -n far addr add 10.9.0.2/24 dev usr0.42 && ip -n far link set usr0.42 up",
        check=True,
    )
    stock.run("ping -c 3 -i 0.2 -W 1 10.9.0.2", timeout=30)
    received = "cat /sys/class/net/usr0.42/statistics/rx_packets"
    until(stock, f"[ $(ip netns exec far {received}) -ge 3 ]")
    stock.run("ip link del eth0.42; ip -n far link del usr0.42", check=True)


def test_killed_driver_comes_back_under_load(stock: Guest, ours: dict[str, Any]) -> None:
    with kept_going(stock, FAR):
        ends = flow(stock, FAR, "far")
        killed_in_a_flow(stock, *ends, through="eth0", netns="far")
    assert "was killed by SIGKILL; restarted in" in stock.run("cat /tmp/net.err", check=True).out
    ping(stock, FAR)


TAGS = """
import socket, struct
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.setsockopt(263, 8, 1)
s.setsockopt(263, 23, 1)
s.bind(("usr0", 3)); s.settimeout(100)
open("/tmp/tags.ready", "w").close()
while True:
    data, control, _, _ = s.recvmsg(100, 100)
    if data[12:14] == bytes((8, 0)) and data[23] == 1 and data[34] == 8:
        tci = struct.unpack_from("=16xH", control[0][2])[0]
        print(tci & 0xfff, tci >> 13)
        break
"""
"""VLAN and priority of the next echo request: the kernel has taken the tag out (PACKET_AUXDATA)."""


def vlan_with_priority(guest: Guest) -> None:
    """Between two of ours: kernel, TAP, driver, chip, and all that again."""
    guest.run(
        "ip link add link near0 name near0.43 type vlan id 43 egress-qos-map 0:5 && "
        "ip addr add 10.9.1.1/24 dev near0.43 && ip link set near0.43 up && "
        "ip -n far link add link usr0 name usr0.43 type vlan id 43 && "
        "ip -n far addr add 10.9.1.2/24 dev usr0.43 && ip -n far link set usr0.43 up",
        check=True,
    )
    script = ["ip", "netns", "exec", "far", "python3", "-c", TAGS]
    job = guest.start(f"exec {shlex.join(script)} > /tmp/tags.out 2>&1")
    until(guest, "test -e /tmp/tags.ready")
    ping(guest, "10.9.1.2", count=3)
    assert job.wait(120).code == 0
    assert guest.run("cat /tmp/tags.out").out.split() == ["43", "5"]
    guest.run("ip link del near0.43; ip -n far link del usr0.43", check=True)


def test_jumbo_frames_between_two_of_ours(
    stock: Guest, ours: dict[str, Any], models: list[Model]
) -> None:
    stock.run("ip link set eth0 down", check=True)
    job, said = start(stock, "near", f"{address(0)} --mtu 9000 --ifname near0")
    assert said["mac"] == NEAR_MAC
    stock.run(
        f"ip -n far link set usr0 mtu 9000 && ip addr add {NEAR}/24 dev near0 && "
        "ip link set near0 up",
        check=True,
    )
    answers(stock, FAR)
    ping(stock, FAR, "-M do", "-s 8972", count=5)
    result = stock.run(f"ping -c 1 -W 1 -M do -s 8973 {FAR}")
    assert result.code != 0 and "Message too long" in result.out + result.err
    before = counters(models[1])
    for options in ((), ("-R",)):
        assert moved(iperf(stock, FAR, "-n", "16M", *options)) >= 8 << 20
    after = counters(models[1])
    for way in ("tx", "rx"):
        frames = after[f"{way}_frames"] - before[f"{way}_frames"]
        octets = after[f"{way}_bytes"] - before[f"{way}_bytes"]
        assert octets > 8 << 20 and octets / frames > 3000, "acknowledgements and all"
    for options in ((), ("-R",)):
        udp_arrives(stock, FAR, "-l", "1400", *options)
    vlan_with_priority(stock)
    found = stats(stock, ifname="near0")
    assert found["mtu"] == 9000
    assert found["tx_errors"] == found["rx_errors"] == found["resets"] == 0
    end(stock, job, said)
