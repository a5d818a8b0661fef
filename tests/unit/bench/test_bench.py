# SPDX-License-Identifier: MIT
"""The benchmarks' own arithmetic, and that they notice a job that did nothing."""

import json
import os
import subprocess
import time
from typing import Any

import pytest

from bench import fio, footprint, loop, map_cost, net, recovery, syscalls
from bench.instructions import Case
from bench.report import Figures
from bench.throughput import Spread, ratio
from usrdrv.base import errors


def test_median_and_spread() -> None:
    assert Spread([3, 1, 2]).text() == "2 (1-3)"
    assert ratio(Spread([1, 4, 9]), Spread([1, 2, 3])).text(1) == "2.0 (1.0-3.0)"
    with pytest.raises(ValueError, match="zip"):
        ratio(Spread([1]), Spread([1, 2]))


def test_strace_rows() -> None:
    table = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 62.50    0.003211           3      1001       500 futex
 37.50    0.001000           1       999           sendto
------ ----------- ----------- --------- --------- ----------------
100.00    0.004211           2      2000       500 total
"""
    assert syscalls.ROW.findall(table) == [("1001", "futex"), ("999", "sendto"), ("2000", "total")]


def test_markdown() -> None:
    table = Figures("T", ("", "a"), (("x", "1"),))
    assert table.markdown() == "**T**\n\n|  | a |\n| --- | ---: |\n| x | 1 |\n"


@pytest.mark.parametrize(
    ("code", "ios", "error"), [(1, 10, 0), (0, 0, 0), (0, 10, 5)], ids=["exit", "nothing", "error"]
)
def test_failed_job(monkeypatch: pytest.MonkeyPatch, code: int, ios: int, error: int) -> None:
    output = f'{{"jobs": [{{"error": {error}, "read": {{"total_ios": {ios}, "runtime": 1000}}}}]}}'

    def run(argv: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(argv, code, output, "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(fio, "find_tool", lambda name, package: name)
    with pytest.raises(errors.DeviceError):
        fio.run("nbd://x", fio.READ, seconds=1)


def test_processor_time() -> None:
    before = footprint.cpu_ticks(os.getpid())
    deadline = time.process_time() + 0.1
    while time.process_time() < deadline:
        pass
    assert footprint.cpu_ticks(os.getpid()) >= before + 5
    assert footprint.resident_kib(os.getpid()) > 1000


def test_line_rate_of_gigabit_ethernet() -> None:
    assert net.line_rate(1500, net.TCP_HEADERS) == pytest.approx(941.5, abs=0.05)
    assert net.line_rate(1500, net.UDP_HEADERS) == pytest.approx(957.1, abs=0.05)


def test_targets_of_the_network_are_judged() -> None:
    found = {key: [{"mbps": 945.0}] for key in net.loads(1500)}
    found["UDP at line rate, back"] = [{"mbps": 900.0}, {"mbps": 990.0}, {"mbps": 940.0}]
    half = {key: [{"mbps": 500.0}] for key in net.loads(1500)}
    half["TCP back"] = [{"mbps": 472.0}]
    rows = {row[0]: row for row in net._targets({net.FULL: found, net.PLAIN: half}, 1500)}
    assert rows["TCP there, Mb/s"][1:] == ("941", "945", "met")
    assert rows["UDP at line rate, there, Mb/s"][1:] == ("948", "945", "not met")
    assert rows["UDP at line rate, back, Mb/s"][1:] == ("948", "940", "not met")
    assert rows["TCP there, with offloads / without"][1:] == ("2.0", "1.89", "not met")
    assert rows["TCP back, with offloads / without"][1:] == ("2.0", "2.00", "met")
    assert rows["UDP unlimited, back, with offloads / without"][1:] == ("-", "1.89", "-")


def loop_report(**changes: Any) -> str:
    """What fio says of one section for each of the three ways."""
    side = {
        "total_ios": 10,
        "io_bytes": 40960,
        "short_ios": 0,
        "iops": 20.0,
        "lat_ns": {"mean": 5e4},
        "clat_ns": {"percentile": {"99.000000": 9e4}},
    }
    jobs = [{"jobname": way, "error": 0, "ctx": 5, "read": side} for way in loop.ORDER]
    jobs[1] = {**jobs[1], **{k: v for k, v in changes.items() if k in jobs[1]}}
    jobs[1]["read"] = {**side, **{k: v for k, v in changes.items() if k in side}}
    return f"fio: a note\n{json.dumps({'jobs': jobs})}"


def test_loop_ratios_are_of_neighbours() -> None:
    case = Case(1, 4096, "read")
    runs = [run for iops in (20, 30) for run in loop.result(loop_report(iops=iops), case, 1)]
    assert [run.way for run in runs] == [*loop.ORDER] * 2
    assert runs[1].latency == 50 and runs[1].p99 == 90 and runs[1].switches == 0.5
    assert loop.ratios(runs, "ublk")[1, case][0] == pytest.approx(1.5**0.5)


@pytest.mark.parametrize(
    "changes",
    [{"error": 5}, {"total_ios": 0}, {"io_bytes": 40959}, {"short_ios": 1}, {"jobname": "else"}],
    ids=lambda changes: next(iter(changes)),
)
def test_failed_loop_run(changes: dict[str, Any]) -> None:
    with pytest.raises(errors.LabError):
        loop.result(loop_report(**changes), Case(1, 4096, "read"), 1)


def test_what_a_mapping_costs() -> None:
    lines = [f"{n * 64000} {n * 640} 128000 1280 192000 1920 3" for n in (1, 2, 9)]
    found, segments = map_cost.medians("\n".join(lines), False)
    assert found == [2.0, 2.0, 3.0] and segments == 3
    assert map_cost.medians("\n".join(lines), True) == ([20, 20, 30], 3)
    for wrong in ("", "1 2 3"):
        with pytest.raises(errors.LabError):
            map_cost.medians(wrong, False)
    costs = [
        map_cost.Cost(kernel, False, True, live, 4096, call, amount, 3)
        for kernel, amount in ((map_cost.WITH, 10.0), (map_cost.WITHOUT, 11.0))
        for live in (0, 4096)
        for call in map_cost.CALLS
    ]
    rows = map_cost.table(costs, False, True).rows
    assert rows == tuple((text, *["10", "11"] * 3) for text in ("4 KiB", "4 KiB, 4096 others"))
    assert map_cost.table(costs, True, True).rows == ()


def test_recovery_is_told_in_milliseconds() -> None:
    lines = [
        json.dumps({"name": "disk", "how": how, "dead": dead, "done": done})
        for how, dead, done in (
            ("warm", 0.1, 0.4),
            ("cold", 0.1, 3.0),
            ("warm", 0.2, 0.5),
            ("warm", 0.3, 0.9),
        )
    ]
    kills = recovery.parse("\n".join(lines) + "\n" + '{"name": "half a l')
    assert len(kills) == 4
    assert recovery.table(kills).rows == (
        ("disk", "3", "500", "400", "900", "200"),
        ("disk, no standby", "1", "3000", "3000", "3000", "100"),
    )
