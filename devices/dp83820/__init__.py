# SPDX-License-Identifier: MIT
"""The DP83820 gigabit NIC."""
