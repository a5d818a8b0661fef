# SPDX-License-Identifier: MIT
"""The network interface side by side with a veth pair and a plain TAP relay: interleaved, repeated."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.status import Status

from bench.netpaths import ADDRESS, FAR, NEAR, PATHS, Path2, namespaces
from bench.report import Figures

PINGS = 500
IDLE_SECONDS = 5.0
LOADS = {
    "TCP there": (),
    "TCP back": ("-R",),
    "UDP 900 Mb/s": ("-u", "-b", "900M", "-l", "1472"),
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


def latency() -> dict[str, float]:
    """Round trips in microseconds."""
    ping = ["ping", "-c", str(PINGS), "-i", "0.002", "-q", ADDRESS[FAR]]
    plain = [*ping[:-2], ADDRESS[FAR]]
    out = subprocess.run(
        ["ip", "netns", "exec", NEAR, *plain], capture_output=True, text=True, check=True
    ).stdout
    times = sorted(float(t) * 1000 for t in re.findall(r"time=([\d.]+)", out))
    if len(times) < PINGS * 0.99:
        raise RuntimeError(f"{len(times)} of {PINGS} pings came back")
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
                    for what, options in LOADS.items():
                        here.setdefault(what, []).append(load(path, args.seconds, options))
                    here.setdefault("ping", []).append(latency())
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
    """What was found, a table for each MTU."""
    result = []
    for mtu, paths in found.items():
        names = list(paths)
        rows = [
            (f"{what}, Mb/s", *(_text(paths[n][what], "mbps") for n in names)) for what in LOADS
        ]
        rows.append(("UDP lost, %", *(_text(paths[n]["UDP 900 Mb/s"], "lost", 2) for n in names)))
        for what in ("TCP there", "UDP 900 Mb/s"):
            cost = (_text(paths[n][what], "cpu", 2) if "idle" in paths[n] else "-" for n in names)
            rows.append((f"{what}, CPU s/Gb, both drivers", *cost))
        for key in ("median", "p99"):
            rows.append((f"ping {key}, us", *(_text(paths[n]["ping"], key) for n in names)))
        rows.append(
            (
                "idle, % CPU",
                *(f"{p['idle'] * 100:.1f}" if "idle" in p else "-" for p in paths.values()),
            )
        )
        for key, label in (("calls", "system calls a frame"), ("copied", "bytes copied a frame")):
            rows.append(
                (
                    f"TCP there, {label}",
                    *(
                        _text(paths[n]["TCP there"], key, 2) if n.startswith("usrdrv") else "-"
                        for n in names
                    ),
                )
            )
        title = f"{mtu}: median (lowest-highest) of {args.repeats} runs of {args.seconds} s"
        result.append(Figures(title, ("", *names), tuple(rows)))
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.net", description=__doc__)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--mtu", type=int, action="append")
    parser.add_argument("--paths", nargs="+", choices=list(PATHS), default=list(PATHS))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.mtu = args.mtu or [1500, 9000]
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
