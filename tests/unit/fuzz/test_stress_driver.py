# SPDX-License-Identifier: MIT
"""The driver's data path and the model under ASan and UBSan, then under TSan: many threads; served to usrloop."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import sanitized
from tests.sanitized import MEMORY, THREADS, counts
from tests.waiting import enough

SECONDS = sanitized.seconds(3)
INCLUDES = (
    *("loopback-kmod/include/uapi", "usrdrv/block", "usrdrv/backends"),
    *("drivers/ide_cmd680", "drivers/null", "devices", "tests/fuzz"),
)

PART = max(1, SECONDS // 4)
"""Seconds for each of the many ways in which usrloop is served."""
SANITIZERS = (MEMORY, THREADS)

pytestmark = pytest.mark.timeout(SECONDS + 600)
sanitizers = pytest.mark.parametrize("sanitizer", SANITIZERS)


def sources(program: str) -> list[str]:
    if program == "stress_null":
        return ["usrdrv/block/*.c", "drivers/null/[!_]*.c"]
    return [
        *("tests/fuzz/stress_rig.c", "usrdrv/backends/areas.c", "usrdrv/backends/inproc.c"),
        *("usrdrv/loop/*.c", "devices/base/faults.c"),
        *("usrdrv/block/*.c", "drivers/ide_cmd680/*.c", "devices/cmd680/*.c"),
    ]


def build(program: str, sanitizer: str, *options: str) -> Path:
    return sanitized.build(program, sources(program), INCLUDES, *options, sanitizer=sanitizer)


@sanitizers
def test_stress(sanitizer: str) -> None:
    program = build("stress_driver", sanitizer)
    enough(lambda: counts(program, SECONDS), [1000], "requests")


@pytest.fixture(scope="module", params=SANITIZERS)
def server(request: pytest.FixtureRequest) -> Path:
    """The program that serves usrloop; its usage says what the words mean."""
    return build("stress_serve", request.param, "-Dioctl=played_ioctl")


def served(ways: Sequence[str], ends: Sequence[str]) -> pytest.MarkDecorator:
    """Each way with each end. make test has each way once, with the ends in turn."""
    return pytest.mark.parametrize(
        ("way", "end"),
        [
            pytest.param(way, end, marks=() if turn % len(ends) == number else pytest.mark.rare)
            for turn, way in enumerate(ways)
            for number, end in enumerate(ends)
        ],
    )


@served(["slots", "bounce", "tables", "steps", "early"], ["stop", "revoke"])
def test_stress_of_the_server_of_usrloop(server: Path, way: str, end: str) -> None:
    steps = way in ("steps", "early")
    _, by_handler = enough(
        lambda: counts(server, PART, end, way, "1"),
        [50, 10 if steps else -1],
        "requests, some of which the handler ends",
    )
    assert steps or not by_handler


@served(["bounce 2", "signal 2", "tables 2", "signal 4"], ["stop", "revoke", "first"])
def test_stress_of_several_drives_of_usrloop(server: Path, way: str, end: str) -> None:
    kind, drives = way.split()
    enough(
        lambda: counts(server, PART, end, kind, drives),
        [50, -1] * int(drives),
        "requests of each drive",
    )


@sanitizers
@pytest.mark.parametrize("delay_us", [0, 300])
def test_stress_of_queues_whose_commands_end_in_any_order(sanitizer: str, delay_us: int) -> None:
    """The front end over the null chip: three queues, eight commands on each, a sector that fails."""
    program = build("stress_null", sanitizer)
    enough(
        lambda: counts(program, SECONDS, str(delay_us)),
        [300, 2],
        "requests, failed ones among them",
    )
