# SPDX-License-Identifier: MIT
"""The network interface side by side with a veth pair and a plain TAP relay: interleaved, repeated."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.status import Status

from bench.netpaths import ADDRESS, FAR, NEAR, PATHS, Path2, namespaces
from bench.report import Figures

IDLE_SECONDS = 5.0
FRAMING = 14 + 4 + 20
"""Bytes that Ethernet adds to an IP packet: header, FCS, preamble and gap."""
UDP_HEADERS, TCP_HEADERS = 20 + 8, 20 + 20 + 12
FULL, PLAIN = "usrdrv", "usrdrv --no-offload"
OFFLOAD_GAIN = 2.0
"""With offloads at least so many times the same path without."""


def line_rate(mtu: int, headers: int) -> float:
    """Mb/s of payload that gigabit Ethernet carries."""
    return 1000 * (mtu - headers) / (mtu + FRAMING)


def loads(mtu: int) -> dict[str, tuple[str, ...]]:
    """What runs, as options of iperf3. Datagrams fill packets."""
    udp = ("-u", "-l", str(mtu - UDP_HEADERS))
    paced = (*udp, "-b", f"{line_rate(mtu, UDP_HEADERS):.1f}M")
    return {
        "TCP there": (),
        "TCP back": ("-R",),
        "UDP at line rate, there": paced,
        "UDP at line rate, back": (*paced, "-R"),
        "UDP unlimited, there": (*udp, "-b", "0"),
        "UDP unlimited, back": (*udp, "-b", "0", "-R"),
    }


def iperf(seconds: int, *options: str) -> dict[str, Any]:
    """Run iperf3 from near to far; its `end`."""
    server = subprocess.Popen(
        ["ip", "netns", "exec", FAR, "iperf3", "-s", "-1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(100):
            listening = ["ip", "netns", "exec", FAR, "ss", "-ltn"]
            if ":5201" in subprocess.run(listening, capture_output=True, text=True).stdout:
                break
            time.sleep(0.05)
        client = ["iperf3", "-J", "-c", ADDRESS[FAR], "-t", str(seconds), *options]
        done = subprocess.run(
            ["ip", "netns", "exec", NEAR, *client], capture_output=True, text=True, check=False
        )
        if done.returncode or server.wait(20):
            raise RuntimeError(f"iperf3 failed: {done.stdout[-500:]}")
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()
    found: dict[str, Any] = json.loads(done.stdout)["end"]
    return found


def load(path: Path2, seconds: int, options: tuple[str, ...]) -> dict[str, float]:
    """One run: what arrived, lost, and cost."""
    cpu, stats = path.cpu(), path.stats() if path.stats else {}
    end = iperf(seconds, *options)
    received = end.get("sum_received") or end["sum"]
    found = {
        "mbps": received["bits_per_second"] / 1e6,
        "lost": float(end["sum"].get("lost_percent", 0.0)) if "-u" in options else 0.0,
        "cpu": (path.cpu() - cpu) / (received["bytes"] * 8 / 1e9),
    }
    if path.stats:
        after = path.stats()
        frames = sum(after[n] - stats[n] for n in ("tx_frames", "rx_frames"))
        found["calls"] = (after["system_calls"] - stats["system_calls"]) / frames
        found["copied"] = (after["copied"] - stats["copied"]) / frames
    return found


def latency(pings: int) -> dict[str, float]:
    """Round trips in microseconds."""
    ping = ["ping", "-c", str(pings), "-i", "0.002", ADDRESS[FAR]]
    out = subprocess.run(
        ["ip", "netns", "exec", NEAR, *ping], capture_output=True, text=True, check=True
    ).stdout
    times = sorted(float(t) * 1000 for t in re.findall(r"time=([\d.]+)", out))
    if len(times) < pings * 0.99:
        raise RuntimeError(f"{len(times)} of {pings} pings came back")
    return {"median": median(times), "p99": times[int(len(times) * 0.99)]}


def measure(args: argparse.Namespace, status: Status) -> dict[str, Any]:
    """All paths in turn, again and again."""
    found: dict[str, Any] = {}
    for repeat in range(args.repeats):
        for mtu in args.mtu:
            for name in args.paths:
                status.update(f"{name}, MTU {mtu}, {repeat + 1} of {args.repeats}")
                with PATHS[name](mtu) as path:
                    here = found.setdefault(f"MTU {mtu}", {}).setdefault(name, {})
                    iperf(1)
                    for what, options in loads(mtu).items():
                        here.setdefault(what, []).append(load(path, args.seconds, options))
                    here.setdefault("ping", []).append(latency(args.pings))
                    if repeat == 0 and path.processes:
                        time.sleep(1)
                        before = path.cpu()
                        time.sleep(IDLE_SECONDS)
                        here["idle"] = (path.cpu() - before) / IDLE_SECONDS
    return found


def _text(runs: list[dict[str, float]], key: str, digits: int = 0) -> str:
    values = [run[key] for run in runs]
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def tables(found: dict[str, Any], args: argparse.Namespace) -> list[Figures]:
    """What was found, two tables for each MTU: figures, and what they were meant to be."""
    result = []
    for title, paths in found.items():
        mtu = int(title.split()[1])
        what = f"{title}: median (lowest-highest) of {args.repeats} runs of {args.seconds} s"
        result.append(Figures(what, ("", *paths), tuple(_rows(paths, list(loads(mtu))))))
        if FULL in paths:
            rows = tuple(_targets(paths, mtu))
            result.append(Figures(f"{title}: targets", ("", "target", "found", ""), rows))
    return result


def _rows(paths: dict[str, Any], what: list[str]) -> Iterator[tuple[str, ...]]:
    names = list(paths)
    for load in what:
        yield f"{load}, Mb/s", *(_text(paths[n][load], "mbps") for n in names)
        if load.startswith("UDP"):
            yield f"{load}, lost, %", *(_text(paths[n][load], "lost", 2) for n in names)
    for load in ("TCP there", "UDP at line rate, there"):
        cost = (_text(paths[n][load], "cpu", 2) if "idle" in paths[n] else "-" for n in names)
        yield f"{load}, CPU s/Gb, both drivers", *cost
    for key in ("median", "p99"):
        yield f"ping {key}, us", *(_text(paths[n]["ping"], key) for n in names)
    yield "idle, % CPU", *(f"{p['idle'] * 100:.1f}" if "idle" in p else "-" for p in paths.values())
    for key, label in (("calls", "system calls a frame"), ("copied", "bytes copied a frame")):
        ours = (_text(paths[n]["TCP there"], key, 2) if n in (FULL, PLAIN) else "-" for n in names)
        yield f"TCP there, {label}", *ours


def _targets(paths: dict[str, Any], mtu: int) -> Iterator[tuple[str, ...]]:
    """Line rate each way, and what offloads are worth. UDP may lose one datagram in a hundred."""

    def of(path: str, load: str) -> float:
        return float(median(run["mbps"] for run in paths[path][load]))

    for load in loads(mtu):
        if "unlimited" in load:
            continue
        udp = load.startswith("UDP")
        target = line_rate(mtu, UDP_HEADERS if udp else TCP_HEADERS) * (0.99 if udp else 1)
        got = of(FULL, load)
        yield f"{load}, Mb/s", f"{target:.0f}", f"{got:.0f}", _verdict(got >= int(target))
    for load in loads(mtu):
        if PLAIN in paths and "line rate" not in load:
            gain = of(FULL, load) / of(PLAIN, load)
            what = f"{load}, with offloads / without"
            if load.startswith("UDP"):  # the kernel hands datagrams over one by one: no target
                yield what, "-", f"{gain:.2f}", "-"
            else:
                yield what, f"{OFFLOAD_GAIN:.1f}", f"{gain:.2f}", _verdict(gain >= OFFLOAD_GAIN)


def _verdict(met: bool) -> str:
    return "met" if met else "not met"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.net", description=__doc__)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--mtu", type=int, action="append")
    parser.add_argument("--paths", nargs="+", choices=list(PATHS), default=list(PATHS))
    parser.add_argument("--pings", type=int, default=500)
    parser.add_argument("--quick", action="store_true", help="to see that it works")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.mtu = args.mtu or [1500, 9000]
    if args.quick:
        args.seconds, args.repeats, args.pings = 1, 1, 100
    console = Console()
    with namespaces(), console.status("starting") as status:
        found = measure(args, status)
    for figures in tables(found, args):
        figures.show(console)
        if not console.is_terminal:
            print(figures.markdown())
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
