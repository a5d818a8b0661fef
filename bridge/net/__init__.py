# SPDX-License-Identifier: MIT
"""Network interfaces: a driver behind an interface of the kernel."""
