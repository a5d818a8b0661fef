# SPDX-License-Identifier: MIT
"""The arithmetic behind the paper's figures, and that they are drawn."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bench import figure4, figure_net, timeline
from bench.curves import Estimate, Run, busy
from bench.paper import KERNEL, LOOP, NBD


def test_mean_and_interval() -> None:
    found = Estimate.of([1.0, 2.0, 3.0])
    assert found.mean == 2
    assert found.half == pytest.approx(4.303 / math.sqrt(3))
    assert math.isnan(Estimate.of([1.0]).half)
    assert Estimate.of([5.0] * 20).text(1) == "5.0 ±0.0"


def test_busy_processor() -> None:
    before = "cpu  100 0 100 1000 50 0 0 0 0 0"
    assert busy(before, "cpu  120 0 110 1050 70 0 0 0 0 0") == pytest.approx(0.3)
    assert busy(before, before) == 0


RUNS = [
    Run(driver, direction, size, mbps * (1 + repeat), 0.5 + repeat / 100)
    for repeat in range(2)
    for size in (512, 4096)
    for direction in ("read", "write")
    for driver, mbps in ((KERNEL, 10.0), (LOOP, 20.0), (NBD, 5.0))
]


def test_ratios_are_of_neighbouring_runs() -> None:
    found = figure4.CHART.ratios(RUNS, "speed")
    for driver, ratio in ((LOOP, 2.0), (NBD, 0.5)):
        for key in ((driver, d, s) for d in ("read", "write") for s in (512, 4096)):
            estimate = found.pop(key)
            assert (estimate.mean, estimate.half) == (ratio, 0)
    assert not found


def test_tables_and_plots(tmp_path: Path) -> None:
    reads, over, writes, _ = figure4.CHART.tables(RUNS)
    assert [row[0] for row in reads.rows] == ["512", "4096"] and len(writes.rows) == 2
    assert reads.rows[0][2] == reads.rows[0][4] == "50 ±6", "12.706 * 0.5 %"
    assert over.rows[0] == (
        "512",
        *("2.00 ±0.00", "0.50 ±0.00"),
        *("0.50 ±0.00", "2.00 ±0.00"),
        "-",
        "-",
    )
    assert all(file.stat().st_size > 1000 for file in figure4.CHART.plot(RUNS, tmp_path))
    lines = {KERNEL: [("handler", 3.0)], NBD: [("handler", 4.0), ("waking the client", 1.0)]}
    assert all(file.stat().st_size > 1000 for file in timeline.plot(lines, tmp_path))


TRACE = """# tracer: nop
             fio-90    [000] d..2.   1.000010: block_rq_issue: 43,0 R 4096 () 8 + 8 none,0,0 [fio]
             fio-90    [000] d..2.   1.000015: block_rq_issue: 8,0 R 4096 () 8 + 8 none,0,0 [fio]
          <idle>-0     [000] d..2.   1.000030: sched_switch: prev_comm=swapper/0 prev_pid=0 prev_prio=120 prev_state=R ==> next_comm=nbdkit next_pid=71 next_prio=120
          nbdkit-71    [000] d..2.   1.000090: sched_switch: prev_comm=nbdkit prev_pid=71 prev_prio=120 prev_state=S ==> next_comm=swapper/0 next_pid=0 next_prio=120
          <idle>-0     [000] d.h2.   1.000200: irq_handler_entry: irq=20 name=vfio-intx(0000:00:11.0)
          <idle>-0     [000] d.h3.   1.000210: sched_waking: comm=nbdkit pid=72 prio=120 target_cpu=000
          <idle>-0     [000] d..2.   1.000230: sched_switch: prev_comm=swapper/0 prev_pid=0 prev_prio=120 prev_state=R ==> next_comm=nbdkit next_pid=72 next_prio=120
          nbdkit-72    [000] d..3.   1.000260: sched_waking: comm=nbdkit pid=71 prio=120 target_cpu=000
          nbdkit-72    [000] d..2.   1.000280: sched_switch: prev_comm=nbdkit prev_pid=72 prev_prio=120 prev_state=S ==> next_comm=nbdkit next_pid=71 next_prio=120
          nbdkit-72    [000] ...1.   1.000285: sys_ioctl -> 0x0
          nbdkit-71    [000] ...1.   1.000320: sys_sendto(fd: b, buff: 7fef6fffea60, len: 10, flags: 8000, addr: 0, addr_len: 0)
          nbdkit-71    [000] ...1.   1.000330: sys_sendto(fd: b, buff: 7fef5c0011e0, len: 1000, flags: 0, addr: 0, addr_len: 0)
   kworker/0:1H-50   [000] d..2.   1.000340: block_rq_complete: 43,0 R () 8 + 8 none,0,0 [0]
          <idle>-0     [000] d..2.   1.000390: sched_switch: prev_comm=swapper/0 prev_pid=0 prev_prio=120 prev_state=R ==> next_comm=fio next_pid=90 next_prio=120
