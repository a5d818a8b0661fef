# SPDX-License-Identifier: MIT
"""Zero copy: an interface of usrloop whose packets the chip itself fetches and stores, on our kernel.

main namespace                                                               namespace far
usr0 (usrloop) == driver: addresses only == DP83820 model == cable == DP83820 model == ns83820 eth1

The guest has no IOMMU. make test-all runs all tests in a guest with one that translates addresses, too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lab.helpers import nics
from tests.lab.helpers.kmod import DEBUG, KERNEL, SLOWER
from tests.lab.helpers.loads import WAYS, finish, flow, flows
from tests.lab.helpers.nics import (
    answers,
    cabled,
    iperf,
    kept_going,
    killed_in_a_flow,
    ping,
    stats,
    udp_arrives,
    until,
)
from usrdrv.lab.guest import Guest, Job
from usrdrv.lab.models import Model
from usrdrv.lab.qemu import address

Boot = Callable[..., Guest]

NEAR_MAC, FAR_MAC = "02:00:00:00:00:0d", "02:00:00:00:00:0e"
NEAR, FAR = "10.91.0.1", "10.91.0.2"
NEAR6, FAR6 = "fd00:91::1", "fd00:91::2"
IN_FAR = "ip netns exec far"
HEADERS = 256
"""Bytes of a frame, at most, that are copied (USRLOOP_NET_HEAD)."""

pytestmark = pytest.mark.timeout(900 * SLOWER)


@pytest.fixture(scope="module")
def models() -> Iterator[list[Model]]:
    with cabled(NEAR_MAC, FAR_MAC) as models:
        yield models


@pytest.fixture(scope="module", params=["bare", pytest.param("iommu", marks=pytest.mark.rare)])
def guest(
    request: pytest.FixtureRequest, models: list[Model], guest_factory: Boot
) -> Iterator[Guest]:
    iommu = request.param == "iommu"
    # ns83820 points RXDP at a filled descriptor and relies on the chip to look before it is free again.
    guest = guest_factory(
        [model.socket for model in models],
        kernel=KERNEL,
        kmod=True,
        iommu=iommu,
        posted=False,
        append="init_on_free=1" + (" iommu=nopt" if iommu else ""),
        cpus=2,
        memory=2048 if SLOWER > 1 else 1024,
        timeout=120 * SLOWER,
    )
    guest.run("modprobe usrloop && ip netns add far", check=True)
    if not DEBUG:
        guest.run(
            f"modprobe ns83820 && ip link set eth1 netns far && {IN_FAR} ip addr add {FAR}/24 dev eth1 && "
            f"{IN_FAR} ip addr add {FAR6}/64 dev eth1 nodad && {IN_FAR} ip link set eth1 up",
            check=True,
        )
    yield guest
    guest.run("rmmod usrloop", 60 * SLOWER, check=True)
    guest.close()


def start(guest: Guest, options: str = "", number: int = 0) -> tuple[Job, dict[str, Any]]:
    """Start `usrdrv net`; what it said of itself."""
    job, said = nics.start(guest, f"net{number}", f"{address(number)} {options}")
    assert said["export"] == "usrloop"
    return job, said


def end(guest: Guest, job: Job, said: dict[str, Any]) -> None:
    nics.end(guest, job, said)
    assert said["ifname"] not in guest.run("ip -br link", check=True).out


def up(guest: Guest) -> None:
    guest.run(
        f"ip addr add {NEAR}/24 dev usr0 && ip addr add {NEAR6}/64 dev usr0 nodad && ip link set usr0 up",
        check=True,
    )
    until(guest, "grep -qx 1 /sys/class/net/usr0/carrier")


class Ours:
    """`usrdrv net` on the first NIC."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._job, self._said = start(guest)
        self._ended = False
        up(guest)

    def end(self) -> None:
        """Idempotent."""
        if not self._ended:
            self._ended = True
            end(self._guest, self._job, self._said)
            found = self._guest.run(f"lspci -k -s {address(0)}", check=True).out
            assert "ns83820" in found, "given back"


