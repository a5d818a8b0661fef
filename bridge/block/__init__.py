# SPDX-License-Identifier: MIT
"""Disks: a driver behind a block device of the kernel."""
