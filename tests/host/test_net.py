# SPDX-License-Identifier: MIT
"""`usrdrv net` with the kernel's own network stack at both ends of a cable, in namespaces of our own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from usrdrv.devices import control
from usrdrv.lab.models import Model

pytestmark = [
    pytest.mark.skipif(
        os.geteuid() != 0 or not Path("/dev/net/tun").exists(), reason="needs root and /dev/net/tun"
    ),
    pytest.mark.timeout(180),
]

IN_SOCKETS = 8 << 20
"""Bytes that may be on their way when the client of iperf3 has sent all."""
USRDRV = [sys.executable, "-P", "-m", "usrdrv"]


def ip(*words: str) -> Any:
    """`ip -j WORDS`, decoded."""
    done = subprocess.run(
        ["ip", "-j", "-d", "-s", *words], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout or "null")


def wait_for(condition: Any, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "does not happen"
        time.sleep(0.02)


@dataclass
class Side:
    """A namespace with the interface that `usrdrv net` keeps in it."""

    netns: str
    address: str
    process: subprocess.Popen[str] = field(init=False)
    said: dict[str, Any] = field(init=False)

    def run(self, *words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["ip", "netns", "exec", self.netns, *words],
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    def link(self) -> dict[str, Any]:
        found: dict[str, Any] = ip("-n", self.netns, "link", "show", "usr0")[0]
        return found

    def carrier(self) -> bool:
        return "LOWER_UP" in self.link()["flags"]

    def stats(self) -> dict[str, Any]:
        done = subprocess.run(
            [*USRDRV, "net", "stats", "usr0", "--netns", self.netns, "--json"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def start(self, device: str, *options: str) -> None:
        self.process = subprocess.Popen(
            [*USRDRV, "net", device, "--netns", self.netns, "--json", *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.said = json.loads(line)
        subprocess.run(
            f"ip -n {self.netns} addr add {self.address}/24 dev usr0 && "
            f"ip -n {self.netns} link set usr0 up && ip -n {self.netns} link set lo up",
            shell=True, check=True,
        )  # fmt: skip

    def stop(self) -> str:
        """End it; it ends well and leaves nothing. Returns what it said on standard error."""
        self.process.send_signal(signal.SIGINT)
        _, said = self.process.communicate(timeout=20)
        assert self.process.returncode == 0, said
        assert "usr0" not in self.run("ip", "link").stdout
        return said


@pytest.fixture
def sides() -> Iterator[tuple[Side, Side]]:
    name = f"usrdrv-{uuid.uuid4().hex[:8]}"
    made = (Side(f"{name}-a", "10.93.0.1"), Side(f"{name}-b", "10.93.0.2"))
    for side in made:
        subprocess.run(["ip", "netns", "add", side.netns], check=True)
    try:
        yield made
    finally:
        for side in made:
            if hasattr(side, "process") and side.process.poll() is None:
                side.process.kill()
                side.process.communicate()
            subprocess.run(["ip", "netns", "del", side.netns], check=True)


@pytest.fixture
def pair(sides: tuple[Side, Side]) -> tuple[Side, Side]:
    for number, side in enumerate(sides):
        side.start(f"model:dp83820?cable={sides[0].netns}&mac=02:00:00:00:00:0{number + 1}")
    wait_for(lambda: sides[0].carrier() and sides[1].carrier())
    return sides


def ping(a: Side, b: Side, *options: str) -> None:
    done = a.run("ping", "-c", "5", "-i", "0.1", "-W", "2", *options, b.address)
    assert "5 received" in done.stdout, done.stdout + done.stderr


def iperf(a: Side, b: Side, *options: str, kill: int | None = None) -> dict[str, Any]:
    """iperf3 from a to b; `kill`: a process that dies after 1.5 s of it."""
    server = subprocess.Popen(
        ["ip", "netns", "exec", b.netns, "iperf3", "-s", "-1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(lambda: ":5201" in b.run("ss", "-ltn").stdout)
        if kill is not None:
            threading.Timer(1.5, os.kill, (kill, signal.SIGKILL)).start()
        done = a.run("iperf3", "-J", "-c", b.address, *options)
        assert done.returncode == 0, done.stdout
        assert server.wait(20) == 0
    finally:
        if server.poll() is None:
            server.kill()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_interface_is_what_was_asked_for(pair: tuple[Side, Side]) -> None:
    a, b = pair
    link = a.link()
    assert link["address"] == "02:00:00:00:00:01" == a.said["mac"]
    assert link["mtu"] == 1500 and link["linkinfo"]["info_data"]["type"] == "tap"
    assert link["ifalias"].startswith("usrdrv model:dp83820")
    ping(a, b)
    ping(b, a, "-s", "9000")  # fragments
    wait_for(lambda: "tentative" not in a.run("ip", "-6", "addr").stdout)
    v6 = a.run("ping", "-6", "-c", "2", "-W", "2", "ff02::1%usr0")
    assert v6.returncode == 0, v6.stdout  # multicast, neighbour discovery
    assert a.stats()["speed"] == 1000
    a.stop()
    wait_for(lambda: not b.carrier())
    b.stop()


def test_tcp_both_ways_and_udp(pair: tuple[Side, Side]) -> None:
    a, b = pair
    for options in ((), ("-R",)):
        end = iperf(a, b, "-n", "256M", *options)["end"]
        assert end["sum_received"]["bytes"] >= (256 << 20) - IN_SOCKETS
    udp = iperf(a, b, "-u", "-b", "50M", "-t", "2")["end"]["sum"]
    assert udp["packets"] > 5000 and udp["lost_percent"] < 1
    stats = a.stats()
    assert stats["tx_errors"] == stats["rx_errors"] == stats["resets"] == 0
    assert stats["tx_frames"] > 5 * stats["tx_packets"], "the kernel hands over large packets"
    assert stats["rx_frames"] > 3 * stats["rx_packets"], "and gets large ones back"
    frames = stats["tx_frames"] + stats["rx_frames"]
    assert stats["system_calls"] < frames / 2 and stats["copied"] < 80 * frames


def test_without_offloads(sides: tuple[Side, Side]) -> None:
    for number, side in enumerate(sides):
        device = f"model:dp83820?cable={sides[0].netns}&mac=02:00:00:00:00:0{number + 1}"
        side.start(device, "--no-offload")
    wait_for(lambda: sides[0].carrier() and sides[1].carrier())
    end = iperf(*sides, "-n", "64M")["end"]
    assert end["sum_received"]["bytes"] >= (64 << 20) - IN_SOCKETS
    stats = sides[0].stats()
    assert stats["tx_frames"] == stats["tx_packets"] and stats["tx_checksums"] == 0


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
        wait_for(lambda: sides[0].carrier() and sides[1].carrier())
        ping(*sides, "-s", "8000")
        for options in ((), ("-R",)):
            end = iperf(*sides, "-n", "64M", *options)["end"]
            assert end["sum_received"]["bytes"] >= (64 << 20) - IN_SOCKETS
        report = iperf(*sides, "-t", "5", kill=sides[1].said["driver_pid"])
        moved = [interval["sum"]["bytes"] for interval in report["intervals"]]
        assert moved[0] > 10 << 20 and moved[-1] > 10 << 20, moved
        assert sides[1].stats()["restarts"] == 1
        for side, model in zip(sides, models, strict=True):
            assert control.call(model.control, {"op": "counters"})["unexpected"] == 0
            side.stop()


@pytest.mark.parametrize("end", [0, 1])
def test_flow_survives_the_death_of_either_driver(pair: tuple[Side, Side], end: int) -> None:
    victim = pair[end]
    route = ["ip", "-n", victim.netns, "route", "add", "192.0.2.0/24", "via", pair[1 - end].address]
    subprocess.run(route, check=True)
    report = iperf(*pair, "-t", "5", kill=victim.said["driver_pid"])
    moved = [interval["sum"]["bytes"] for interval in report["intervals"]]
    assert moved[0] > 10 << 20 and moved[-1] > 10 << 20, moved
    stats = victim.stats()
    assert stats["restarts"] == 1 and stats["driver_pid"] != victim.said["driver_pid"]
    assert any(r["dst"] == "192.0.2.0/24" for r in ip("-n", victim.netns, "route"))
    assert victim.link()["address"] == victim.said["mac"]
    assert "was killed by SIGKILL; restarted in" in victim.stop()
    pair[1 - end].stop()


def test_a_crash_loop_is_given_up(pair: tuple[Side, Side]) -> None:
    a = pair[0]
    seen = set()
    end = time.monotonic() + 30
    while a.process.poll() is None and time.monotonic() < end:
        pid = int(a.stats()["driver_pid"]) if not seen else None
        for entry in (
            Path(f"/proc/{a.process.pid}/task/{a.process.pid}/children").read_text().split()
        ):
            pid = int(entry)
            if pid not in seen:
                seen.add(pid)
                time.sleep(0.3)
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    _, said = a.process.communicate(timeout=10)
    assert a.process.returncode == 1
    assert re.search(
        r"error: the driver was killed by SIGKILL: 5 deaths within 30 s; given up", said
    )
    assert "usr0" not in a.run("ip", "link").stdout


def test_changes_by_the_user_reach_the_chip(pair: tuple[Side, Side]) -> None:
    a, b = pair
    for side in pair:
        subprocess.run(["ip", "-n", side.netns, "link", "set", "usr0", "mtu", "9000"], check=True)
    wait_for(lambda: a.stats()["mtu"] == b.stats()["mtu"] == 9000)
    wait_for(lambda: a.carrier() and b.carrier())
    ping(a, b, "-M", "do", "-s", "8972")
    subprocess.run(
        ["ip", "-n", b.netns, "link", "set", "usr0", "address", "02:00:00:00:00:99"], check=True
    )
    subprocess.run(["ip", "-n", a.netns, "neigh", "flush", "all"], check=True)
    time.sleep(0.2)
    ping(a, b)


def test_a_deleted_interface_ends_it(pair: tuple[Side, Side]) -> None:
    a = pair[0]
    subprocess.run(["ip", "-n", a.netns, "link", "del", "usr0"], check=True)
    _, said = a.process.communicate(timeout=20)
    assert a.process.returncode == 1
    assert said.strip() in (
        "usrdrv: error: usr0: somebody deleted the interface",
        "usrdrv: error: model:dp83820?cable="
        f"{a.netns}&mac=02:00:00:00:00:01: the interface is gone",
    )


def test_killed_supervisor_leaves_nothing(pair: tuple[Side, Side]) -> None:
    a, b = pair
    driver = a.said["driver_pid"]
    a.process.kill()
    a.process.communicate()
    wait_for(lambda: not Path(f"/proc/{driver}").exists())
    wait_for(lambda: "usr0" not in a.run("ip", "link").stdout)
    wait_for(lambda: not b.carrier())


def test_raw_frames_arrive_byte_for_byte(pair: tuple[Side, Side]) -> None:
    """All lengths, in and out through packet sockets: the kernel's TAP, both drivers, both chips."""
    a, b = pair
    code = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88b5))
