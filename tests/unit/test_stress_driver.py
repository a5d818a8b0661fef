# SPDX-License-Identifier: MIT
"""The driver's data path and the model under ASan and UBSan, then under TSan: many threads; served to usrloop."""

import os
import subprocess
from pathlib import Path

import pytest
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
        return [ROOT / "tests/fuzz/stress_null.c", *chip]
    found = [ROOT / f"tests/fuzz/{program}.c", ROOT / "tests/fuzz/stress_rig.c"]
    found += [ROOT / "usrdrv/backends" / name for name in ("areas.c", "inproc.c")]
    for folder in ("usrdrv/block", "usrdrv/loop", "drivers/ide_cmd680", "devices/cmd680"):
        found += sorted((ROOT / folder).glob("*.c"))
    return found


def build(program: str, sanitizer: str, folder: Path, *options: str) -> Path:
    output = folder / program
    subprocess.run(
        [
            *("gcc", "-g", "-O1", "-std=gnu11", f"-fsanitize={sanitizer}"),
            *("-fno-sanitize-recover=all", *options, "-o", output),
            *(f"-I{ROOT / folder}" for folder in INCLUDES),
            *sources(program),
            "-lpthread",
        ],
        check=True,
    )
    return output


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
def test_stress(sanitizer: str, tmp_path: Path) -> None:
    program = build("stress_driver", sanitizer, tmp_path)
    enough(lambda: run(program), [1000], "requests")


@pytest.fixture(scope="module", params=SANITIZERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that serves usrloop; its usage says what the words mean."""
    folder = tmp_path_factory.mktemp("server")
    return build("stress_serve", request.param, folder, "-Dioctl=played_ioctl")


@pytest.mark.parametrize("end", ["stop", "revoke"])
@pytest.mark.parametrize("way", ["slots", "bounce", "tables", "steps", "early"])
def test_stress_of_the_server_of_usrloop(server: Path, way: str, end: str) -> None:
    steps = way in ("steps", "early")
    _, by_handler = enough(
        lambda: run(server, end, way, "1", seconds=PART),
        [50, 10 if steps else -1],
        "requests, some of which the handler ends",
    )
    assert steps or not by_handler


@pytest.mark.parametrize("end", ["stop", "revoke", "first"])
@pytest.mark.parametrize(
    ("way", "drives"), [("bounce", 2), ("signal", 2), ("tables", 2), ("signal", 4)]
)
def test_stress_of_several_drives_of_usrloop(server: Path, way: str, drives: int, end: str) -> None:
    enough(
        lambda: run(server, end, way, str(drives), seconds=PART),
        [50, -1] * drives,
        "requests of each drive",
    )


@sanitizers
@pytest.mark.parametrize("delay_us", [0, 300])
def test_stress_of_queues_whose_commands_end_in_any_order(
    sanitizer: str, delay_us: int, tmp_path: Path
) -> None:
    """The front end over the null chip: three queues, eight commands on each, a sector that fails."""
    program = build("stress_null", sanitizer, tmp_path)
    enough(lambda: run(program, str(delay_us)), [300, 2], "requests, failed ones among them")
