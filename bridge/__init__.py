# SPDX-License-Identifier: MIT
"""The command line, and what takes drivers into the kernel."""

import usrdrv.devices  # noqa: F401  so that a command can open a model
