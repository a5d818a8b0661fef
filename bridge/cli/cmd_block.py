# SPDX-License-Identifier: MIT
"""`usrdrv block`: drives as block devices, for as long as this runs."""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from usrdrv import functions
from usrdrv.base import errors
from usrdrv.base.counters import Counters
from usrdrv.base.process import Child
from usrdrv.base.signals import Interrupted, Signals
from usrdrv.base.sockets import sweep
from usrdrv.bridge import stats
from usrdrv.bridge.block import detach, exports, watchdog
from usrdrv.bridge.block.exports import Attachment, Server
from usrdrv.bridge.block.nbd_server import Endpoint, NbdServer
from usrdrv.bridge.block.restart import Restarter
from usrdrv.bridge.block.together import Together
from usrdrv.bridge.block.watchdog import Watchdog
from usrdrv.bridge.cli.arguments import add_device, bounded
from usrdrv.bridge.say import say
from usrdrv.bridge.worker.memory import spare
from usrdrv.chips import DISKS
from usrdrv.claim import run_directory
from usrdrv.drivers import supported

if TYPE_CHECKING:
    from usrdrv.bridge.block.export_usrloop import LoopServer

REQUEST_TIME: Final = 90
"""Seconds. Together with the restart less than the kernel's limit for hung tasks (120 s), and more than the
driver's own recovery takes: three tries of a FLUSH CACHE that hangs, 15, 15 and 30 s, and resets between them."""

