# SPDX-License-Identifier: MIT
"""The command `usrdrv`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from typing import Any, Final

from usrdrv.base import errors
from usrdrv.bridge import patient

COMMANDS: Final = ("list", "identify", "block", "net", "model", "fault", "lab")
"""Each is a module cmd_NAME.py."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        """One line, like every other error."""
        self.exit(2, f"usrdrv: error: {message} (see {self.prog} --help)\n")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print it; looking it up takes longer than all else that a short command does."""
        print(f"usrdrv {import_module('importlib.metadata').version('usrdrv')}")
        parser.exit()


def _parser(names: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(prog="usrdrv", description="PCI device drivers that run as processes.")
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="show program's version number and exit"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    for name in names:
        import_module(f"usrdrv.bridge.cli.cmd_{name}").add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Return the exit code: 0 done, 1 failed, 2 wrong usage."""
    words = sys.argv[1:] if argv is None else argv
    # A command that is named first does not wait for the others to be imported.
    names = words[:1] if words and words[0] in COMMANDS else COMMANDS
    args = _parser(names).parse_args(words)
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
