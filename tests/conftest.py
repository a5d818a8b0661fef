# SPDX-License-Identifier: MIT
"""What holds for all tests: how fast an example is made or run tells nothing."""

from hypothesis import HealthCheck, settings

import usrdrv.devices  # noqa: F401  so that tests can open a model

settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")
