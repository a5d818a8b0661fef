# SPDX-License-Identifier: MIT
"""What a request costs through usrloop, counted in instructions: less than through ublk or NBD.

Client, kernel and server together, each server with nothing behind it, in a guest whose time counts instructions.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench import instructions, loopback
from bench.instructions import Case
from bench.loopback import NBD, UBLK, USRLOOP
from usrdrv.lab.guest import Guest

BOUNDS = {
    Case(1, 4096, "read"): 10_020,
    Case(1, 4096, "write"): 9_860,
    Case(32, 4096, "read"): 5_580,
    Case(32, 4096, "write"): 5_470,
}
"""As counted, rounded up; gcc 12."""
MARGIN = 1.03


@pytest.fixture(scope="module")
def guest(guest_factory: Callable[..., Guest]) -> Guest:
    return guest_factory(kernel=loopback.KERNEL, kmod=True, counting=True)


@pytest.fixture(scope="module")
def disks(guest: Guest) -> dict[str, str]:
    return loopback.serve(guest)


# All in this order: what is counted first in a guest costs some instructions more.
@pytest.mark.parametrize("case", BOUNDS, ids=lambda case: case.text)
def test_usrloop_needs_the_fewest_instructions(
    guest: Guest, disks: dict[str, str], case: Case
) -> None:
    found = {way: instructions.count(guest, disk, case) for way, disk in disks.items()}
    print(f"{case.text}: {found}")
    assert found[USRLOOP] < found[UBLK] < found[NBD]
    assert found[USRLOOP] < BOUNDS[case] * MARGIN
