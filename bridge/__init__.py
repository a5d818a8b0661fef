# SPDX-License-Identifier: MIT
"""The command line, and what takes drivers into the kernel."""

# So that a command can open a model, and a device of QEMU's.
import usrdrv.devices
import usrdrv.lab  # noqa: F401
