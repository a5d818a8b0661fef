# SPDX-License-Identifier: MIT
"""`usrdrv fault`: make a running model misbehave, and read its counters."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("fault", help="inject faults into a model", description=__doc__)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    return 0
