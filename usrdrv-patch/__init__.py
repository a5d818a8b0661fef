# SPDX-License-Identifier: MIT
"""The patches for Linux, as data: see README.md."""
