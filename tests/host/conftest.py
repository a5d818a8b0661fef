# SPDX-License-Identifier: MIT
"""The fixtures of the tests here."""

from tests.host.net_sides import pair, sides
from tests.host.running import world

__all__ = ["pair", "sides", "world"]