"""  # noqa: E501


def test_a_request_is_cut_where_the_trace_says() -> None:
    (request,) = timeline.cut(list(timeline.parse(TRACE)), "43,0")
    line = timeline.medians([request])
    assert [(name, round(length)) for name, length in line] == [
        ("to the driver's process", 20),
        ("queueing the command", 60),
        ("the drive, and its interrupt", 110),
        ("waking the handler", 30),
        ("handler, until it wakes the request's thread", 30),
        ("waking that thread", 20),
        ("plugin and nbdkit, until the reply", 40),
        ("the reply, to the kernel", 20),
        ("waking the client", 50),
    ]
    assert sum(length for _, length in line) == pytest.approx(380)


def test_a_request_whose_thread_did_not_sleep_is_cut_too() -> None:
    trace = "\n".join(line for line in TRACE.splitlines() if "nbdkit-72    [000] d..3." not in line)
    (request,) = timeline.cut(list(timeline.parse(trace)), "43,0")
    line = timeline.medians([request])
    assert [(name, round(length)) for name, length in line[3:]] == [
        ("waking the handler", 30),
        ("handler, until the next interrupt may come", 55),
        ("request's thread, plugin and nbdkit, until the reply", 35),
        ("the reply, to the kernel", 20),
        ("waking the client", 50),
    ]
    assert sum(length for _, length in line) == pytest.approx(380)


LOOP_TRACE = """# tracer: nop
             fio-90    [000] d..2.   1.000010: block_rq_issue: 259,0 R 4096 () 8 + 8 none,0,0 [fio]
          <idle>-0     [000] d..2.   1.000030: sched_switch: prev_comm=fio prev_pid=90 prev_prio=120 prev_state=S ==> next_comm=usrdrv-driver next_pid=71 next_prio=120
   usrdrv-driver-71    [000] ...1.   1.000032: sys_ioctl -> 0x1
   usrdrv-driver-71    [000] d..2.   1.000060: sched_switch: prev_comm=usrdrv-driver prev_pid=71 prev_prio=120 prev_state=S ==> next_comm=swapper/0 next_pid=0 next_prio=120
          <idle>-0     [000] d.h2.   1.000200: irq_handler_entry: irq=20 name=vfio-intx(0000:00:11.0)
          <idle>-0     [000] d.h3.   1.000210: sched_waking: comm=usrdrv-driver pid=71 prio=120 target_cpu=000
          <idle>-0     [000] d..2.   1.000230: sched_switch: prev_comm=swapper/0 prev_pid=0 prev_prio=120 prev_state=R ==> next_comm=usrdrv-driver next_pid=71 next_prio=120
   usrdrv-driver-71    [000] ...1.   1.000235: sys_ioctl -> 0x10
   usrdrv-driver-71    [000] d..2.   1.000260: block_rq_complete: 259,0 R () 8 + 8 none,0,0 [0]
   usrdrv-driver-71    [000] d..2.   1.000290: sched_switch: prev_comm=usrdrv-driver prev_pid=71 prev_prio=120 prev_state=S ==> next_comm=fio next_pid=90 next_prio=120