@pytest.fixture(scope="module")
def ours(guest: Guest) -> Iterator[Ours]:
    if DEBUG:
        pytest.skip(
            "ns83820 breaks a rule of the DMA API, at which the kernel warns once and never again"
        )
    ours = Ours(guest)
    yield ours
    ours.end()


@pytest.fixture(scope="module")
def unserved(guest: Guest, request: pytest.FixtureRequest) -> None:
    """For those that come after the tests of `ours`: the NIC is nobody's."""
    if not DEBUG:
        request.getfixturevalue("ours").end()


def counters(guest: Guest) -> dict[str, int]:
    """The module's."""
    text = guest.run("ethtool -S usr0", check=True).out
    return {name: int(value) for name, value in re.findall(r"queue0_(\w+): (\d+)", text)}


def difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, int]:
    return {name: after[name] - n for name, n in before.items() if isinstance(n, int)}


def all_is_well(guest: Guest) -> None:
    found = stats(guest)
    for name in ("tx_errors", "rx_errors", "tx_dropped", "rx_dropped", "resets", "restarts"):
        assert found[name] == 0, (name, found)
    kernel = counters(guest)
    assert not kernel["rx_errors"] and not kernel["rx_dropped"] and not kernel["tx_dropped"], kernel
    assert guest.run("cat /sys/class/net/usr0/usrloop/refused").out.strip() == "0"


def test_it_offers_what_the_chip_does(guest: Guest, ours: Ours) -> None:
    text = guest.run("ethtool -k usr0", check=True).out
    for line in (
        *("scatter-gather: on", "tx-checksum-ipv4: on", "tx-checksum-ipv6: off [fixed]"),
        *("tx-checksum-ip-generic: off [fixed]", "tx-tcp-segmentation: on"),
        *("tx-tcp6-segmentation: off [fixed]", "tx-udp-segmentation: off [fixed]"),
        *("rx-checksumming: on", "generic-receive-offload: on"),
    ):
        assert line in text, f"{line}\n{text}"
    assert "usrdrv" in guest.run(f"lspci -k -s {address(0)}", check=True).out


def test_pings_of_all_sizes(guest: Guest, ours: Ours) -> None:
    for size in (0, 56, 200, 214, 215, 300, 1000, 1472, 8000):
        ping(guest, FAR, "-s", str(size), count=3)
        ping(guest, FAR6, "-s", str(size), count=3)
    all_is_well(guest)


def test_tcp_both_ways(guest: Guest, ours: Ours) -> None:
    for way in ((), ("-R",)):
        before, counted = stats(guest), counters(guest)
        moved = iperf(guest, FAR, "-n", "16M", *way)
        assert moved["sum_received"]["bytes"] >= 8 << 20
        spent, kernel = difference(before, stats(guest)), difference(counted, counters(guest))
        frames = spent["tx_frames"] + spent["rx_frames"]
        # The chip filled in or verified checksums; of the data nobody copied a byte.
        assert spent["tx_checksums"] + spent["rx_checked"] > frames * 0.9, spent
        assert spent["copied"] <= spent["tx_frames"] * HEADERS
        data, side = ("rx", "rx") if way else ("tx", "tx")
        assert kernel[f"{data}_bytes"] > 8 << 20
        assert kernel[f"{side}_copied"] <= kernel[f"{data}_packets"] * HEADERS, kernel
        if not way:
            assert spent["tx_frames"] > 2 * spent["tx_packets"], "large packets were cut"
    all_is_well(guest)


def test_tcp_over_ipv6(guest: Guest, ours: Ours) -> None:
    """The chip knows nothing of it: the kernel cuts and sums, and the data stay where they are."""
    for way in ((), ("-R",)):
        moved = iperf(guest, FAR6, "-n", "4M", *way)
        assert moved["sum_received"]["bytes"] >= 2 << 20
    all_is_well(guest)


