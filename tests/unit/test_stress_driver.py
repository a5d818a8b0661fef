# SPDX-License-Identifier: MIT
"""The driver's data path and the model under ASan and UBSan, then under TSan: many threads; served to usrloop."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from compiled import sanitized
from waiting import enough

ROOT = Path(__file__).resolve().parents[2]
SECONDS = int(os.environ.get("USRDRV_FUZZ_SECONDS", "3"))
INCLUDES = (
    *(
        "usrdrv/include",
        "loopback-kmod/include/uapi",
        "usrdrv/block",
        "drivers/ide_cmd680",
        "drivers/null",
        "devices",
    ),
    *("usrdrv/backends", "tests/fuzz"),
)

PART = max(1, SECONDS // 4)
"""Seconds for each of the many ways in which usrloop is served."""
SANITIZERS = ("address,undefined", "thread")

pytestmark = pytest.mark.timeout(SECONDS + 600)
sanitizers = pytest.mark.parametrize("sanitizer", SANITIZERS)


def sources(program: str) -> list[Path]:
    if program == "stress_null":
        chip = [*ROOT.glob("usrdrv/block/*.c"), *ROOT.glob("drivers/null/[!_]*.c")]
        return [ROOT / "tests/fuzz/stress_null.c", *chip, ROOT / "usrdrv/loop/loop.c"]
    found = [ROOT / f"tests/fuzz/{program}.c", ROOT / "tests/fuzz/stress_rig.c"]
    found += [ROOT / "usrdrv/backends" / name for name in ("areas.c", "inproc.c")]
    found.append(ROOT / "usrdrv/loop/loop.c")
    for folder in ("usrdrv/block", "drivers/ide_cmd680", "devices/cmd680"):
        found += sorted((ROOT / folder).glob("*.c"))
    return found


def build(program: str, sanitizer: str, *options: str) -> Path:
    return sanitized(sanitizer, sources(program), INCLUDES, *options)


def run(program: Path, *words: str, seconds: int = SECONDS) -> list[int]:
    """Return its counts."""
    done = subprocess.run(
        [program, str(seconds), "1", *words],
        capture_output=True,
        text=True,
        timeout=SECONDS + 120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [int(word) for word in done.stdout.split() if word.isdigit()]


@sanitizers
def test_stress(sanitizer: str) -> None:
    program = build("stress_driver", sanitizer)
    enough(lambda: run(program), [1000], "requests")


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
        lambda: run(server, end, way, "1", seconds=PART),
        [50, 10 if steps else -1],
        "requests, some of which the handler ends",
    )
    assert steps or not by_handler


@served(["bounce 2", "signal 2", "tables 2", "signal 4"], ["stop", "revoke", "first"])
def test_stress_of_several_drives_of_usrloop(server: Path, way: str, end: str) -> None:
    kind, drives = way.split()
    enough(
        lambda: run(server, end, kind, drives, seconds=PART),
        [50, -1] * int(drives),
        "requests of each drive",
    )


@sanitizers
@pytest.mark.parametrize("delay_us", [0, 300])
def test_stress_of_queues_whose_commands_end_in_any_order(sanitizer: str, delay_us: int) -> None:
    """The front end over the null chip: three queues, eight commands on each, a sector that fails."""
    program = build("stress_null", sanitizer)
    enough(lambda: run(program, str(delay_us)), [300, 2], "requests, failed ones among them")
