# SPDX-License-Identifier: MIT
"""Every test here has the marker `lab`, time for a boot, an eye on its guests' kernels, and leaves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.helpers.kernel_logs import (
    guest_factory,
    kernel_log,
    pytest_runtest_logfinish,
    pytest_runtest_makereport,
)
from tests.lab.helpers.leftovers import nothing_left

__all__ = [
    "guest_factory",
    "kernel_log",
    "nothing_left",
    "pytest_runtest_logfinish",
    "pytest_runtest_makereport",
]

TIMEOUT = 600
"""Seconds for a test, with the boot of its guest: a slow machine emulates at a twentieth of its speed."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.lab)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TIMEOUT))
