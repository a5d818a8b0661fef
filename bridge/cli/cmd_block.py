# SPDX-License-Identifier: MIT
"""`usrdrv block`: drives as block devices, for as long as this runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from usrdrv import functions
from usrdrv.base import errors
from usrdrv.base.counters import Counters
from usrdrv.base.options import made
from usrdrv.base.signals import Interrupted, Signals
from usrdrv.base.sockets import sweep
from usrdrv.block.front import COUNTERS
from usrdrv.block.options import Options
from usrdrv.bridge import stats
from usrdrv.bridge.block.contract import Attachment, Export, Server, statistics
from usrdrv.bridge.block.exports import EXPORTS
from usrdrv.bridge.block.restart import Restarter
from usrdrv.bridge.block.supervisor import serve
from usrdrv.bridge.block.together import Together
from usrdrv.bridge.block.watchdog import Watchdog
from usrdrv.bridge.cli.arguments import add_device, add_options, drive_number, given
from usrdrv.bridge.say import say
from usrdrv.bridge.worker.memory import spare
from usrdrv.chips import DISKS
from usrdrv.claim import run_directory
from usrdrv.drivers import supported


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "block",
        help="make drives block devices",
        description="Make drives block devices of the kernel until interrupted. "
        "`usrdrv block stats DISK` prints the driver's counters.",
    )
    add_device(parser)
    parser.add_argument(
        "served",
        metavar="DISK",
        nargs="?",
        help="device or block device whose counters to print (with stats)",
    )
    parser.add_argument(
        "--drive",
        type=_drive,
        action="append",
        metavar="N",
        help="its number (default 0); give it again for each further drive of the controller, or say all",
    )
    parser.add_argument(
        "--export",
        choices=("auto", *EXPORTS.names),
        help="the module usrloop; the kernel's NBD client; nbdfuse and a loop device; or an NBD server "
        "alone. auto (the default): the first of these that this kernel has",
    )
    add_options(parser, EXPORTS.options())
    parser.add_argument(
        "--json", action="store_true", help="print JSON: a line for each drive when usable"
    )
    parser.set_defaults(run=run, patient=True)


def run(args: argparse.Namespace) -> int:
    """Serve until told to end, or print counters. Return the exit code."""
    if args.device == "stats":
        return _stats(args)
    if args.served is not None:
        raise errors.UsageError(f"unexpected argument {args.served!r}")
    supported.check(args.device, DISKS)
    drives = _drives(args.drive)
    asked = given(args, EXPORTS.options())
    export = EXPORTS.choose(args.export, asked)
    export.check()
    sweep(run_directory())
    spare()
    if args.export in (None, "auto") and export.why:
        say(f"export {export.name}: {export.why}")
    try:
        with (
            Signals() as signals,
            Counters() as counters,
            functions.kept(args.device),
            export.start(
                args.device, drives, options := made(Options, asked, counters=counters.fd)
            ) as server,
        ):
            attached = _attach(export, server, options)
            attachment = attached[0] if len(attached) == 1 else Together(args.device, attached)
            signals.poll_only()
            try:
                restarter = Restarter(server, attachment, signals, options.restart_time)
                hangs = Watchdog(statistics(attachment), options.request_time)
                disks = [one.where for one in attached]

                def who() -> dict[str, Any]:
                    return {"device": args.device, "disks": disks}

                def counted() -> dict[str, Any]:
                    return {
                        "device": args.device,
                        "export": export.name,
                        "disks": " ".join(disks),
                        "driver_pid": server.child.pid,
                        "restarts": restarter.count,
                        **counters.sums(COUNTERS),
                    }

                with stats.answer("disks", who, counted):
                    for drive, one in zip(server.drives, attached, strict=True):
                        _announce(args, export.name, server, drive, one)
                    return serve(server, attachment, signals, restarter, hangs)
            finally:
                attachment.close()
    except Interrupted:
        raise errors.DeviceError("interrupted before the device was usable") from None


def _stats(args: argparse.Namespace) -> int:
    if args.served is None:
        raise errors.UsageError("stats of which disk? usrdrv block stats DISK")
    stats.show(stats.find_disk(args.served), as_json=args.json)
    return 0


def _drive(text: str) -> int | None:
    """An argument's type: a number, or None for all."""
    if text == "all":
        return None
    try:
        return drive_number(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, nor all") from None


def _drives(wanted: Sequence[int | None] | None) -> list[int] | None:
    """The drives that were asked for, each once; None: all."""
    if wanted is not None and None in wanted:
        return None
    return list(dict.fromkeys(number for number in wanted or (0,) if number is not None))


def _attach(export: Export[Any], server: Server, options: Options) -> list[Attachment]:
    """Attach all drives of a server, or none."""
    with ExitStack() as stack:
        attached: list[Attachment] = []
        for drive in server.drives:
            attached.append(export.attach(server, drive, options))
            stack.callback(attached[-1].close)
        stack.pop_all()
        return attached


def _announce(
    args: argparse.Namespace, export: str, server: Server, drive: int, attachment: Attachment
) -> None:
    line = attachment.where
    if args.json:
        line = json.dumps(
            {
                "device": attachment.where,
                "drive": drive,
                "export": export,
                "uri": server.uri(drive),
                "size": server.drives[drive].size,
                "read_only": server.drives[drive].read_only,
                "driver_pid": server.child.pid,
            }
        )
    print(line, flush=True)
