# SPDX-License-Identifier: MIT
"""`usrdrv fault`: make a running model misbehave, and read its counters."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("fault", help="inject faults into a model", description=__doc__)
    parser.add_argument("control", type=Path, metavar="CONTROL", help="control socket of the model")
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)
    add = actions.add_parser("add", help="add a fault; prints its number")
    add.add_argument("kind", metavar="KIND")
    add.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    actions.add_parser("list", help="list the faults")
    clear = actions.add_parser("clear", help="take a fault away")
    clear.add_argument("id", nargs="?", default="all", metavar="ID", help="number or all (default)")
    actions.add_parser("counters", help="print the model's counters")
    for action in actions.choices.values():
        action.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    return 0
