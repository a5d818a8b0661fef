# SPDX-License-Identifier: MIT
"""The other half: two network namespaces, and between them two gigabit NICs, each driven by a process.

A host without root or TUN lets a guest of the lab do it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from demo import SBIN, USRDRV, DemoError, carry_out, console, in_the_lab, run, say, service
from rich.table import Table

CABLE: Final = f"demo-{os.getpid()}"
SIDES: Final = (f"usrdrv-demo-{os.getpid()}-a", f"usrdrv-demo-{os.getpid()}-b")
ADDRESSES: Final = ("10.94.0.1", "10.94.0.2")
SECONDS: Final = 4
LINK_TIMEOUT: Final = 20.0


def inside(side: int, *command: str) -> tuple[str, ...]:
    return ("ip", "netns", "exec", SIDES[side], *command)


def await_link() -> None:
    """Until both interfaces have their carrier."""
    end = time.monotonic() + LINK_TIMEOUT
    for side in SIDES:
        while "LOWER_UP" not in run("ip", "-n", side, "link", "show", "usr0", quiet=True):
            if time.monotonic() > end:
                raise DemoError(f"{side}: usr0 gets no link")
            time.sleep(0.05)


def iperf(stack: ExitStack, *options: str) -> float:
    """Mb/s that arrived."""
    server = subprocess.Popen(
        inside(1, "iperf3", "-s", "-1"),
        env=SBIN,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    stack.callback(server.kill)
    time.sleep(0.5)
    report = json.loads(
        run(
            *inside(0, "iperf3", "-J", "-c", ADDRESSES[1], "-t", str(SECONDS), *options), quiet=True
        )
    )
    server.wait(20)
    return float(report["end"]["sum_received"]["bits_per_second"]) / 1e6


def stats(side: int) -> dict[str, int]:
    found: dict[str, int] = json.loads(
        run(*USRDRV, "net", "stats", "usr0", "--netns", SIDES[side], "--json", quiet=True)
    )
    return found


def demo(stack: ExitStack) -> None:
    say("1. Two network namespaces", ["ip", "netns", "add", "a;", "ip", "netns", "add", "b"])
    for side in SIDES:
        run("ip", "netns", "add", side)
        stack.callback(run, "ip", "netns", "del", side)
    with ExitStack() as attached:
        say(
            "2. A gigabit NIC in each, a cable between them; their drivers are processes",
            ["usrdrv", "net", f"model:dp83820?cable={CABLE}", "--netns", "a"],
        )
        said = []
        for number, (side, address) in enumerate(zip(SIDES, ADDRESSES, strict=True)):
            device = f"model:dp83820?cable={CABLE}&mac=02:00:00:94:00:0{number + 1}"
            line = attached.enter_context(service("net", device, "--netns", side, "--json"))
            said.append(json.loads(line))
            run("ip", "-n", side, "addr", "add", f"{address}/24", "dev", "usr0")
            run("ip", "-n", side, "link", "set", "usr0", "up")
        await_link()
        run("ip", "-n", SIDES[0], "-br", "link", "show", "usr0")

        say("3. They see each other", ["ping", "-c", "3", ADDRESSES[1]])
        run(*inside(0, "ping", "-c", "3", "-i", "0.2", ADDRESSES[1]))

        say("4. Load, both ways", ["iperf3", "-c", ADDRESSES[1]])
        before = stats(0)
        table = Table("", "Mb/s")
        table.add_row("TCP there", f"{iperf(stack):.0f}")
        table.add_row("TCP back", f"{iperf(stack, '-R'):.0f}")
        table.add_row("UDP there, at 900 Mb/s", f"{iperf(stack, '-u', '-b', '900M'):.0f}")
        console.print(table)
        after = stats(0)
        frames = sum(after[n] - before[n] for n in ("tx_frames", "rx_frames"))
        calls = after["system_calls"] - before["system_calls"]
        copied = after["copied"] - before["copied"]
        console.print(
            f"{frames} frames; {calls / frames:.2f} system calls and {copied / frames:.0f} bytes "
            "copied by the driver for each"
        )

        pid = int(said[0]["driver_pid"])
        say("5. A driver is killed under load; the flow just waits", ["kill", "-9", str(pid)])
        killer = subprocess.Popen(["/bin/sh", "-c", f"sleep 2; kill -9 {pid}"])
        console.print(f"{iperf(stack):.0f} Mb/s over {SECONDS} s with the kill in the middle")
        killer.wait()
        if stats(0)["restarts"] != 1:
            raise DemoError("the driver was not restarted")
        say("6. Taken down: the chips are quiesced, the interfaces vanish", ["^C"])
    console.print("\n[bold green]Done.[/] Nothing is left behind.")


def main() -> int:
    if os.geteuid():
        return in_the_lab("network namespaces need root", "demo_net.py")
    if (
        not Path("/dev/net/tun").exists()
        and subprocess.run(
            ["modprobe", "tun"], env=SBIN, capture_output=True, check=False
        ).returncode
    ):
        return in_the_lab("this kernel has no TUN (module tun)", "demo_net.py")
    return carry_out(demo)


if __name__ == "__main__":
    sys.exit(main())