LEAVING: Final = 5.0
"""Seconds that a driver has to end when the kernel has taken its disk away."""

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
        help="0 to 3 (default 0); give it again for each further drive of the controller, or say all",
    )
    parser.add_argument(
        "--export",
        choices=("auto", "usrloop", "nbd", "fuse", "socket"),
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
    export, reason = exports.choose(wanted, socket=args.socket is not None)
    if export == "usrloop" and args.socket is not None:
        raise errors.UsageError("--socket does not go with --export usrloop: it has no NBD server")
    if export != "usrloop" and args.poll_us:
        raise errors.UsageError(f"--poll-us does not go with --export {export}")
    exports.check(export)
    overdue = watchdog.overdue(args.request_time)
    spare()
    if wanted == "auto":
        say(f"export {export}: {reason}")
    try:
        with (
            Signals() as signals,
            Counters() as counters,
            functions.kept(args.device),
            exports.start(
                export,
                args.device,
                drives,
                endpoint,
                read_only=args.read_only,
                threads=args.threads,
                poll_us=args.poll_us,
                zero_copy=args.zero_copy,
                overdue=overdue,
                counters=counters.fd,
            ) as server,
        ):
            attached = _attach(export, server, args.restart_time, overdue)
            attachment = attached[0] if len(attached) == 1 else Together(args.device, attached)
            signals.poll_only()
            try:
                if endpoint.port is not None:
                    say(NO_SECRET.format(endpoint.uri()))
                for drive, one in zip(server.drives, attached, strict=True):
                    _announce(args, export, server, drive, one)
                restarter = Restarter(server, attachment, signals, args.restart_time)
                hangs = Watchdog(exports.statistics(attachment), args.request_time)
                disks = [one.where for one in attached]

                def counted() -> dict[str, Any]:
                    return {
                        "device": args.device,
                        "export": export,
                        "disks": " ".join(disks),
                        "driver_pid": server.child.pid,
                        "restarts": restarter.count,
                        **stats.of_disks(counters),
                    }

                with stats.answer(
                    "disks", lambda: {"device": args.device, "disks": disks}, counted
                ):
                    return _serve(server, attachment, signals, restarter, hangs)
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
        return bounded(0, 3)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, nor all") from None


def _drives(wanted: Sequence[int | None] | None) -> list[int] | None:
    """The drives that were asked for, each once; None: all."""
    if wanted is not None and None in wanted:
        return None
    return list(dict.fromkeys(number for number in wanted or (0,) if number is not None))


def _attach(
    export: str, server: NbdServer | LoopServer, patience: int, overdue: float
) -> list[Attachment]:
    """Attach all drives of a server, or none."""
    with ExitStack() as stack:
        attached: list[Attachment] = []
        for drive in server.drives:
            attached.append(
                exports.attach(export, server, drive, patience=patience, overdue=overdue)
            )
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


def _serve(
    server: Server,
    attachment: Attachment,
    signals: Signals,
    restarter: Restarter,
    hangs: Watchdog,
) -> int:
    """Sleep until a signal or the death of a part; decide whether to go on or to detach."""
    warned = False
    while True:
        restarter.prepare()
        children = [server.child, *attachment.children]
        if server.standby is not None:
            children.append(server.standby)
        try:
            dead = _wait(signals, children, attachment, hangs)
        except errors.DeviceError as error:
            raise errors.DeviceError(
                f"{server.device}: {error}{_still_used(attachment)}"
            ) from error
        if server.child in dead:
            server_lost = not _bring_back(restarter, attachment, hangs)
            if not server_lost:
                continue
        elif server.standby in dead:
            continue
        elif dead:
            raise errors.NoSuchDeviceError(_death(server, attachment, dead[0], restarter))
        else:
            server_lost = False
        told = signals.take()
        users = detach.claim(attachment)
        if server_lost and users:
            # A driver is needed either way: to go on, or to write what the kernel caches.
            server.child.kill()
            server.child.wait(LEAVING)
            server_lost = not _bring_back(restarter, attachment, hangs)
        if users and not (set(told) - {signal.SIGINT} or warned or server_lost):
            say(
                f"{attachment.where} is in use ({users}): still serving; "
                "unmount it first, or press Ctrl-C again to detach all the same"
            )
            detach.release(attachment)
            warned = True
            continue
        if users and not server_lost:
            say(
                f"{attachment.where} is in use ({users}): writing its cached data, then detaching it; "
                "send the same signal again to skip the writing"
            )
        if not server_lost:
            detach.sync(attachment, signals, told, users)
        if users:
            raise errors.DeviceBusyError(
                f"{attachment.where}: detached while in use ({users}); unmount it now"
            )
        if server_lost:
            raise errors.DeviceError(f"{attachment.where}: detached while its driver was down")
        return 0


def _wait(
    signals: Signals, children: Sequence[Child], attachment: Attachment, hangs: Watchdog
) -> list[Child]:
    """Sleep until a signal or a death. Return who died. The first child is the driver, the one to watch."""
    poll = select.poll()
    for fd in (signals.fd, *(child.pidfd for child in children)):
        poll.register(fd, select.POLLIN)
    if attachment.news is not None:
        poll.register(attachment.news, select.POLLIN)
    timeout = None if hangs.period is None else hangs.period * 1000
    while True:
        ready = {fd for fd, _ in poll.poll(timeout)}
        if not ready:
            hangs.look(time.monotonic(), children[0])
            continue
        dead = [child for child in children if child.pidfd in ready and child.wait(1)]
        if attachment.news in ready and attachment.lost_server() and children[0] not in dead:
            _see_end(children[0])
            dead.insert(0, children[0])
        if dead or signals.fd in ready:
            return dead


def _see_end(driver: Child) -> None:
    """The kernel has taken the disk from a driver, or seen it die before we do.

    One that does not even die, as it may wait for the disk itself, is none all the same: it can serve no more.
    """
    if driver.wait(LEAVING):
        return
    say(
        f"the kernel has taken the disk from the driver, which does not end: {driver.name} is killed"
    )
    driver.kill()
    driver.wait(LEAVING)


def _bring_back(restarter: Restarter, attachment: Attachment, hangs: Watchdog) -> bool:
    """Have another driver serve. False: a signal came before there was one."""
    try:
        restarter.bring_back()
    except InterruptedError:
        return False
    except errors.UsrdrvError as error:
        raise errors.NoSuchDeviceError(f"{error}{_still_used(attachment)}") from error
    hangs.start_again(time.monotonic() + exports.REPLAY_TIME)
    return True


def _death(server: Server, attachment: Attachment, child: Child, restarter: Restarter) -> str:
    if server.child.wait(0.5):
        child = server.child  # nbdfuse ends with its server
    said = f"{server.device}: {child.name} {child.status()}"
    try:
        restarter.still_there(server.child, time.monotonic())
    except errors.NoSuchDeviceError as error:
        said = str(error)
    return said + _still_used(attachment)


def _still_used(attachment: Attachment) -> str:
    users = detach.users(attachment)
    return f"; {attachment.where} is still in use ({users}): unmount it" if users else ""
