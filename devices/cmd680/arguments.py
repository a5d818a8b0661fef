# SPDX-License-Identifier: MIT
"""What `usrdrv model cmd680` takes: drives, cables and a PCI class."""

import argparse
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from usrdrv.base.errors import UsageError
from usrdrv.devices.base.command_line import Arguments

LINES: Final = ("cable0", "cable1", "class")
"""Options of the controller itself that have an argument of their own."""
_OPTION: Final = re.compile(r",(?:ro|(?P<key>[a-z0-9]+)=(?P<value>[^,/]*))$")


class _AddDrive(argparse.Action):
    """Collect --image and --ram in one list: their order numbers the drives that have no number."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        from usrdrv.devices.cmd680.model import DRIVES

        namespace.drives = [*namespace.drives, (self.dest, str(values))]
        if len(namespace.drives) > DRIVES:
            parser.error(f"a cmd680 has {DRIVES} drives at most")


class _Cmd680Arguments(Arguments):
    def add(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--image",
            action=_AddDrive,
            metavar="FILE[,ro][,KEY=VALUE]...",
            help="a drive in a raw image file",
        )
        parser.add_argument(
            "--ram", action=_AddDrive, metavar="SIZE[,KEY=VALUE]...", help="a drive in memory"
        )
        for channel in (0, 1):
            parser.add_argument(
                f"--cable{channel}",
                choices=("40", "80"),
                help=f"wires of channel {channel}'s cable",
            )
        parser.add_argument("--class", metavar="HEX", help="PCI class, such as 0101")
        parser.set_defaults(drives=[])

    def options(self, args: argparse.Namespace) -> dict[str, list[str]]:
        lines = {key: value for key in LINES if (value := getattr(args, key)) is not None}
        if args.kind != "cmd680":
            for kind, text in args.drives:
                raise UsageError(f"--{kind} {text}: a {args.kind} has no drives")
            for key, value in lines.items():
                raise UsageError(f"--{key} {value}: a {args.kind} has no such option")
        found = {key: [value] for key, value in lines.items()}
        for position, (kind, text) in enumerate(args.drives):
            medium, pairs = _split(text)
            index = pairs.pop("drive", str(position))
            _check_drive(f"--{kind} {text}", index, pairs)
            for key, value in {kind: medium, **pairs}.items():
                found.setdefault(f"{key}{index}", []).append(value)
        return found


def _check_drive(said: str, index: str, keys: Iterable[str]) -> None:
    """Name what is wrong as it was typed: the model would name it with the drive's number behind."""
    from usrdrv.devices.cmd680.model import DRIVE_OPTIONS, DRIVES

    if index not in map(str, range(DRIVES)):
        raise UsageError(f"{said}: drive={index} is not in 0 to {DRIVES - 1}")
    for key in keys:
        if key not in DRIVE_OPTIONS:
            known = ", ".join(["drive", *DRIVE_OPTIONS])
            raise UsageError(f"{said}: unknown option {key!r} of a drive: known are {known}")


def _split(text: str) -> tuple[str, dict[str, str]]:
    """Return a drive's medium and its options, which are at the end: a file's name may have commas."""
    pairs: dict[str, str] = {}
    while match := _OPTION.search(text):
        pairs.setdefault(match["key"] or "ro", match["value"] or "1")
        text = text[: match.start()]
    return text, pairs


ARGUMENTS: Final = _Cmd680Arguments(
    about="A cmd680's drives are numbered as they are given: 0 and 1 on the first channel, "
    "2 and 3 on the second.",
    examples="a cmd680's strict=1",
)
