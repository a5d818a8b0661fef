# SPDX-License-Identifier: MIT
"""Two network namespaces with an interface of `usrdrv net` in each, and a cable between the NICs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.files import GUEST
from tests.names import namespace
from tests.waiting import PATIENCE
from tests.waiting import until as wait_for

IN_SOCKETS = 8 << 20
"""Bytes that may be on their way when the client of iperf3 has sent all."""
FLOWS = 4 << 20
"""Bytes that have passed an interface when TCP flows through it."""
USRDRV = [sys.executable, "-P", "-m", "usrdrv"]


def ip(*words: str) -> Any:
    """`ip -j WORDS`, decoded."""
    done = subprocess.run(
        ["ip", "-j", "-d", "-s", *words], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout or "null")


@dataclass
class Side:
    """A namespace with the interface that `usrdrv net` keeps in it."""

    netns: str
    address: str
    ifname: str = "usr0"
    process: subprocess.Popen[str] = field(init=False)
    said: dict[str, Any] = field(init=False)

    def run(self, *words: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["ip", "netns", "exec", self.netns, *words],
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    def link(self) -> dict[str, Any]:
        found: dict[str, Any] = ip("-n", self.netns, "link", "show", self.ifname)[0]
        return found

    def carrier_counts(self) -> tuple[int, int]:
        """How often the carrier came, and how often it went."""
        folder = f"/sys/class/net/{self.ifname}"
        shown = self.run("cat", f"{folder}/carrier_up_count", f"{folder}/carrier_down_count")
        came, went = shown.stdout.split()
        return int(came), int(went)

    def bytes(self) -> int:
        """How many went through it, both ways, in the kernel's account."""
        folder = f"/sys/class/net/{self.ifname}/statistics"
        shown = self.run("cat", f"{folder}/rx_bytes", f"{folder}/tx_bytes")
        return sum(map(int, shown.stdout.split()))

    def carrier(self) -> bool:
        return "LOWER_UP" in self.link()["flags"]

    def stats(self) -> dict[str, Any]:
        done = subprocess.run(
            [*USRDRV, "net", "stats", self.ifname, "--netns", self.netns, "--json"],
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
            f"ip -n {self.netns} addr add {self.address}/24 dev {self.ifname} && "
            f"ip -n {self.netns} link set {self.ifname} up && ip -n {self.netns} link set lo up",
            shell=True, check=True,
        )  # fmt: skip

    def stop(self) -> str:
        """End it; it ends well and leaves nothing. Returns what it said on standard error."""
        self.process.send_signal(signal.SIGINT)
        _, said = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, said
        assert self.ifname not in self.run("ip", "link").stdout
        return said


@pytest.fixture
def sides(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Side, Side]]:
    with (
        tempfile.TemporaryDirectory(prefix="usrdrv-test-") as rundir,  # tmp_path is too long
        namespace() as near,
        namespace() as far,
    ):
        monkeypatch.setenv("USRDRV_RUN_DIR", rundir)
        made = (Side(near, "10.93.0.1"), Side(far, "10.93.0.2"))
        try:
            yield made
        finally:
            for side in made:
                if hasattr(side, "process") and side.process.poll() is None:
                    side.process.kill()
                    side.process.communicate()


def connected(*sides: Side) -> None:
    """Wait for the link at all of these ends."""
    wait_for(lambda: all(side.carrier() for side in sides), "a link")


def connect(sides: tuple[Side, Side], *options: str) -> None:
    """An interface in each, with these options."""
    for number, side in enumerate(sides):
        device = f"model:dp83820?cable={sides[0].netns}&mac=02:00:00:00:00:0{number + 1}"
        side.start(device, *options)
    connected(*sides)


@pytest.fixture
def pair(sides: tuple[Side, Side]) -> tuple[Side, Side]:
    connect(sides)
    return sides


def ping(a: Side, b: Side, *options: str, address: str = "") -> None:
    """From a to b, whose address is the usual one or `address`."""
    # The answer to each is waited for, so only one that is lost is missing.
    words = ("-c", "5", "-i", "0.1", "-W", str(PATIENCE / 2), *options, address or b.address)
    done = a.run("ping", *words)
    assert "5 received" in done.stdout, done.stdout + done.stderr


def killed_in_a_flow(a: Side, b: Side, way: str, victim: Side) -> None:
    """The driver of one of them is killed while TCP flows, is started again, and TCP flows on to its good end.

    way: "send", from a to b, or "take", the other way round.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        told = Path(folder) / "finish"

        def talk(side: Side, *words: str) -> subprocess.Popen[str]:
            command = ["ip", "netns", "exec", side.netns, sys.executable, str(GUEST / "flow.py")]
            process = subprocess.Popen([*command, *words], stdout=subprocess.PIPE, text=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        server = talk(b, "serve")
        assert server.stdout is not None and server.stdout.readline() == "listening\n"
        client = talk(a, way, b.address, str(told))

        def flows() -> None:
            enough = victim.bytes() + FLOWS
            wait_for(lambda: victim.bytes() > enough or client.poll() is not None, "a flow")
            assert client.poll() is None

        flows()
        os.kill(victim.said["driver_pid"], signal.SIGKILL)
        wait_for(lambda: victim.stats()["restarts"] == 1, "another driver")
        flows()
        told.touch()
        assert client.wait(PATIENCE) == server.wait(PATIENCE) == 0


def iperf(a: Side, b: Side, *options: str, address: str = "") -> dict[str, Any]:
    """iperf3 from a to b."""
    server = subprocess.Popen(
        ["ip", "netns", "exec", b.netns, "iperf3", "-s", "-1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(lambda: ":5201" in b.run("ss", "-ltn").stdout, "iperf3 listens")
        done = a.run("iperf3", "-J", "-c", address or b.address, *options, timeout=2 * PATIENCE)
        assert done.returncode == 0, done.stdout
        assert server.wait(PATIENCE) == 0
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()
    found: dict[str, Any] = json.loads(done.stdout)
    return found
