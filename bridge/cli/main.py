# SPDX-License-Identifier: MIT
"""The command `usrdrv`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import metadata

from usrdrv.base import errors
from usrdrv.bridge import patient
from usrdrv.bridge.cli import (
    cmd_block,
    cmd_fault,
    cmd_identify,
    cmd_lab,
    cmd_list,
    cmd_model,
    cmd_net,
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        """One line, like every other error."""
        self.exit(2, f"usrdrv: error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="usrdrv", description="PCI device drivers that run as processes.")
    parser.add_argument(
        "--version", action="version", version=f"usrdrv {metadata.version('usrdrv')}"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    for command in (cmd_list, cmd_identify, cmd_block, cmd_net, cmd_model, cmd_fault, cmd_lab):
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Return the exit code: 0 done, 1 failed, 2 wrong usage."""
    args = _parser().parse_args(argv)
    with patient.stderr() if getattr(args, "patient", False) else nullcontext():
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    try:
        return int(args.run(args))
    except errors.UsrdrvError as error:
        print(f"usrdrv: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, errors.UsageError) else 1
    except KeyboardInterrupt:
        print("usrdrv: error: interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
