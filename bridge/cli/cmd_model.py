# SPDX-License-Identifier: MIT
"""`usrdrv model`: a device in software, behind a vfio-user socket."""

from __future__ import annotations

import argparse
import os
import re
import select
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usrdrv.base import errors
from usrdrv.base.signals import Interrupted, Signals
from usrdrv.devices import models

if TYPE_CHECKING:
    from usrdrv.devices.vfio_user.server import Server

DRIVES = 4
_OPTION = re.compile(r",(?:ro|(?P<key>[a-z0-9]+)=(?P<value>[^,/]*))$")


class _AddDrive(argparse.Action):
    """Collect --image and --ram in one list: their order numbers the drives that have no number."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        namespace.drives = [*namespace.drives, (self.dest, str(values))]
        if len(namespace.drives) > DRIVES:
            parser.error(f"a cmd680 has {DRIVES} drives at most")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "model",
        help="run a device model",
        description="Serve a device in software on a vfio-user socket, until told to end. A cmd680's drives "
        "are numbered as they are given: 0 and 1 on the first channel, 2 and 3 on the second. KEYs: "
        "usrdrv-model(1).",
    )
    parser.add_argument(
        "kind", choices=models.kinds(), metavar="KIND", help=f"one of {', '.join(models.kinds())}"
    )
    parser.add_argument("--socket", type=Path, required=True, help="path of the socket to make")
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
            f"--cable{channel}", choices=("40", "80"), help=f"wires of channel {channel}'s cable"
        )
    parser.add_argument("--class", dest="pci_class", metavar="HEX", help="PCI class, such as 0101")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any option of the model, as a `model:` device name has it (a cmd680's strict=1, "
        "a dp83820's mac=, cable=)",
    )
    parser.add_argument(
        "--control", type=Path, help="path of the control socket (default: SOCKET.ctl)"
    )
    parser.set_defaults(run=run, drives=[])


def options(args: argparse.Namespace) -> dict[str, list[str]]:
    """Return the model's options as a `model:` device name has them."""
    found: dict[str, list[str]] = {}
    for position, (kind, text) in enumerate(args.drives):
        medium, pairs = _split(text)
        index = pairs.pop("drive", str(position))
        _check_drive(args.kind, f"--{kind} {text}", index, pairs)
        for key, value in {kind: medium, **pairs}.items():
            found.setdefault(f"{key}{index}", []).append(value)
    for key, value in (
        ("cable0", args.cable0),
        ("cable1", args.cable1),
        ("class", args.pci_class),
    ):
        if value is not None:
            found[key] = [value]
    for pair in args.option:
        key, equals, value = pair.partition("=")
        if not equals:
            raise errors.UsageError(f"--option {pair}: expected KEY=VALUE")
        found.setdefault(key, []).append(value)
    return found


def _check_drive(model: str, said: str, index: str, keys: Iterable[str]) -> None:
    """Name what is wrong as it was typed: the model would name it with the drive's number behind."""
    from usrdrv.devices.cmd680.model import DRIVE_OPTIONS

    if model != "cmd680":
        raise errors.UsageError(f"{said}: a {model} has no drives")
    if index not in map(str, range(DRIVES)):
        raise errors.UsageError(f"{said}: drive={index} is not in 0 to {DRIVES - 1}")
    for key in keys:
        if key not in DRIVE_OPTIONS:
            known = ", ".join(["drive", *DRIVE_OPTIONS])
            raise errors.UsageError(f"{said}: unknown option {key!r} of a drive: known are {known}")


def _split(text: str) -> tuple[str, dict[str, str]]:
    """Return a drive's medium and its options, which are at the end: a file's name may have commas."""
    pairs: dict[str, str] = {}
    while match := _OPTION.search(text):
        pairs.setdefault(match["key"] or "ro", match["value"] or "1")
        text = text[: match.start()]
    return text, pairs


def run(args: argparse.Namespace) -> int:
    """Serve until told to end."""
    from usrdrv.claim import SERVED, Claim
    from usrdrv.devices.control import ControlServer
    from usrdrv.devices.vfio_user.server import Server

    path = args.socket.resolve()
    name = f"vfio-user:{path}"
    control_path = args.control.absolute() if args.control else Path(f"{path}.ctl")
    try:
        with (
            Signals() as signals,
            models.create(args.kind, options(args)) as model,
            Server(model.pointer, path) as server,
            ControlServer(control_path, model),
            Claim(f"{SERVED}{args.kind} {name}"),
        ):
            signals.poll_only()
            _serve(server, name, signals)
    except Interrupted:
        raise errors.DeviceError("interrupted before the model was ready") from None
    return 0


def _serve(server: Server, name: str, signals: Signals) -> None:
    """Run the server in a thread: Python handles signals in the main one."""
    failure: list[errors.UsrdrvError] = []
    ended, end = os.pipe2(os.O_CLOEXEC)

    def serve() -> None:
        try:
            server.run()
        except errors.UsrdrvError as error:
            failure.append(error)
        finally:
            os.close(end)

    thread = threading.Thread(target=serve, name="server")
    thread.start()
    print(name, flush=True)
    select.select([signals.fd, ended], [], [])
    server.stop()
    thread.join()
    os.close(ended)
    if failure:
        raise failure[0]
