# SPDX-License-Identifier: MIT
"""The benchmarks' own arithmetic, and that they notice a job that did nothing."""

import os
import subprocess
import time
from typing import Any

import pytest

from bench import fio, footprint, syscalls
from bench.report import Figures
from bench.throughput import Spread, ratio
from usrdrv import errors


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

    monkeypatch.setattr(fio.subprocess, "run", run)
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
