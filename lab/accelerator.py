# SPDX-License-Identifier: MIT
"""KVM where guests really boot with it, else QEMU's own translator."""

from __future__ import annotations

import os
from pathlib import Path

from usrdrv import errors
from usrdrv.lab import cache


def best() -> str:
    """Return `kvm` or `tcg`.

    The first time after a boot of this host KVM is tried: a guest must come up with it alone.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    host = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    note = cache.folder() / "accelerator"
    if note.exists():
        found, _, seen = note.read_text().partition(" ")
        if seen == host:
            return found
    result = "kvm" if _kvm_boots() else "tcg"
    note.write_text(f"{result} {host}")
    return result


def _kvm_boots() -> bool:
    from usrdrv.lab.guest import Guest

    try:
        with Guest(accel="kvm", timeout=12) as guest:
            return guest.run("true", timeout=10).code == 0
    except errors.LabError:
        return False
