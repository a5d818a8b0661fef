# SPDX-License-Identifier: MIT
"""System calls of a driver's process for each request over usrloop, counted by strace.

The 2004 driver needed five. With a device behind VFIO there are two at depth 1: one brings the request; one waits
for the interrupt, lets the next one through, and hands the completion over with the wait for the next request. With
zero copy, over the usrdrv calls, the interrupt's handler ends the request, and only the next is waited for; with
--poll-us nobody waits for the interrupt. A PATA channel has one command at a time, so each of 32 requests at random
places has an interrupt, too, and a call; neighbours are one command.

Held is what no scheduler can change: at most one call for a request that comes and one for its interrupt. How far
it stays below at depth 32, where a driver that sleeps while its chip works may be woken for the next request as
well, is a figure, which each test prints (pytest -rP). What a busy machine only makes more is tried again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.model_faults import broken
from tests.waiting import at_best
from usrdrv.lab.guest import Guest
from usrdrv.lab.models import Model

Boot = Callable[..., Guest]

REQUESTS = 600
TWO = 2.05
"""Calls for a request: it comes, its interrupt comes; and some for beginning and end."""
MOSTLY_ONE = 1.5
"""Most interrupts are found by busy-polling."""
SIZE = 64 << 20
FUNCTION, MODEL = "0000:00:10.0", f"model:cmd680?strict=1&ram={SIZE}"
WITHOUT_BAR5 = "0000:00:11.0"

RARE = pytest.mark.rare


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model("cmd680", "--option", "strict=1", "--ram", str(SIZE)) as model:
        yield model


@pytest.fixture(scope="module")
def without_bar5() -> Iterator[Model]:
    with Model("cmd680", "--option", "strict=1", "--ram", str(SIZE), "--option", "bar5=0") as model:
        yield model


@pytest.fixture(scope="module")
def guest(model: Model, without_bar5: Model, guest_factory: Boot) -> Guest:
    return guest_factory([model.socket, without_bar5.socket], iommu=True, kmod=True, kernel="base")


@contextmanager
def serving(guest: Guest, device: str, way: str, poll_us: int) -> Iterator[dict[str, Any]]:
    """What `usrdrv block` says of the disk that it serves over usrloop."""
    command = [*("usrdrv", "block", device, "--export", "usrloop"), "--poll-us", str(poll_us)]
    served = guest.start(["env", f"USRDRV_PCI={way}", *command, "--json"])
    try:
        while not served.out:
            assert not served.done.wait(0.2), served.err
        yield json.loads(served.out)
    finally:
        served.signal(2)
        assert served.wait(60).code == 0, served.err


def calls(
    guest: Guest, device: str, way: str, depth: int, poll_us: int, pattern: str
) -> dict[str, float]:
    """Serve `device`, read from it in that pattern of fio's; return calls for each request by name."""
    with serving(guest, device, way, poll_us) as info:
        limit = f"cat /sys/block/{Path(info['device']).name}/queue/max_segments"
        zero_copy = int(guest.run(limit, check=True).out) == 256
        assert zero_copy == (way == "usrdrv")
        load = (
            f"fio --name=r --filename={info['device']} --rw={pattern} --bs=4k --direct=1 --size=32M "
            f"--ioengine=libaio --iodepth={depth} --number_ios={REQUESTS} --output-format=json"
        )
        guest.run(f"{load} >/dev/null", 120, check=True)  # nothing is new to anybody any more
        result = guest.run(
            f"strace -qq -c -f -p {info['driver_pid']} -o /tmp/calls & tracer=$!; "
            f"while grep -q '^TracerPid:.0$' /proc/{info['driver_pid']}/task/*/status; do sleep 0.1; done; "
            f"{load} || exit; "
            "kill $tracer; wait $tracer; cat /tmp/calls",
            240,
            check=True,
        )
    report, _ = json.JSONDecoder().raw_decode(result.out[result.out.index("{") :])
    (job,) = report["jobs"]
    assert job["error"] == 0
    assert job["read"]["total_ios"] == REQUESTS
    found = re.findall(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+ )?\s*(\w+)$", result.out, re.M)
    assert found, result.out
    return {name: int(count) / REQUESTS for count, name in found if name != "total"}


@pytest.mark.parametrize(
    ("device", "way", "depth", "poll_us", "pattern", "most"),
    [
        pytest.param(FUNCTION, "vfio", 1, 0, "randread", TWO, id="vfio-1"),
        pytest.param(FUNCTION, "vfio", 32, 0, "randread", TWO, id="vfio-32", marks=RARE),
        pytest.param(FUNCTION, "vfio", 32, 0, "read", 0.3, id="vfio-sequential-32", marks=RARE),
        pytest.param(FUNCTION, "vfio", 1, 1000, "randread", MOSTLY_ONE, id="vfio-polled-1"),
        pytest.param(
            *(FUNCTION, "vfio", 32, 1000, "randread", MOSTLY_ONE), id="vfio-polled-32", marks=RARE
        ),
        pytest.param(FUNCTION, "usrdrv", 1, 0, "randread", 1.1, id="zero-copy-1"),
        pytest.param(FUNCTION, "usrdrv", 32, 0, "randread", TWO, id="zero-copy-32", marks=RARE),
        pytest.param(FUNCTION, "usrdrv", 32, 0, "read", 0.3, id="zero-copy-sequential-32"),
        pytest.param(
            *(FUNCTION, "usrdrv", 1, 1000, "randread", MOSTLY_ONE),
            id="zero-copy-polled-1",
            marks=RARE,
        ),
        pytest.param(
            *(FUNCTION, "usrdrv", 32, 1000, "randread", MOSTLY_ONE),
            id="zero-copy-polled-32",
            marks=RARE,
        ),
        pytest.param(MODEL, "auto", 1, 0, "randread", 1.05, id="model-1", marks=RARE),
        pytest.param(MODEL, "auto", 32, 0, "randread", 1.05, id="model-32"),
    ],
)
def test_calls(
    guest: Guest, device: str, way: str, depth: int, poll_us: int, pattern: str, most: float
) -> None:
    def measure() -> dict[str, float]:
        found = calls(guest, device, way, depth, poll_us, pattern)
        print(found)
        assert found["ioctl"] > 0.02, "it did serve"
        return found

    at_best(measure, lambda found: sum(found.values()) <= most, f"{most}", 300)


def test_registers_in_io_space(guest: Guest) -> None:
    """Each access is a call, there; the interrupt's handler reaches them as well, and leaves no wait for it."""

    def measure() -> dict[str, float]:
        found = calls(guest, WITHOUT_BAR5, "usrdrv", 1, 0, "randread")
        print(found)
        assert sum(found.values()) > 5, "that is BAR 5"
        return found

    at_best(measure, lambda found: 0.9 < found["ioctl"] <= 1.1, "one call", 300)


def test_polled_data(guest: Guest, model: Model) -> None:
    """Commands that end while the driver busy-polls, and those that end later, by their interrupt."""
    with (
        broken(model.control, {"kind": "slow", "mbps": 50, "seek_ms": 1}),
        serving(guest, FUNCTION, "auto", 500) as info,
    ):
        result = guest.run(
            f"fio --name=v --filename={info['device']} --rw=randwrite --bsrange=4k-128k --direct=1 --size=16M "
            "--ioengine=libaio --iodepth=8 --verify=crc32c --output-format=json",
            240,
            check=True,
        )
    (job,) = json.loads(result.out)["jobs"]
    assert job["error"] == 0
    assert job["write"]["io_bytes"] == job["read"]["io_bytes"] == 16 << 20
