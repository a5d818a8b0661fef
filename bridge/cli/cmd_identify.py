# SPDX-License-Identifier: MIT
"""`usrdrv identify`: what the drives of a controller say of themselves."""

from __future__ import annotations

import argparse
import json

from usrdrv.base import errors
from usrdrv.bridge.block import inquiry
from usrdrv.bridge.cli.arguments import add_device, drive_number
from usrdrv.chips import DISKS
from usrdrv.drivers import supported


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "identify",
        help="show drives: identity, modes, geometry, health",
        description="Show the drives of a controller: identity, modes, geometry, health.",
    )
    add_device(parser)
    parser.add_argument("--drive", type=drive_number, help="only this one")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask and print."""
    supported.check(args.device, DISKS)
    found = _find(args.device)
    if args.drive is not None:
        found = [drive for drive in found if drive["known"]["drive"] == args.drive]
        if not found:
            raise errors.NoSuchDeviceError(f"{args.device}: no drive {args.drive}")
    if args.json:
        drives = [drive["known"] for drive in found]
        print(json.dumps({"device": args.device, "drives": drives}, indent=2))
    elif not found:
        print(f"{args.device}: no drives")
    else:
        for drive in found:
            _print_table(args.device, drive)
    return 0


def _find(name: str) -> list[inquiry.Answer]:
    """Ask the drives of a device: through the driver that has it, or else one of our own."""
    from usrdrv.block.options import Options
    from usrdrv.drivers.disks import open_disks

    try:
        with open_disks(name, Options(read_only=True)) as controller:
            return inquiry.tell(controller)
    except errors.DeviceBusyError as busy:
        try:
            found = None if busy.owner is None else inquiry.ask(busy.owner)
        except errors.DeviceError as error:
            raise errors.DeviceBusyError(f"{busy}, whose driver does not answer") from error
        if found is None:
            raise
        return found


def _print_table(name: str, drive: inquiry.Answer) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    known = drive["known"]
    console = Console(highlight=False)
    table = Table(title=f"{name} drive {known['drive']}", show_header=False, box=box.SIMPLE)
    for key, value in drive["rows"].items():
        table.add_row(Text(key), Text(value))  # Text: a drive's strings are no markup
    console.print(table)
    smart = known.get("smart")
    if smart and smart["attributes"]:
        columns = ("id", "value", "worst", "threshold", "raw")
        attributes = Table(title="SMART attributes", box=box.SIMPLE)
        for column in columns:
            attributes.add_column(column, justify="right")
        for attribute in smart["attributes"]:
            attributes.add_row(*(str(attribute[column]) for column in columns))
        console.print(attributes)
