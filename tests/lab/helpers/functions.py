# SPDX-License-Identifier: MIT
"""PCI functions in a guest: who drives them, their disks, and what is said of those that are not taken."""

from __future__ import annotations

from tests.waiting import until
from usrdrv.lab.guest import Guest


def driver(guest: Guest, address: str) -> str:
    """The kernel's that has a function."""
    link = guest.run(f"readlink /sys/bus/pci/devices/{address}/driver").out
    return link.strip().rpartition("/")[2]


def disk(guest: Guest, address: str) -> str:
    """Wait for the kernel's disk of a controller; return its path."""
    pattern = f"/sys/bus/pci/devices/{address}/ata*/host*/target*/*/block/*"
    found = until(lambda: guest.run(f"ls -d {pattern} 2>&-").out.split(), f"a disk on {address}")
    return f"/dev/{found[0].rpartition('/')[2]}"


def refused(guest: Guest, command: str, code: int = 1) -> str:
    """Run a command that must fail with one line; return the line."""
    result = guest.run(command, 120)
    assert result.code == code, result
    assert result.err.startswith("usrdrv: error: ") and result.err.count("\n") == 1, result.err
    return result.err
