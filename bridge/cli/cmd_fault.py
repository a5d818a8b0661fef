# SPDX-License-Identifier: MIT
"""`usrdrv fault`: make a running model misbehave, and read its counters."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from usrdrv.base import errors
from usrdrv.devices import models


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "fault",
        help="inject faults into a model, read its counters",
        description="Make a running model misbehave, and read its counters. "
        "Kinds of faults and their keys: usrdrv-fault(1).",
    )
    parser.add_argument("control", type=Path, metavar="CONTROL", help="control socket of the model")
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)
    add = actions.add_parser("add", help="add a fault; prints its number")
    add.add_argument("kind", metavar="KIND", help="kind of fault, such as bad-sector")
    add.add_argument("keys", nargs="*", metavar="KEY=VALUE", help="what it hits, such as lba=1000")
    actions.add_parser("list", help="list the faults")
    clear = actions.add_parser("clear", help="take a fault away; prints how many went")
    clear.add_argument(
        "id", nargs="?", default="all", metavar="ID", help="number of the fault; default: all"
    )
    actions.add_parser("counters", help="print the model's counters")
    for action in actions.choices.values():
        action.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask the model and print its answer."""
    from usrdrv.devices import control

    result = control.call(args.control, _request(args))
    if args.json:
        print(json.dumps(result, indent=2))
        return 0
    if args.action == "list":
        for fault in result:
            print(_fault_line(fault))
    elif args.action == "counters":
        for name, value in _flat(result):
            print(f"{name} {value}")
    else:
        print(result)
    return 0


def _request(args: argparse.Namespace) -> dict[str, Any]:
    if args.action == "add":
        from usrdrv.devices import control

        kind = str(control.call(args.control, {"op": "status"})["model"])
        return {
            "op": "fault-add",
            "fault": models.parse_fault(kind, [args.kind, *args.keys]).to_json(),
        }
    if args.action == "clear":
        if args.id == "all":
            return {"op": "fault-clear"}
        if not args.id.isdecimal():
            raise errors.UsageError(f"{args.id}: neither the number of a fault nor all")
        return {"op": "fault-clear", "id": int(args.id)}
    return {"op": "fault-list" if args.action == "list" else "counters"}


def _fault_line(fault: dict[str, Any]) -> str:
    """Return a fault as its number and the words that made it."""
    rest = (f"{key}={value}" for key, value in fault.items() if key not in ("id", "kind"))
    return " ".join((str(fault.get("id", 0)), str(fault["kind"]), *rest))


def _flat(counters: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield counters by name, those of drive N as driveN.name."""
    for name, value in counters.items():
        if name != "drives":
            yield name, value
    for index, drive in enumerate(counters.get("drives", [])):
        for name, value in (drive or {}).items():
            yield f"drive{index}.{name}", value
