# SPDX-License-Identifier: MIT
"""`usrdrv identify`: what the drives of a controller say of themselves."""

from __future__ import annotations

import argparse
import json
from typing import Any

from usrdrv.base import errors
from usrdrv.bridge import inquiry
from usrdrv.bridge.arguments import add_device, bounded
from usrdrv.drivers import supported


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "identify",
        help="show drives: identity, modes, geometry, health",
        description="Show the drives of a controller: identity, modes, geometry, health.",
    )
    add_device(parser)
    parser.add_argument("--drive", type=bounded(0, 3), help="only this one, 0 to 3")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask and print."""
    supported.check(args.device, supported.DISKS)
    found = _find(args.device)
    if args.drive is not None:
        found = [drive for drive in found if drive["drive"] == args.drive]
        if not found:
            raise errors.NoSuchDeviceError(f"{args.device}: no drive {args.drive}")
    if args.json:
        print(json.dumps({"device": args.device, "drives": found}, indent=2))
    elif not found:
        print(f"{args.device}: no drives")
    else:
        for drive in found:
            _print_table(args.device, drive)
    return 0


def _find(name: str) -> list[dict[str, Any]]:
    """Ask the drives of a device: through the driver that has it, or else one of our own."""
    from usrdrv.device import open_device
    from usrdrv.drivers import open_driver

    try:
        with (
            open_device(name) as device,
            open_driver(device, supported.DISKS, read_only=True) as controller,
        ):
            return [inquiry.describe(drive) for drive in controller.drives if drive is not None]
    except errors.DeviceBusyError as busy:
        found = None if busy.owner is None else inquiry.ask(busy.owner)
        if found is None:
            raise
        return found


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


def _print_table(name: str, drive: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = {
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
        "health": _health(drive["smart"]),
    }
    console = Console(highlight=False)
    table = Table(title=f"{name} drive {drive['drive']}", show_header=False, box=box.SIMPLE)
    for key, value in rows.items():
        table.add_row(Text(key), Text(value))  # Text: a drive's strings are no markup
    console.print(table)
    if drive["smart"] and drive["smart"]["attributes"]:
        columns = ("id", "value", "worst", "threshold", "raw")
        attributes = Table(title="SMART attributes", box=box.SIMPLE)
        for column in columns:
            attributes.add_column(column, justify="right")
        for attribute in drive["smart"]["attributes"]:
            attributes.add_row(*(str(attribute[column]) for column in columns))
        console.print(attributes)


def _health(smart: dict[str, Any] | None) -> str:
    if smart is None:
        return "the drive has no SMART"
    return "passed" if smart["healthy"] else "FAILING: a threshold is exceeded"
