# SPDX-License-Identifier: MIT
"""What a model adds to the command line of `usrdrv model`, in ARGUMENTS of its `arguments.py`.

It is imported to parse `usrdrv model`, so it loads nothing of C before it is used.
"""

import argparse
from dataclasses import dataclass


@dataclass(frozen=True)
class Arguments:
    """A model without arguments: all of its options are given with --option."""

    about: str = ""
    """Sentences for the command's description."""
    examples: str = ""
    """Of options, for the help of --option."""

    def add(self, parser: argparse.ArgumentParser) -> None:
        """Add the model's arguments to the parser, which all models share."""

    def options(self, args: argparse.Namespace) -> dict[str, list[str]]:
        """Return what was given as options of the model `args.kind`; UsageError for what it cannot have."""
        return {}
