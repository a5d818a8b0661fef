# SPDX-License-Identifier: MIT
"""The NIC driver's data path at both ends of a cable, with faults, under ASan and UBSan, then under TSan."""

import os
import subprocess
from pathlib import Path

import pytest
from compiled import sanitized
from waiting import enough

ROOT = Path(__file__).resolve().parents[2]
SECONDS = int(os.environ.get("USRDRV_FUZZ_SECONDS", "3"))
INCLUDES = (
    *("usrdrv/include", "usrdrv/net", "usrdrv/backends", "devices", "drivers/dp83820"),
    "loopback-kmod/include/uapi",
)


def sources() -> list[Path]:
    found = [ROOT / "tests/fuzz/stress_nic.c"]
    found += [ROOT / "usrdrv/backends" / name for name in ("areas.c", "inproc.c")]
    found += [ROOT / "usrdrv/loop/loop.c", ROOT / "devices/base/peer_signal.c"]
    for folder in ("drivers/dp83820", "usrdrv/net", "devices/dp83820", "devices/wire"):
        found += sorted((ROOT / folder).glob("*.c"))
    return found


@pytest.mark.timeout(SECONDS + 600)
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_stress(sanitizer: str) -> None:
    program = sanitized(sanitizer, sources(), INCLUDES, "-Wno-tsan")

    def frames() -> list[int]:
        """Sent; received: plain ones, TCP."""
        done = subprocess.run(
            [program, str(SECONDS), "1"],
            capture_output=True,
            text=True,
            timeout=SECONDS + 120,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return [int(word) for word in done.stdout.split()[:6:2]]

    enough(frames, [500, 20, 200], "frames")
