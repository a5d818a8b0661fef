# SPDX-License-Identifier: MIT
"""`usrdrv model`: a device in software, behind a vfio-user socket."""

from __future__ import annotations

import argparse
import os
import select
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from usrdrv.base import errors
from usrdrv.base.signals import Interrupted, Signals
from usrdrv.devices import models

if TYPE_CHECKING:
    from usrdrv.devices.vfio_user.server import Server


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    declared = models.arguments()
    parser = commands.add_parser(
        "model",
        help="run a device model",
        description="Serve a device in software on a vfio-user socket, until told to end. "
        f"{' '.join(each.about for each in declared if each.about)} KEYs: usrdrv-model(1).",
    )
    parser.add_argument(
        "kind", choices=models.kinds(), metavar="KIND", help=f"one of {', '.join(models.kinds())}"
    )
    parser.add_argument("--socket", type=Path, required=True, help="path of the socket to make")
    for each in declared:
        each.add(parser)
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any option of the model, as a `model:` device name has it "
        f"({', '.join(each.examples for each in declared if each.examples)})",
    )
    parser.add_argument(
        "--control", type=Path, help="path of the control socket (default: SOCKET.ctl)"
    )
    parser.set_defaults(run=run)


def options(args: argparse.Namespace) -> dict[str, list[str]]:
    """Return the model's options as a `model:` device name has them."""
    found: dict[str, list[str]] = {}
    for declared in models.arguments():
        found |= declared.options(args)
    for pair in args.option:
        key, equals, value = pair.partition("=")
        if not equals:
            raise errors.UsageError(f"--option {pair}: expected KEY=VALUE")
        found.setdefault(key, []).append(value)
    return found


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
