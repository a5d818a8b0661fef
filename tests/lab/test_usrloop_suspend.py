# SPDX-License-Identifier: MIT
"""Suspend beside a disk of usrloop. In a guest of its own: the kernel shows the task that it cannot freeze."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.lab.helpers.kernel_logs import says
from tests.lab.helpers.kmod import SLOWER, boot
from usrdrv.lab.guest import Guest


@pytest.fixture(scope="module")
def guest(guest_factory: Callable[..., Guest]) -> Guest:
    return boot(guest_factory)


@pytest.mark.timeout(600 * SLOWER)
@pytest.mark.kernel_log(allow=[r"Call Trace:"])
@pytest.mark.parametrize("check", ["refused", "clock"])
def test_a_request_that_waits_has_suspend_refused(guest: Guest, check: str) -> None:
    """It harms nothing, takes no server's time, and the next try goes through: docs/man/usrdrv-block.1.md."""
    place = guest.console.position()
    guest.run(f"python3 /src/tests/lab/guest/usrloop_suspend.py {check}", 300 * SLOWER, check=True)
    says(guest, "Freezing user space processes failed", place)
