# SPDX-License-Identifier: MIT
"""`usrdrv model`: a device in software, behind a vfio-user socket."""

from __future__ import annotations

import argparse
from pathlib import Path

from usrdrv import errors


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("model", help="run a device model", description=__doc__)
    parser.add_argument("kind", choices=("cmd680",), metavar="KIND", help="cmd680")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until told to end."""
    return 0
