# SPDX-License-Identifier: MIT
"""KVM where guests really boot with it, else QEMU's own translator."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from usrdrv.base import errors
from usrdrv.lab import cache

KVM: Final = Path("/dev/kvm")
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def best() -> str:
    """Return `kvm` or `tcg`.

    The first time after a boot of this host KVM is tried: a guest must come up with it alone. Others wait for that.
    In a cache that we may not write it is tried each time that nobody else has.
    """
    if not os.access(KVM, os.R_OK | os.W_OK):
        return "tcg"
    host = BOOT_ID.read_text().strip()
    note = cache.folder() / "accelerator"
    if not os.access(cache.folder(), os.W_OK):
        return _noted(note, host) or _try()
    with cache.locked("accelerator"):  # two guests that are tried at once make each other slow
        result = _noted(note, host)
        if result is None:
            result = _try()
            fresh = note.with_suffix(".new")
            fresh.write_text(f"{result} {host}")
            fresh.rename(note)
    return result


def _noted(note: Path, host: str) -> str | None:
    """Return what was found since the boot `host`."""
    if note.exists():
        found, _, seen = note.read_text().partition(" ")
        if seen == host:
            return found
    return None


def _try() -> str:
    return "kvm" if _kvm_boots() else "tcg"


def _kvm_boots() -> bool:
    from usrdrv.lab.guest import Guest

    try:
        with Guest(accel="kvm", timeout=12) as guest:
            return guest.run("true", timeout=10).code == 0
    except errors.LabError:
        return False
