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

pytestmark = pytest.mark.timeout(SECONDS + 240)
sanitizers = pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])


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


@sanitizers
def test_stress_of_the_server_of_usrloop(sanitizer: str, tmp_path: Path) -> None:
    """Until the disk is stopped, or taken away in the middle of its work.

    The device reaches the slots; or it does not; or slots tell it where the data are; or handlers end requests,
    also between two looks of the driver at its rings: at the second, the tag is in use again.
    """
    program = build("stress_serve", sanitizer, tmp_path, "-Dioctl=played_ioctl")
    for end in ("stop", "revoke"):
        for way in ((), ("bounce",), ("tables",), ("steps",), ("early",)):
            words, steps = (end, *way), way in (("steps",), ("early",))
            _, by_handler = enough(
                lambda: run(program, *words, seconds=max(1, SECONDS // 4)),  # noqa: B023
                [50, 10 if steps else -1],
                f"{words}: requests, some of which the handler ends",
            )
            assert steps or not by_handler


@sanitizers
def test_stress_of_several_drives_of_usrloop(sanitizer: str, tmp_path: Path) -> None:
    """Both of a channel, and all four; stopped, or taken away, or the first one is and the others go on."""
    program = build("stress_serve", sanitizer, tmp_path, "-Dioctl=played_ioctl")
    for end in ("stop", "revoke", "first"):
        for way, drives in (("bounce", 2), ("signal", 2), ("tables", 2), ("signal", 4)):
            words = (end, way, str(drives))
            enough(
                lambda: run(program, *words, seconds=max(1, SECONDS // 4)),  # noqa: B023
                [50, -1] * drives,
                f"{words}: requests of each drive",
            )


@sanitizers
@pytest.mark.parametrize("delay_us", [0, 300])
def test_stress_of_queues_whose_commands_end_in_any_order(
    sanitizer: str, delay_us: int, tmp_path: Path
) -> None:
    """The front end over the null chip: three queues, eight commands on each, a sector that fails."""
    program = build("stress_null", sanitizer, tmp_path)
    enough(lambda: run(program, str(delay_us)), [300, 2], "requests, failed ones among them")