"""  # noqa: E501


@pytest.mark.parametrize("interrupt", ["vfio-intx(0000:00:11.0)", "usrdrv"])
def test_a_request_over_usrloop_is_cut_at_its_two_sleeps(interrupt: str) -> None:
    trace = LOOP_TRACE.replace("vfio-intx(0000:00:11.0)", interrupt)
    (request,) = timeline.cut(list(timeline.parse(trace)), "259,0")
    line = timeline.medians([request])
    assert [(name, round(length)) for name, length in line] == [
        ("to the driver's process", 20),
        ("queueing the command", 30),
        ("the drive, and its interrupt", 140),
        ("waking the handler", 30),
        ("handler, and the answer to the kernel", 30),
        ("waking the client", 30),
    ]


def test_a_request_that_the_interrupt_s_handler_ends() -> None:
    """The driver's process sleeps on."""
    lines = LOOP_TRACE.splitlines()
    gone = ("1.000210", "1.000230", "1.000235")
    trace = "\n".join(line for line in lines if not any(time in line for time in gone))
    trace = trace.replace("vfio-intx(0000:00:11.0)", "usrdrv").replace(
        "prev_comm=usrdrv-driver prev_pid=71 prev_prio=120 prev_state=S ==> next_comm=fio",
        "prev_comm=swapper/0 prev_pid=0 prev_prio=120 prev_state=R ==> next_comm=fio",
    )
    trace = "\n".join(
        line.replace("usrdrv-driver-71 ", "<idle>-0 ") if "1.000260" in line else line
        for line in trace.splitlines()
    )
    (request,) = timeline.cut(list(timeline.parse(trace)), "259,0")
    assert [(name, round(length)) for name, length in timeline.medians([request])] == [
        ("to the driver's process", 20),
        ("queueing the command", 30),
        ("the drive, and its interrupt", 140),
        ("handler, which ends the request", 60),
        ("waking the client", 30),
    ]


def test_a_request_over_usrloop_whose_interrupt_finds_the_driver_awake() -> None:
    lines = LOOP_TRACE.splitlines()
    slept = ("1.000060", "1.000210", "1.000230")
    trace = "\n".join(line for line in lines if not any(time in line for time in slept))
    (request,) = timeline.cut(list(timeline.parse(trace)), "259,0")
    assert [(name, round(length)) for name, length in timeline.medians([request])] == [
        ("to the driver's process", 20),
        ("queueing the command, the drive, and its interrupt", 170),
        ("handler, and the answer to the kernel", 60),
        ("waking the client", 30),
    ]


NET_RUNS = [
    Run(driver, direction, size, mbps * (1 + repeat), 0.5)
    for repeat in range(2)
    for direction in (figure_net.SEND, figure_net.RECEIVE)
    for size in (256, 9018)
    for driver, mbps in zip(figure_net.DRIVERS, (10.0, 30.0, 20.0), strict=True)
    if driver != figure_net.KERNEL or size == 256
]


def test_packet_sizes_that_only_one_driver_has(tmp_path: Path) -> None:
    found = figure_net.CHART.ratios(NET_RUNS, "speed")
    assert {size for _, _, size in found} == {256}
    assert {driver: e.mean for (driver, _, _), e in found.items()} == {
        figure_net.LOOP: 3,
        figure_net.TAP: 2,
    }
    sent, over, *_ = figure_net.CHART.tables(NET_RUNS)
    assert sent.rows[1][:3] == ("9018", "-", "-") and over.rows[1] == ("9018", *"----")
    assert all(file.stat().st_size > 1000 for file in figure_net.CHART.plot(NET_RUNS, tmp_path))
