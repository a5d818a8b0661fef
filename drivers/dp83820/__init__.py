# SPDX-License-Identifier: MIT
"""The driver for the DP83820 gigabit NIC."""
