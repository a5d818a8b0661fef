# SPDX-License-Identifier: MIT
"""The NIC driver's data path at both ends of a cable, with faults, under ASan and UBSan, then under TSan."""

import pytest

from tests.sanitized import MEMORY, THREADS, build, counts, seconds
from tests.waiting import enough

SECONDS = seconds(3)
SOURCES = [
    *(f"{folder}/*.c" for folder in ("drivers/dp83820", "usrdrv/net", "devices/dp83820")),
    *("devices/wire/*.c", "devices/base/faults.c", "devices/base/peer_signal.c"),
    *("usrdrv/backends/areas.c", "usrdrv/backends/inproc.c", "usrdrv/loop/loop.c"),
]
INCLUDES = ("usrdrv/net", "usrdrv/backends", "devices", "drivers/dp83820")


@pytest.mark.timeout(SECONDS + 600)
@pytest.mark.parametrize("sanitizer", [MEMORY, THREADS])
def test_stress(sanitizer: str) -> None:
    includes = (*INCLUDES, "loopback-kmod/include/uapi")
    program = build("stress_nic", SOURCES, includes, "-Wno-tsan", sanitizer=sanitizer)
    # Sent; received: plain ones, TCP.
    enough(lambda: counts(program, SECONDS)[:3], [500, 20, 200], "frames")
