# SPDX-License-Identifier: MIT
"""The fixtures of the tests here."""

from net_sides import pair, sides
from running import world

__all__ = ["pair", "sides", "world"]
