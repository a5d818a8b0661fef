# SPDX-License-Identifier: MIT
"""Argument types and arguments that several commands have."""

from __future__ import annotations

import argparse
from collections.abc import Callable


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
