# SPDX-License-Identifier: MIT
"""Every call of usrloop and every error that its header documents: usrloop_calls.py runs in one guest, once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import usrloop_calls

from tests.lab.helpers.kmod import SLOWER, boot, unload
from usrdrv.lab.console import alarms
from usrdrv.lab.guest import Guest

Boot = Callable[..., Guest]


@pytest.fixture(scope="module")
def guest(guest_factory: Boot) -> Guest:
    return boot(guest_factory)


@pytest.fixture(scope="module")
def results(guest: Guest) -> Any:
    guest.run(
        "python3 /src/tests/lab/guest/usrloop_calls.py /share/results.json",
        600 * SLOWER,
        check=True,
    )
    return json.loads((guest.share / "results.json").read_text())


@pytest.mark.timeout(1200 * SLOWER)
def test_the_self_tests_passed(guest: Guest) -> None:
    assert "usrloop: selftest: 6 passed" in guest.kernel_log()


@pytest.mark.timeout(1200 * SLOWER)
@pytest.mark.parametrize("name", usrloop_calls.CHECKS)
def test_call(results: Any, name: str) -> None:
    assert name in results, f"not reached; the last: {list(results)[-1:]}"
    assert not results[name]["failure"], results[name]["failure"]


@pytest.mark.timeout(1200 * SLOWER)
def test_nothing_is_left(guest: Guest, results: Any) -> None:
    unload(guest)
    assert alarms(guest.kernel_log()) == []
