# SPDX-License-Identifier: MIT
"""The NIC's model, its cable, and the cutting and coalescing of packets, under ASan and UBSan with random input."""

import pytest

from tests.sanitized import build, counts, seconds
from tests.waiting import enough

MODEL = ["devices/dp83820/*.c", "devices/wire/*.c"]
MODEL += [f"devices/base/{name}.c" for name in ("faults", "testhost", "peer_signal")]
SECONDS = seconds(3)

pytestmark = pytest.mark.timeout(SECONDS + 600)


def fuzz(program: str, sources: list[str], *least: int) -> None:
    """Build, and run until it gets somewhere: each sum of what it prints is above its `least`."""
    built = build(program, sources, ("usrdrv/net", "devices"))
    enough(lambda: counts(built, SECONDS, seed=42), least, "it gets somewhere")


def test_model() -> None:
    runs, sent, received = 10, 100, 100
    fuzz("fuzz_nic", MODEL, runs, sent, received)


def test_hostile_end_of_a_cable() -> None:
    """It writes what it likes into the memory that both ends share, and fills the eventfd that wakes it."""
    visits, thrown_out, received, sent = 5, 2, 100, 100
    fuzz("fuzz_cable", MODEL, visits, thrown_out, received, sent)


def test_cutting_and_coalescing() -> None:
    names = ("checksum", "segment", "coalesce")
    runs = 100
    fuzz("fuzz_offload", [f"usrdrv/net/{name}.c" for name in names], runs)
