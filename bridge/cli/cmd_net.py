# SPDX-License-Identifier: MIT
"""`usrdrv net`: a NIC as a network interface, for as long as this runs."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from usrdrv import functions
from usrdrv.base import errors
from usrdrv.base.options import made
from usrdrv.base.signals import Interrupted, Signals
from usrdrv.base.sockets import sweep
from usrdrv.bridge import stats
from usrdrv.bridge.cli.arguments import add_options, given
from usrdrv.bridge.net import netns
from usrdrv.bridge.net.exports import EXPORTS
from usrdrv.bridge.net.link import check_name
from usrdrv.bridge.net.netns import check_namespace
from usrdrv.bridge.net.supervisor import Interface, Settings
from usrdrv.bridge.say import say
from usrdrv.chips import NETWORK
from usrdrv.claim import run_directory
from usrdrv.drivers import supported
from usrdrv.net.options import Options

DESCRIPTION = """\
Drive a NIC from a process and make it a network interface, until told to end. The interface, its
addresses and its routes stay when the driver dies and is started again. `usrdrv net stats IFNAME`
prints the driver's counters."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "net",
        help="make a NIC a network interface",
        description=DESCRIPTION,
        usage="usrdrv net DEVICE [--export HOW] [--ifname NAME] [--mtu BYTES] [--netns NAME] "
        "[--multicast MAC]... [--no-offload] [--no-zero-copy] [--restart-time SECONDS] [--force] [--json]\n"
        "       usrdrv net stats IFNAME [--netns NAME] [--json]",
    )
    parser.add_argument(
        "device",
        metavar="DEVICE",
        help="vfio-user:SOCKET, model:dp83820?cable=NAME, or a PCI address such as 0000:03:00.0",
    )
    parser.add_argument(
        "interface",
        metavar="IFNAME",
        nargs="?",
        help="interface whose counters to print (with stats)",
    )
    parser.add_argument(
        "--export",
        choices=("auto", *EXPORTS.names),
        default="auto",
        help="the kernel module usrloop, or a TAP; auto (the default) takes the first that is there",
    )
    parser.add_argument(
        "--ifname",
        default="usr%d",
        help="name of the interface; %%d: a free number (default %(default)s)",
    )
    parser.add_argument("--netns", help="network namespace that gets the interface")
    parser.add_argument(
        "--multicast",
        action="append",
        metavar="MAC",
        help="receive only these groups, with the chip's filter (default: all)",
    )
    add_options(parser, EXPORTS.options())
    parser.add_argument(
        "--force",
        action="store_true",
        help="take a NIC from the kernel's driver although its interface is up or in another "
        "network namespace",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run, patient=True)


def run(args: argparse.Namespace) -> int:
    """Serve until told to end, or print counters. Return the exit code."""
    if args.device == "stats":
        return _stats(args)
    if args.interface is not None:
        raise errors.UsageError(f"unexpected argument {args.interface!r}")
    supported.check(args.device, NETWORK)
    check_name(args.ifname)
    if args.netns is not None:
        check_namespace(args.netns)
    groups = None if args.multicast is None else tuple(_group(text) for text in args.multicast)
    asked = given(args, EXPORTS.options())
    export = EXPORTS.choose(args.export, asked)
    export.check()
    settings = Settings(args.device, export, made(Options, asked), groups)
    sweep(run_directory())
    try:
        with (
            Signals() as signals,
            functions.kept(args.device, args.force),
            Interface(settings, args.ifname, args.netns) as interface,
            stats.answer("net", interface.who, interface.stats),
        ):
            signals.poll_only()
            if args.export == "auto":
                say(f"export {export.name}: {export.why}")
            _announce(args, export.name, interface)
            interface.serve(signals)
    except Interrupted:
        raise errors.DeviceError("interrupted before the interface was usable") from None
    return 0


def _group(text: str) -> bytes:
    try:
        address = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        address = b""
    if len(address) != 6 or not address[0] & 1:
        raise errors.UsageError(f"--multicast {text}: not a group address like 01:00:5e:00:00:fb")
    return address


def _announce(args: argparse.Namespace, export: str, interface: Interface) -> None:
    line = interface.name
    if args.json:
        line = json.dumps(
            {
                "ifname": interface.name,
                "export": export,
                "mac": interface.mac.hex(":"),
                "netns": args.netns,
                "mtu": args.mtu,
                "pid": os.getpid(),
                "driver_pid": interface.driver.child.pid,
            }
        )
    print(line, flush=True)


def _find(ifname: str, namespace: str | None) -> Path:
    """Return the socket of who keeps an interface, by the name that it has now, or else had first."""
    first = None
    for path, who in stats.served("net"):
        if (who["ifname"], who["netns"]) == (ifname, netns.number(namespace)):
            return path
        if (who["first"], who["home"]) == (ifname, namespace):
            first = path
    if first is None:
        where = f" in {namespace}" if namespace else ""
        raise errors.NoSuchDeviceError(f"no interface {ifname}{where} is served here")
    return first


def _stats(args: argparse.Namespace) -> int:
    if args.interface is None:
        raise errors.UsageError("stats of which interface? usrdrv net stats IFNAME")
    stats.show(_find(args.interface, args.netns), as_json=args.json)
    return 0
