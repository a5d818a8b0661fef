# SPDX-License-Identifier: MIT
"""What a drive says of itself, for scripts and for people."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usrdrv.drivers.ide_cmd680.driver import Drive


def known(drive: Drive) -> dict[str, Any]:
    """Return what is known of a drive, as JSON has it."""
    identity = drive.identity
    return {
        "drive": drive.index,
        **asdict(identity),
        "size": identity.size,
        "mode": drive.mode,
        "modes": [
            *(f"PIO{n}" for n in range(identity.pio_highest + 1)),
            *(f"MWDMA{n}" for n in range(3) if identity.mwdma_mask >> n & 1),
            *(f"UDMA{n}" for n in range(7) if identity.udma_mask >> n & 1),
        ],
        "smart": None if drive.smart is None else asdict(drive.smart),
        "offline": drive.offline,
    }


def human_size(size: int) -> str:
    """Return a size in the unit that suits it."""
    value, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.4g} {unit}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def rows(drive: dict[str, Any]) -> dict[str, str]:
    """Return what there is to tell of a drive, and its value. drive: from known()."""
    return {
        "model": drive["model"],
        "serial": drive["serial"],
        "firmware": drive["firmware"],
        "size": f"{human_size(drive['size'])} ({drive['size']} bytes, {drive['sectors']} sectors)",
        "sector": f"512 bytes, physical {drive['physical_block']}",
        "geometry": f"{drive['cylinders']} cylinders, {drive['heads']} heads, "
        f"{drive['sectors_per_track']} sectors",
        "medium": {0: "not said", 1: "solid state"}.get(drive["rpm"], f"{drive['rpm']} rpm"),
        "mode": f"{drive['mode']} of {' '.join(drive['modes'])}",
        "LBA48": _yes(drive["lba48"]),
        "write cache": f"{_yes(drive['write_cache'])}, "
        f"{'on' if drive['write_cache_enabled'] else 'off'}",
        "flush, FUA, trim": ", ".join(_yes(drive[key]) for key in ("flush", "fua", "trim")),
        "health": _health(drive),
    }


def _health(drive: dict[str, Any]) -> str:
    smart = drive["smart"]
    if drive["offline"]:
        return "out of service: the drive did not come back from a reset"
    if smart is None:
        return "the drive has no SMART"
    return "passed" if smart["healthy"] else "FAILING: a threshold is exceeded"
