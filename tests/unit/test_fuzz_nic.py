# SPDX-License-Identifier: MIT
"""The NIC's model, its cable, and the cutting and coalescing of packets, under ASan and UBSan with random input."""

import os
import subprocess
from pathlib import Path

import pytest
from waiting import enough

ROOT = Path(__file__).resolve().parents[2]
DEVICES = ROOT / "devices"
MODEL = [
    *(path for folder in ("dp83820", "wire") for path in DEVICES.glob(f"{folder}/*.c")),
    *(DEVICES / f"base/{name}.c" for name in ("faults", "testhost", "peer_signal")),
]
SECONDS = int(os.environ.get("USRDRV_FUZZ_SECONDS", "5"))


def fuzz(tmp_path: Path, program: str, sources: list[Path], *least: int) -> None:
    """Build, and run until it gets somewhere: each sum of what it prints is above its `least`."""
    folders = ("usrdrv/include", "usrdrv/net", "devices")
    includes = [word for folder in folders for word in ("-I", str(ROOT / folder))]
    subprocess.run(
        ["gcc", "-g", "-O1", "-std=gnu11",
         "-fsanitize=address,undefined", "-fno-sanitize-recover=all", *includes,
         ROOT / f"tests/fuzz/{program}.c", *sources, "-lpthread", "-o", tmp_path / program],
        check=True,
    )  # fmt: skip

    def run() -> list[int]:
        done = subprocess.run(
            [tmp_path / program, str(SECONDS), "42"],
            capture_output=True, text=True, timeout=SECONDS + 120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return [int(word) for word in done.stdout.split() if word.isdigit()]

    enough(run, least, "it gets somewhere")


@pytest.mark.timeout(SECONDS + 600)
def test_model(tmp_path: Path) -> None:
    runs, sent, received = 10, 100, 100
    fuzz(tmp_path, "fuzz_nic", MODEL, runs, sent, received)


@pytest.mark.timeout(SECONDS + 600)
def test_hostile_end_of_a_cable(tmp_path: Path) -> None:
    """It writes what it likes into the memory that both ends share, and fills the eventfd that wakes it."""
    visits, thrown_out, received, sent = 5, 2, 100, 100
    fuzz(tmp_path, "fuzz_cable", MODEL, visits, thrown_out, received, sent)


@pytest.mark.timeout(SECONDS + 600)
def test_cutting_and_coalescing(tmp_path: Path) -> None:
    names = ("checksum", "segment", "coalesce")
    runs = 100
    fuzz(tmp_path, "fuzz_offload", [ROOT / f"usrdrv/net/{name}.c" for name in names], runs)
