# SPDX-License-Identifier: MIT
"""`usrdrv list`: devices that could be opened here."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from usrdrv.drivers.listing import Found


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "list",
        help="list devices",
        description="List the devices that can be opened here, and who uses them.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the devices, one a line."""
    from usrdrv.drivers.listing import list_devices

    found = list_devices()
    if args.json:
        print(json.dumps([asdict(device) for device in found], indent=2))
        return 0
    for device in found:
        print(
            f"{device.name}  {device.vendor:04x}:{device.device:04x}  {device.driver}  {_state(device)}"
        )
    return 0


def _state(device: Found) -> str:
    if device.owner is not None:
        return f"taken by process {device.owner}"
    if device.used is None:
        return "unknown (its server is in another network namespace)"
    return "in use by a client of its server" if device.used else "free"
