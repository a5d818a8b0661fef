# SPDX-License-Identifier: MIT
"""Argument types and arguments that several commands have."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from usrdrv.base.options import Option, flag


def bounded(lowest: int, highest: int) -> Callable[[str], int]:
    """Return an argparse type: an integer within limits."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f"{value} is not in {lowest} to {highest}")
        return value

    return parse


drive_number = bounded(0, 65535)
"""An argparse type: a drive of a controller; which there are, its driver says."""


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "device",
        metavar="DEVICE",
        help="a PCI address such as 0000:03:00.0, vfio-user:SOCKET, model:cmd680?image=FILE, or null:size=1G",
    )


def add_options(parser: argparse.ArgumentParser, options: Mapping[str, Option]) -> None:
    """Add what is declared (usrdrv.base.options)."""
    for name, option in options.items():
        if option.default is True:
            parser.add_argument(
                flag(f"no_{name}"), dest=name, action="store_false", help=option.help
            )
        elif option.default is False:
            parser.add_argument(flag(name), action="store_true", help=option.help)
        else:
            parser.add_argument(
                flag(name),
                type=bounded(*option.bounds) if option.bounds else option.kind,
                default=option.default,
                metavar=option.unit and option.unit.upper(),
                help=option.help,
            )


def given(args: argparse.Namespace, options: Mapping[str, Option]) -> dict[str, Any]:
    """Return those that are not as they are by default."""
    values = {name: getattr(args, name) for name in options}
    return {name: value for name, value in values.items() if value != options[name].default}
