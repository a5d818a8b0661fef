# SPDX-License-Identifier: MIT
"""What holds for all tests: how fast an example runs tells nothing; claims and sockets are the run's own."""

import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

import usrdrv.devices  # noqa: F401  so that tests can open a model

settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def run_directory_of_the_run() -> Iterator[None]:
    with (
        tempfile.TemporaryDirectory(prefix="usrdrv-run-") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("USRDRV_RUN_DIR", folder)
        yield
