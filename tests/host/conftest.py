# SPDX-License-Identifier: MIT
"""The fixture of all tests here."""

from running import world

__all__ = ["world"]
