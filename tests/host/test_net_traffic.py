# SPDX-License-Identifier: MIT
"""What goes through the interfaces of `usrdrv net`: frames of all lengths, IPv6, VLANs, groups."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scapy.all import ICMP, IP, Dot1Q, Ether  # type: ignore[attr-defined]

from tests.host.net_sides import (
    IN_SOCKETS,
    Side,
    connect,
    connected,
    iperf,
    ping,
)
from tests.needs import NEEDS_TAP
from tests.waiting import PATIENCE, at_best
from tests.waiting import until as wait_for

pytestmark = [NEEDS_TAP, pytest.mark.timeout(600)]


@pytest.mark.parametrize("mtu", [1500, pytest.param(9000, marks=pytest.mark.rare)])
def test_raw_frames_of_every_length_both_ways(sides: tuple[Side, Side], mtu: int) -> None:
    """In and out through packet sockets: the kernel's TAP, both drivers, both chips."""
    connect(sides, "--mtu", str(mtu))
    program = Path(__file__).with_name("raw_frames.py")
    macs = [side.said["mac"] for side in sides]
    talkers = [
        subprocess.Popen(
            ["ip", "netns", "exec", side.netns, sys.executable, program, "usr0", *ends, str(mtu)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for side, ends in zip(sides, (macs, macs[::-1]), strict=True)
    ]  # fmt: skip
    try:
        for talker in talkers:
            assert talker.stdout is not None
            assert talker.stdout.readline() == "ready\n"
        for talker in talkers:
            assert talker.stdin is not None
            talker.stdin.write("\n")
            talker.stdin.flush()
        for talker in talkers:
            _, said = talker.communicate(timeout=500)
            assert talker.returncode == 0, said
    finally:
        for talker in talkers:
            talker.kill()
    for side in sides:
        stats = side.stats()
        assert stats["tx_frames"] >= mtu + 1 <= stats["rx_frames"]
        assert stats["tx_errors"] == stats["rx_errors"] == stats["resets"] == 0


def snmp6(side: Side, name: str) -> int:
    """One of the kernel's counters."""
    for line in side.run("cat", "/proc/net/snmp6").stdout.splitlines():
        key, value = line.split()
        if key == name:
            return int(value)
    raise AssertionError(name)


def test_ipv6(pair: tuple[Side, Side]) -> None:
    """Neighbour discovery, fragments, large packets; the chips check none of it."""
    a, b = pair
    v6 = ("fd93::1", "fd93::2")
    for side, address in zip(pair, v6, strict=True):
        subprocess.run(
            ["ip", "-n", side.netns, "addr", "add", f"{address}/64", "dev", "usr0", "nodad"],
            check=True,
        )
    wait_for(lambda: "tentative" not in a.run("ip", "-6", "addr").stdout)
    wait_for(lambda: "tentative" not in b.run("ip", "-6", "addr").stdout)
    ping(a, b, "-6", address=v6[1])
    ping(b, a, "-6", "-s", "9000", address=v6[0])
    assert snmp6(a, "Ip6ReasmOKs") == snmp6(b, "Ip6ReasmOKs") == 5
    assert snmp6(b, "Ip6FragCreates") == 5 * 7
    before = [side.stats() for side in pair]
    for options in ((), ("-R",)):
        end = iperf(a, b, "-6", "-n", "128M", *options, address=v6[1])["end"]
        assert end["sum_received"]["bytes"] >= (128 << 20) - IN_SOCKETS

    def lost() -> float:
        udp = iperf(a, b, "-6", "-u", "-b", "20M", "-n", "2M", address=v6[1])["end"]["sum"]
        assert udp["bytes"] >= 2 << 20
        return float(udp["lost_percent"])

    # A receiver without a CPU loses what came.
    at_best(lost, lambda percent: percent < 1, "datagrams arrive, lost in percent")
    for side, old in zip(pair, before, strict=True):
        new = side.stats()
        assert new["tx_soft_checksums"] - old["tx_soft_checksums"] > (128 << 20) / 1500
        assert new["tx_frames"] - old["tx_frames"] > 2 * (new["tx_packets"] - old["tx_packets"])
        assert new["tx_errors"] == new["rx_errors"] == new["resets"] == 0


def test_all_nodes_of_the_link(pair: tuple[Side, Side]) -> None:
    """The answer is the peer's: our own is not looped back."""
    a, b = pair
    peer = "fe80::ff:fe00:2"
    wait_for(lambda: peer in b.run("ip", "-6", "addr").stdout)
    wait_for(lambda: "tentative" not in a.run("ip", "-6", "addr").stdout)
    wait_for(lambda: "tentative" not in b.run("ip", "-6", "addr").stdout)
    done = a.run(
        "ping", "-6", "-L", "-c", "3", "-i", "0.2", "-W", str(PATIENCE / 2), "ff02::1%usr0"
    )
    assert "3 received" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count(f"from {peer}%usr0") == 3, done.stdout


TAGS = """
import json, socket, struct
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.setsockopt(263, 8, 1)                       # PACKET_AUXDATA: TCI of a tag that the kernel took out
s.setsockopt(263, 23, 1)                      # PACKET_IGNORE_OUTGOING
s.bind(("usr0", 3)); s.settimeout(60)
print("ready", flush=True)
while True:
    data, control, _, _ = s.recvmsg(100, 100)
    tci = struct.unpack_from("=16xH", control[0][2])[0] if control else 0
    if data[12:14] == b"\\x08\\x00" and data[23] == 1 and data[34] == 8:
        print(json.dumps([tci & 0xfff, tci >> 13]), flush=True)
        break
"""


def heard(side: Side, script: str, send: Callable[[], object]) -> Any:
    """What a script prints that listens on a side while something is sent."""
    command = ["ip", "netns", "exec", side.netns, sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listener:
        try:
            assert listener.stdout is not None
            assert listener.stdout.readline() == "ready\n"
            send()
            return json.loads(listener.communicate(timeout=PATIENCE)[0])
        finally:
            listener.kill()


def tag_seen(near: Side, far: Side, send: Callable[[], None]) -> list[int]:
    """VLAN and priority of the next ICMP echo request that the far kernel gets."""
    found: list[int] = heard(far, TAGS, send)
    return found


SEND_TAGGED = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("usr0", 3))
s.send(bytes.fromhex(sys.argv[1]))
"""


def test_tags_in_frames(pair: tuple[Side, Side]) -> None:
    """From a packet socket through TAP, driver, chip and wire to the other kernel, with priority."""
    for near, far in (pair, pair[::-1]):
        for vlan, priority in ((42, 5), (4094, 0), (1, 7)):
            frame = Ether(src=near.said["mac"], dst=far.said["mac"])
            frame = frame / Dot1Q(vlan=vlan, prio=priority) / IP(dst=far.address) / ICMP()
            words = (sys.executable, "-c", SEND_TAGGED, bytes(frame).hex())
            assert tag_seen(near, far, lambda n=near, w=words: n.run(*w)) == [vlan, priority]  # type: ignore[misc]


def test_vlan_interfaces(pair: tuple[Side, Side]) -> None:
    """The kernel's own tags, with priorities by egress-qos-map, and large packets behind them."""
    for number, (side, priority) in enumerate(zip(pair, (5, 3), strict=True)):
        done = side.run(
            *("ip", "link", "add", "link", "usr0", "name", "usr0.42", "type", "vlan", "id", "42"),
            *("egress-qos-map", f"0:{priority}"),
        )
        if "Unknown device type" in done.stderr:
            pytest.skip("no VLAN interfaces in this kernel (module 8021q)")
        assert done.returncode == 0, done.stderr
        side.run("ip", "addr", "add", f"10.94.0.{number + 1}/24", "dev", "usr0.42")
        side.run("ip", "link", "set", "usr0.42", "up")
    a, b = pair
    assert tag_seen(a, b, lambda: ping(a, b, address="10.94.0.2")) == [42, 5]
    assert tag_seen(b, a, lambda: ping(b, a, address="10.94.0.1")) == [42, 3]
    before = [side.stats() for side in pair]
    for options in ((), ("-R",)):
        end = iperf(a, b, "-n", "64M", *options, address="10.94.0.2")["end"]
        assert end["sum_received"]["bytes"] >= (64 << 20) - IN_SOCKETS
    for side, old in zip(pair, before, strict=True):
        new = side.stats()
        assert new["tx_checksums"] - old["tx_checksums"] > 30_000, "by the chip, behind the tag"
        assert new["tx_frames"] - old["tx_frames"] > 2 * (new["tx_packets"] - old["tx_packets"])


COLLECT = """
import json, socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88b5))
s.bind(("lan7", 0x88b5)); s.settimeout(60)
print("ready", flush=True)
seen = []
while not seen or seen[-1] != "ffffffffffff":
    seen.append(s.recv(4096)[:6].hex())
print(json.dumps(seen))
"""
SEND = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("usr0", 0x88b5))
for mac in sys.argv[1:]:
    s.send(bytes.fromhex(mac) + bytes.fromhex("02000000000288b5") + bytes(50))
"""


def test_options_reach_the_chip(sides: tuple[Side, Side]) -> None:
    """Name, MTU, and which groups are received: of the interface and, by what arrives, of the chip."""
    a, b = sides
    a.ifname = "lan7"
    group, other, stranger = "01005e0000fb", "01005e000001", "020000000099"
    device = f"model:dp83820?cable={a.netns}&mac=02:00:00:00:00:0"
    a.start(device + "1", "--ifname", "lan7", "--mtu", "4000", "--multicast", "01:00:5e:00:00:fb")
    b.start(device + "2", "--mtu", "4000")
    connected(a, b)
    assert a.said["ifname"] == a.link()["ifname"] == a.stats()["ifname"] == "lan7"
    assert a.link()["mtu"] == a.stats()["mtu"] == a.said["mtu"] == 4000
    ping(a, b, "-M", "do", "-s", "3972")
    too_long = a.run("ping", "-c", "1", "-W", "1", "-M", "do", "-s", "3973", b.address)
    assert too_long.returncode != 0 and "too long" in too_long.stdout + too_long.stderr

    def arrive() -> list[str]:
        macs = (group, other, "020000000001", stranger, "ff" * 6)
        found: list[str] = heard(a, COLLECT, lambda: b.run(sys.executable, "-c", SEND, *macs))
        return found

    ours = ["020000000001", "ff" * 6]
    assert arrive() == [group, *ours]
    for words, expected in (
        ("allmulticast on", [group, other, *ours]),
        ("promisc on", [group, other, ours[0], stranger, ours[1]]),
        ("allmulticast off promisc off", [group, *ours]),
    ):
        subprocess.run(["ip", "-n", a.netns, "link", "set", "lan7", *words.split()], check=True)
        # From netlink to the chip it takes a moment.
        at_best(arrive, lambda found: found == expected, words)  # noqa: B023
    a.stop()