def test_udp_both_ways(guest: Guest, ours: Ours) -> None:
    for way in ((), ("-R",)):
        udp_arrives(guest, FAR, *way)


SEND = """
import hashlib, socket, sys
s = socket.create_connection((sys.argv[1], 7777), timeout=60)
with open(sys.argv[2], "rb") as file:
    s.sendfile(file)
s.shutdown(socket.SHUT_WR)
print(s.recv(100).decode())
"""
TAKE = """
import hashlib, socket
s = socket.create_server(("0.0.0.0", 7777))
open("/tmp/listening", "w").close()
c, _ = s.accept()
total = hashlib.sha256()
while data := c.recv(1 << 16):
    total.update(data)
c.sendall(total.hexdigest().encode())
"""


@pytest.mark.parametrize("way", ["out", "in"])
def test_a_file_arrives_as_it_was(guest: Guest, ours: Ours, way: str) -> None:
    """sendfile() from the page cache, to a reader that sums what came."""
    guest.run(
        "rm -f /tmp/listening; [ -e /tmp/data ] || head -c 12M /dev/urandom > /tmp/data", check=True
    )
    wanted = guest.run("sha256sum < /tmp/data", check=True).out.split()[0]
    there, here, to = (IN_FAR, "", FAR) if way == "out" else ("", IN_FAR, NEAR)
    (guest.share / "take.py").write_text(TAKE)
    (guest.share / f"send-{way}.py").write_text(SEND)
    server = guest.start(f"exec {there} python3 /share/take.py")
    until(guest, "test -e /tmp/listening")
    sender = guest.run(f"{here} python3 /share/send-{way}.py {to} /tmp/data", 180 * SLOWER)
    assert sender.code == 0, sender.err
    assert server.wait(60).code == 0
    assert sender.out.strip() == wanted
    assert len(wanted) == hashlib.sha256().digest_size * 2


def test_it_is_down_and_up_under_load(guest: Guest, ours: Ours) -> None:
    with kept_going(guest, NEAR, IN_FAR):
        ends = flow(guest, FAR, "far")
        for _ in range(3):
            flows(guest, "usr0", *ends)
            guest.run("ip link set usr0 down && ip link set usr0 up", check=True)
        finish(guest, *ends)
    guest.run(f"ip addr replace {NEAR6}/64 dev usr0 nodad")
    ping(guest, FAR)


def test_vlan_with_tags_by_the_chip(guest: Guest, ours: Ours) -> None:
    """To the wire: ns83820 calls tags that it receives IPv6, so the answer does not come."""
    guest.run(
        "ip link add link usr0 name usr0.42 type vlan id 42 && ip addr add 10.92.0.1/24 dev usr0.42 && "
        "ip link set usr0.42 up && ip neigh add 10.92.0.2 lladdr 02:00:00:00:00:99 dev usr0.42",
        check=True,
    )
    before = counters(guest)
    guest.run("ping -c 3 -i 0.2 -W 1 -s 1400 10.92.0.2", 30)
    guest.run("ip link del usr0.42", check=True)
    assert counters(guest)["tx_packets"] - before["tx_packets"] >= 3
    all_is_well(guest)


def test_checksums_that_the_chip_does_not_know(guest: Guest, ours: Ours) -> None:
    """Nobody but the chip sees the data: where it does not know the place, the kernel fills in the sum before."""
    guest.run(
        "rm -f /tmp/taking; ip link add link usr0 name usr0.9 type vlan proto 802.1ad id 9 && "
        "ip addr add 10.93.0.1/24 dev usr0.9 && ip link set usr0.9 up && "
        f"ip neigh add 10.93.0.2 lladdr {FAR_MAC} dev usr0.9",
        check=True,
    )
    before = stats(guest)
    taker = guest.start(f"exec {IN_FAR} python3 /src/tests/lab/guest/odd_checksums.py take eth1")
    until(guest, "test -e /tmp/taking")
    guest.run(f"python3 /src/tests/lab/guest/odd_checksums.py send usr0 {FAR_MAC}", 60, check=True)
    result = taker.wait(60 * SLOWER)
    guest.run("ip link del usr0.9", check=True)
    names = ("plain", "802.1ad", "inner", "802.1ad by the kernel")
    assert json.loads(result.out) == dict.fromkeys(names, True), result
    spent = difference(before, stats(guest))
    assert spent["tx_dropped"] == 0 and spent["tx_checksums"] >= 1, spent
    all_is_well(guest)


