# SPDX-License-Identifier: MIT
"""A disk in memory with a driver like any other."""
