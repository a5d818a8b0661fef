# SPDX-License-Identifier: MIT
"""The NIC's model, its cable, and the cutting and coalescing of packets, under ASan and UBSan with random input."""

import os
import subprocess
from pathlib import Path

import pytest
from compiled import sanitized
from waiting import enough

ROOT = Path(__file__).resolve().parents[2]
DEVICES = ROOT / "devices"
MODEL = [
    *(path for folder in ("dp83820", "wire") for path in sorted(DEVICES.glob(f"{folder}/*.c"))),
    *(DEVICES / f"base/{name}.c" for name in ("testhost", "peer_signal")),
]
SECONDS = int(os.environ.get("USRDRV_FUZZ_SECONDS", "3"))


def fuzz(name: str, sources: list[Path], *least: int) -> None:
    """Build, and run until it gets somewhere: each sum of what it prints is above its `least`."""
    program = sanitized(
        "address,undefined",
        [ROOT / f"tests/fuzz/{name}.c", *sources],
        ["usrdrv/include", "usrdrv/net", "devices"],
    )

    def run() -> list[int]:
        done = subprocess.run(
            [program, str(SECONDS), "42"],
            capture_output=True, text=True, timeout=SECONDS + 120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return [int(word) for word in done.stdout.split() if word.isdigit()]

    enough(run, least, "it gets somewhere")


@pytest.mark.timeout(SECONDS + 600)
def test_model() -> None:
    runs, sent, received = 10, 100, 100
    fuzz("fuzz_nic", MODEL, runs, sent, received)


@pytest.mark.timeout(SECONDS + 600)
def test_hostile_end_of_a_cable() -> None:
    """It writes what it likes into the memory that both ends share, and fills the eventfd that wakes it."""
    visits, thrown_out, received, sent = 5, 2, 100, 100
    fuzz("fuzz_cable", MODEL, visits, thrown_out, received, sent)


@pytest.mark.timeout(SECONDS + 600)
def test_cutting_and_coalescing() -> None:
    names = ("checksum", "segment", "coalesce")
    runs = 100
    fuzz("fuzz_offload", [ROOT / f"usrdrv/net/{name}.c" for name in names], runs)
