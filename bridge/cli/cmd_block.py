# SPDX-License-Identifier: MIT
"""`usrdrv block`: drives as block devices, for as long as this runs."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from usrdrv import functions
from usrdrv.base import errors
from usrdrv.base.counters import Counters
from usrdrv.base.signals import Interrupted, Signals
from usrdrv.base.sockets import sweep
from usrdrv.bridge import stats
from usrdrv.bridge.block import exports, watchdog
from usrdrv.bridge.block.contract import Attachment, Export, Server, Settings, statistics
from usrdrv.bridge.block.nbd_server import Endpoint
from usrdrv.bridge.block.restart import Restarter
from usrdrv.bridge.block.supervisor import serve
from usrdrv.bridge.block.together import Together
from usrdrv.bridge.block.watchdog import Watchdog
from usrdrv.bridge.cli.arguments import add_device, bounded, drive_number
from usrdrv.bridge.say import say
from usrdrv.bridge.worker.memory import spare
from usrdrv.chips import DISKS
from usrdrv.claim import run_directory
from usrdrv.drivers import supported

REQUEST_TIME: Final = 90
"""Seconds. Together with the restart less than the kernel's limit for hung tasks (120 s), and more than the
driver's own recovery takes: three tries of a FLUSH CACHE that hangs, 15, 15 and 30 s, and resets between them."""

OF_SOME: Final = ("poll_us", "socket")
"""Options that not every export has."""

NO_SECRET: Final = (
    "warning: {} has no authentication and no encryption: whoever can connect to it, "
    "every local user included, can use the drive"
)


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
        choices=("auto", *exports.NAMES),
        help="the module usrloop; the kernel's NBD client; nbdfuse and a loop device; or an NBD server "
        "alone. auto (the default): the first of these that this kernel has",
    )
    parser.add_argument("--socket", type=Path, help="path of the NBD server's Unix socket")
    parser.add_argument(
        "--port", type=bounded(1, 65535), help="serve NBD on this TCP port (export socket)"
    )
    parser.add_argument(
        "--bind",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="IPv4 or IPv6 address or host name to listen on with --port (default %(default)s)",
    )
    parser.add_argument("--read-only", action="store_true", help="refuse writes")
    parser.add_argument(
        "--no-zero-copy",
        action="store_false",
        dest="zero_copy",
        help="copy data, even where the device could reach the kernel's own pages (export usrloop)",
    )
    parser.add_argument(
        "--threads",
        type=bounded(1, 1024),
        default=16,
        help="requests served at once (default %(default)s)",
    )
    parser.add_argument(
        "--poll-us",
        type=bounded(0, 1000),
        default=0,
        metavar="MICROSECONDS",
        help="busy-poll for up to so long before sleeping: lower latency, more processor time "
        "(default %(default)s; export usrloop)",
    )
    parser.add_argument(
        "--restart-time",
        type=bounded(0, 3600),
        default=60,
        metavar="SECONDS",
        help="when the driver dies, let requests wait for up to so long until it is restarted "
        "(default %(default)s; 0: I/O errors at once; exports usrloop and nbd)",
    )
    parser.add_argument(
        "--request-time",
        type=bounded(0, 3600),
        default=REQUEST_TIME,
        metavar="SECONDS",
        help="kill and restart a driver that completes no request for so long while it has some "
        "(default %(default)s; 0: never)",
    )
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
    endpoint = _endpoint(args)
    drives = _drives(args.drive)
    wanted = args.export or ("auto" if args.port is None else "socket")
    export = exports.choose(wanted, option=None if args.socket is None else "socket")
    for option in OF_SOME:
        if getattr(args, option) and option not in export.options:
            name = option.replace("_", "-")
            raise errors.UsageError(f"--{name} does not go with --export {export.name}")
    export.check()
    spare()
    if wanted == "auto":
        say(f"export {export.name}: {export.why}")
    try:
        with (
            Signals() as signals,
            Counters() as counters,
            functions.kept(args.device),
            export.start(
                args.device, drives, settings := _settings(args, endpoint, counters)
            ) as server,
        ):
            attached = _attach(export, server, settings)
            attachment = attached[0] if len(attached) == 1 else Together(args.device, attached)
            signals.poll_only()
            try:
                restarter = Restarter(server, attachment, signals, args.restart_time)
                hangs = Watchdog(statistics(attachment), args.request_time)
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
                        **stats.of_disks(counters),
                    }

                with stats.answer("disks", who, counted):
                    if endpoint.port is not None:
                        say(NO_SECRET.format(endpoint.uri()))
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


def _settings(args: argparse.Namespace, endpoint: Endpoint, counters: Counters) -> Settings:
    """How the drives are served."""
    return Settings(
        endpoint,
        read_only=args.read_only,
        threads=args.threads,
        zero_copy=args.zero_copy,
        poll_us=args.poll_us,
        restart_time=args.restart_time,
        overdue=watchdog.overdue(args.request_time),
        counters=counters.fd,
    )


def _attach(export: Export[Any], server: Server, settings: Settings) -> list[Attachment]:
    """Attach all drives of a server, or none."""
    with ExitStack() as stack:
        attached: list[Attachment] = []
        for drive in server.drives:
            attached.append(export.attach(server, drive, settings))
            stack.callback(attached[-1].close)
        stack.pop_all()
        return attached


def _endpoint(args: argparse.Namespace) -> Endpoint:
    if args.port is None:
        if args.socket is not None:
            return Endpoint(path=args.socket.absolute())
        sweep(run_directory())
        return Endpoint(path=(run_directory() / f"block-{os.getpid()}.sock").absolute())
    if args.socket is not None:
        raise errors.UsageError("--socket and --port exclude each other")
    if args.export not in (None, "socket"):
        raise errors.UsageError(f"--port does not go with --export {args.export}")
    return Endpoint(host=args.bind.removeprefix("[").removesuffix("]"), port=args.port)


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