s.bind(("usr0", 0x88b5)); s.settimeout(10); s.setsockopt(1, 33, 1 << 24)
print("ready", flush=True)
for length in range(14, 1515):
    got = s.recv(4096)
    want = bytes.fromhex("020000000002020000000001") + b"\\x88\\xb5"
    want += bytes((i * 7 + length) & 255 for i in range(length - 14))
    if got != want.ljust(60, b"\\0"): sys.exit(f"length {length}: {got[:40]!r}")
"""
    receiver = subprocess.Popen(
        ["ip", "netns", "exec", b.netns, sys.executable, "-c", code],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "ready\n"
    send = (
        code.split("print")[0]
        + """
for length in range(14, 1515):
    head = bytes.fromhex("020000000002020000000001") + b"\\x88\\xb5"
    s.send(head + bytes((i * 7 + length) & 255 for i in range(length - 14)))
"""
    )
    sent = a.run(sys.executable, "-c", send)
    assert sent.returncode == 0, sent.stderr
    _, said = receiver.communicate(timeout=30)
    assert receiver.returncode == 0, said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model:dp83820", "--ifname", "a/b"], "'a/b' is no name for an interface"),
        (["model:dp83820", "--ifname", "x" * 16], "is no name for an interface"),
        (["model:dp83820", "--netns", "usrdrv-none"], "no network namespace usrdrv-none"),
        (["model:dp83820", "--ifname", "lo"], "there is an interface lo already"),
        (["model:dp83820", "--mtu", "9001"], "9001 is not in 68 to 9000"),
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
def test_bad_input_is_named(words: list[str], said: str) -> None:
    done = subprocess.run(
        [*USRDRV, "net", *words], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode in (1, 2)
    assert said in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.startswith("usrdrv: error: ") and done.stderr.count("\n") == 1
    assert socket.if_nameindex() == [
        (i, n) for i, n in socket.if_nameindex() if not n.startswith("usr")
    ]