def test_killed_driver_comes_back_under_load(guest: Guest, ours: Ours) -> None:
    """Pages that the chip fetches or fills are not freed before it has lost the bus: else the file would differ."""
    for way in WAYS:
        with kept_going(guest, NEAR, IN_FAR):
            killed_in_a_flow(guest, *flow(guest, FAR, "far", way))
        ping(guest, FAR)
    test_a_file_arrives_as_it_was(guest, ours, "out")


@pytest.mark.skipif(DEBUG, reason="as above: it takes ns83820")
def test_the_kernel_copies_if_asked_to(guest: Guest, unserved: None) -> None:
    job, said = start(guest, "--no-zero-copy")
    up(guest)
    ping(guest, FAR, "-s", "1400")
    assert "tx-checksum-ip-generic: on" in guest.run("ethtool -k usr0", check=True).out
    kernel = counters(guest)
    assert kernel["tx_copied"] == kernel["tx_bytes"] and kernel["rx_copied"] == kernel["rx_bytes"]
    end(guest, job, said)


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("close", marks=pytest.mark.rare),
        "claim",
        pytest.param("stop", marks=pytest.mark.rare),
        "die",
    ],
)
def test_a_server_that_lies(guest: Guest, unserved: None, how: str) -> None:
    """Then it ends with packets on their way, and everything is given back."""
    guest.run("echo 0 > /proc/sys/net/ipv6/conf/default/accept_ra; true")
    result = guest.run(
        f"python3 /src/tests/lab/guest/zero_copy_net.py {address(0)} {how}", 120 * SLOWER
    )
    assert result.out == "ok\n", result.err
    assert result.code == (0 if how != "die" else -9) or result.code == 137, result
    until(guest, "! ip -br link | grep -q usrbad")
    until(guest, f"! lspci -k -s {address(0)} | grep -q 'in use: usrdrv'")


def test_jumbo_frames_between_two_of_ours(guest: Guest, unserved: None) -> None:
    """A frame takes several pages; more than the chip can sum are the kernel's to sum."""
    if not DEBUG:
        guest.run(
            f"{IN_FAR} ip link set eth1 down && {IN_FAR} ip link set eth1 netns 1", check=True
        )
    guest.run("ip netns add two", check=True)
    first = start(guest, "--mtu 9000")
    second = start(guest, "--mtu 9000 --netns two", number=1)
    up(guest)
    guest.run(f"ip -n two addr add {FAR}/24 dev usr0 && ip -n two link set usr0 up", check=True)
    answers(guest, FAR)
    ping(guest, FAR, "-M do", "-s 8972")
    ping(guest, FAR, "-M do", "-s 4000")
    for way in ("", "-R"):
        ended = iperf(guest, FAR, "-n 16M", way, namespace="two")
        assert ended["sum_received"]["bytes"] >= 8 << 20
    guest.run("ip link set usr0 mtu 1500", check=True)
    until(guest, "usrdrv net stats usr0 | grep -q 'mtu *1500'")
    until(guest, "grep -qx 1 /sys/class/net/usr0/carrier")
    ping(guest, FAR)
    kernel = counters(guest)
    assert kernel["tx_bytes"] > 8 << 20 and kernel["rx_bytes"] > 8 << 20
    for side in ("tx", "rx"):
        assert kernel[f"{side}_copied"] <= kernel[f"{side}_packets"] * HEADERS, kernel
    assert not kernel["rx_errors"] and not kernel["rx_dropped"], kernel
    end(guest, *first)
    nics.end(guest, *second)
