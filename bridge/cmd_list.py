# SPDX-License-Identifier: MIT
"""`usrdrv list`: devices that could be opened here."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("list", help="list devices", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the devices, one a line."""
    from usrdrv.device import list_devices

    found = list_devices()
    if args.json:
        print(json.dumps([asdict(device) for device in found], indent=2))
        return 0
    for device in found:
        owner = "free" if device.owner is None else f"taken by process {device.owner}"
        print(f"{device.name}  {device.vendor:04x}:{device.device:04x}  {device.driver}  {owner}")
    return 0
