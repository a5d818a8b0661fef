# SPDX-License-Identifier: MIT
"""What goes through the interfaces of `usrdrv net`: frames of all lengths, IPv6, VLANs, groups."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from net_sides import IN_SOCKETS, NEEDS_TAP, Side, connect, iperf, ping, wait_for

pytestmark = [NEEDS_TAP, pytest.mark.timeout(180)]


@pytest.mark.parametrize("mtu", [1500, 9000])
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
            _, said = talker.communicate(timeout=120)
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
    udp = iperf(a, b, "-6", "-u", "-b", "20M", "-t", "1", address=v6[1])["end"]["sum"]
    assert udp["packets"] > 1000 and udp["lost_percent"] < 1
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
    done = a.run("ping", "-6", "-L", "-c", "3", "-i", "0.2", "-W", "2", "ff02::1%usr0")
    assert "3 received" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count(f"from {peer}%usr0") == 3, done.stdout
