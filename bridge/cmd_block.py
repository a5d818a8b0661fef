# SPDX-License-Identifier: MIT
"""`usrdrv block`: a drive as a block device, for as long as this runs."""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
from pathlib import Path

from usrdrv import errors, names
from usrdrv.bridge import exports
from usrdrv.bridge.arguments import add_device, bounded
from usrdrv.bridge.exports import Attachment
from usrdrv.bridge.process import Child
from usrdrv.bridge.signals import Interrupted, Signals
from usrdrv.bridge.supervisor import Endpoint, NbdServer
from usrdrv.claim import run_directory


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("block", help="make a drive a block device", description=__doc__)
    add_device(parser)
    parser.add_argument("--drive", type=bounded(0, 3), default=0, help="0 to 3 (default 0)")
    parser.add_argument(
        "--export",
        choices=("auto", "nbd", "fuse", "socket"),
        help="the kernel's NBD client, nbdfuse and a loop device, or just an NBD server; "
        "auto (the default) takes the best of the first two",
    )
    parser.add_argument("--socket", type=Path, help="path of the NBD server's Unix socket")
    parser.add_argument(
        "--port", type=bounded(1, 65535), help="serve NBD on this TCP port (export socket)"
    )
    parser.add_argument(
        "--bind", default="127.0.0.1", help="address to listen on with --port (default %(default)s)"
    )
    parser.add_argument("--read-only", action="store_true")
    parser.add_argument(
        "--threads", type=bounded(1, 1024), default=16, help="requests served at once (default 16)"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON when usable")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until told to end. Return the exit code."""
    names.parse(args.device)
    endpoint = _endpoint(args)
    wanted = args.export or ("auto" if args.port is None else "socket")
    export, reason = exports.choose(wanted)
    exports.check(export)
    if wanted == "auto":
        _say(f"export {export}: {reason}")
    try:
        with (
            Signals() as signals,
            NbdServer(
                args.device,
                args.drive,
                endpoint,
                read_only=args.read_only,
                # A loop device turns "write zeroes" into "punch a hole", which nbdfuse makes a
                # trim, after which an ATA drive need not read as zeroes.
                trim=export != "fuse",
                threads=args.threads,
            ) as server,
        ):
            attachment = exports.attach(export, server)
            signals.poll_only()
            try:
                _announce(args, export, server, attachment)
                return _serve(server, attachment, signals)
            finally:
                attachment.close()
    except Interrupted:
        raise errors.DeviceError("interrupted before the device was usable") from None


def _endpoint(args: argparse.Namespace) -> Endpoint:
    if args.port is None:
        socket = args.socket or run_directory() / f"block-{os.getpid()}.sock"
        return Endpoint(path=socket.absolute())
    if args.socket is not None:
        raise errors.UsageError("--socket and --port exclude each other")
    if args.export not in (None, "socket"):
        raise errors.UsageError(f"--port does not go with --export {args.export}")
    return Endpoint(host=args.bind, port=args.port)


def _say(message: str) -> None:
    print(f"usrdrv: {message}", file=sys.stderr, flush=True)


def _announce(
    args: argparse.Namespace, export: str, server: NbdServer, attachment: Attachment
) -> None:
    line = attachment.where
    if args.json:
        line = json.dumps(
            {
                "device": attachment.where,
                "export": export,
                "uri": server.endpoint.uri,
                "size": server.export.size,
                "read_only": server.export.read_only,
                "driver_pid": server.child.pid,
            }
        )
    print(line, flush=True)


def _serve(server: NbdServer, attachment: Attachment, signals: Signals) -> int:
    """Sleep until a signal or the death of a part; decide whether to detach."""
    children: dict[int, Child] = {c.pidfd: c for c in (server.child, *attachment.children)}
    poll = select.poll()
    for fd in (signals.fd, *children):
        poll.register(fd, select.POLLIN)
    warned = False
    while True:
        ready = [fd for fd, _ in poll.poll()]
        dead = [children[fd] for fd in ready if fd in children]
        if dead:
            raise errors.NoSuchDeviceError(_death(server, attachment, dead[0]))
        force = any(number != signal.SIGINT for number in signals.take())
        users = ", ".join(attachment.users())
        if users and not (force or warned):
            _say(
                f"{attachment.where} is in use ({users}): still serving; "
                "unmount it first, or press Ctrl-C again to detach all the same"
            )
            warned = True
            continue
        if users:
            raise errors.DeviceBusyError(
                f"{attachment.where}: detached while in use ({users}); unmount it now"
            )
        try:
            attachment.sync()
        except OSError as error:
            raise errors.DeviceError(f"{attachment.where}: {error.strerror}: data lost") from error
        return 0


def _death(server: NbdServer, attachment: Attachment, child: Child) -> str:
    if child is not server.child and server.child.wait(0.5):
        child = server.child  # nbdfuse ends with its server
    said = f"{server.device}: {child.name} {child.status()}"
    if child is server.child and child.status().endswith("status 0"):
        said = f"{server.device}: the driver ended, its device is gone"
    users = ", ".join(attachment.users())
    return f"{said}; {attachment.where} is still in use ({users}): unmount it" if users else said
