# SPDX-License-Identifier: MIT
"""`usrdrv lab`: a guest with a real kernel, for drivers and device models."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from usrdrv import names
from usrdrv.base import errors
from usrdrv.base.signals import Interrupted, Signals
from usrdrv.bridge.cli.arguments import bounded
from usrdrv.bridge.say import say

if TYPE_CHECKING:
    from usrdrv.lab.cache import Report
    from usrdrv.lab.guest import Guest, Job

KERNELS = ("stock", "base", "debug")
MODULE_KERNELS = ("stock-6.1", "stock", "newest", "base", "debug")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "lab",
        help="run things in a guest",
        description="Run drivers and device models in a guest with a real kernel.",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True, parser_class=type(parser))
    build = actions.add_parser("build", help="build what guests need, unless it is there")
    build.add_argument("--kernel", choices=KERNELS, default="stock")
    build.add_argument("--kmod", action="store_true", help="the module usrloop for it, too")
    build.set_defaults(run=run_build)

    kmod = actions.add_parser("kmod", help="build usrloop.ko for kernels that are not running")
    kmod.add_argument(
        "--kernel",
        action="append",
        choices=MODULE_KERNELS,
        help="can be repeated; default: Debian's (12, 13 and the newest for 13) and base",
    )
    kmod.add_argument(
        "--check",
        action="store_true",
        help="instead, show what all warnings, sparse and checkpatch find",
    )
    kmod.add_argument("--selftest", action="store_true", help="with tests that run as it is loaded")
    kmod.set_defaults(run=run_kmod)

    shell = actions.add_parser("shell", help="a shell in a guest, on this terminal")
    _add_machine(shell)
    shell.set_defaults(run=run_shell)

    run = actions.add_parser("run", help="run a command in a guest")
    _add_machine(run)
    run.add_argument(
        "--timeout",
        type=bounded(1, 86400),
        default=3600,
        metavar="SECONDS",
        help="kill COMMAND after so long (default %(default)s)",
    )
    run.add_argument(
        "--kernel-log", type=Path, metavar="FILE", help="write the guest's kernel log to FILE"
    )
    run.add_argument("--json", action="store_true", help="print how it ended as one JSON object")
    run.add_argument("command", nargs="+", metavar="COMMAND", help="what to run, after --")
    run.set_defaults(run=run_command)


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="'KIND ARGUMENTS'",
        help="plug a device model in, as `usrdrv model` takes it: 'cmd680 --ram 64M'. "
        "The first one is 0000:00:10.0, the next 0000:00:11.0",
    )
    parser.add_argument(
        "--device",
        action="append",
        default=[],
        metavar="DEVICE",
        help="plug in a device that is served already, vfio-user:SOCKET, behind the models; or one of QEMU's own, "
        "as its -device takes it: nvme,drive=d0,serial=1",
    )
    parser.add_argument(
        "--drive",
        action="append",
        default=[],
        metavar="OPTIONS",
        help="a drive for a device of QEMU's, as its -drive takes it: id=d0,file=disk.img,format=raw",
    )
    parser.add_argument(
        "--kernel",
        choices=KERNELS,
        default="stock",
        help="Debian's own, or one of ours: small, or with the kernel's checkers (default stock)",
    )
    parser.add_argument("--kmod", action="store_true", help="with the module usrloop, for modprobe")
    parser.add_argument("--iommu", action="store_true", help="add an IOMMU, which VFIO needs")
    parser.add_argument(
        "--memory", type=bounded(256, 1 << 20), default=1024, help="MiB (default %(default)s)"
    )
    parser.add_argument(
        "--cpus", type=bounded(1, 64), default=1, help="processors (default %(default)s)"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="a folder of the host that is /host in the guest, to read and write",
    )


@contextmanager
def _progress() -> Iterator[Report]:
    """Show a bar on standard error, from the first report on."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:50.50}"), BarColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    with ExitStack() as stack:

        def report(what: str, done: float) -> None:
            if not bar.tasks:
                stack.enter_context(bar)
                bar.add_task(what, total=1.0)
            bar.update(bar.tasks[0].id, description=what, completed=done)

        yield report


def _build(kernel: str, kmod: bool) -> list[Path]:
    from usrdrv.lab import accelerator, kernels, root

    with _progress() as report:
        base = root.build(report)
        image, _ = kernels.find(kernel, base, report)
        module = _module(kernel, report) if kmod else []
        accelerator.best()
    return [base, image, *module]


def _module(kernel: str, report: Report) -> list[Path]:
    from usrdrv.lab import kmod

    module = kmod.build(kernel, report=report)
    kmod.folder(kernel, module)
    return [module]


def run_build(args: argparse.Namespace) -> int:
    """Build; print where it is."""
    with _interruptible():
        for path in _build(args.kernel, args.kmod):
            print(path)
    return 0


def run_kmod(args: argparse.Namespace) -> int:
    """Build the module and print where it is; or check it, and fail if something was found."""
    from usrdrv.lab import kmod

    names = args.kernel or [name for name in MODULE_KERNELS if name != "debug"]
    with _interruptible(), _progress() as report:
        built = [(name, kmod.build(name, selftest=args.selftest, report=report)) for name in names]
        if not args.check:
            found = []
        else:
            report("checkpatch", 0.99)
            found = kmod.check_style()
            for name in names:
                report(f"all warnings, kernel {name}", 0.99)
                found += [f"{name}: {line}" for line in kmod.check(name)]
    for line in found if args.check else [f"{name} {path}" for name, path in built]:
        print(line)
    return int(bool(found))


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        with Signals():
            yield
    except Interrupted:
        raise errors.LabError("interrupted") from None


@contextmanager
def _guest(args: argparse.Namespace, *, terminal: bool) -> Iterator[Guest]:
    """Build what is missing, start the models, then the guest."""
    from usrdrv.lab.guest import Guest
    from usrdrv.lab.models import Model

    # A name of ours has a colon in front.
    named = [text for text in args.device if ":" in text.partition(",")[0]]
    sockets = [_socket(text) for text in named]
    own = [text for text in args.device if text not in named]
    extra = [word for drive in args.drive for word in ("-drive", f"if=none,{drive}")]
    extra += [word for device in own for word in ("-device", device)]
    models = [_words(text) for text in args.model]
    if args.folder is not None and not args.folder.is_dir():
        raise errors.UsageError(f"{args.folder}: no such folder")
    with _interruptible(), ExitStack() as stack:
        _build(args.kernel, args.kmod)
        plugged = [stack.enter_context(Model(*words)).socket for words in models]
        yield stack.enter_context(
            Guest(
                plugged + sockets,
                kernel=args.kernel,
                kmod=args.kmod,
                iommu=args.iommu,
                memory=args.memory,
                cpus=args.cpus,
                folder=args.folder,
                extra=extra,
                terminal=terminal,
            )
        )


def _words(text: str) -> list[str]:
    from usrdrv.devices import models

    try:
        words = shlex.split(text)
    except ValueError as error:
        raise errors.UsageError(f"--model {text!r}: {error}") from error
    if not words:
        raise errors.UsageError("--model: the model's kind is missing")
    if words[0] not in models.kinds():
        raise errors.UsageError(
            f"--model {text}: no model of {words[0]!r}: there are {', '.join(models.kinds())}"
        )
    return words


def _socket(text: str) -> Path:
    name = names.parse(text)
    if not isinstance(name, names.VfioUserName):
        raise errors.UsageError(
            f"--device {text}: only vfio-user:SOCKET and QEMU's own devices can be plugged in"
        )
    if not name.path.is_socket():
        raise errors.NoSuchDeviceError(f"{text}: no such socket")
    return name.path


def run_shell(args: argparse.Namespace) -> int:
    """Give the guest the terminal until its shell ends."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise errors.UsageError("lab shell needs a terminal; lab run does not")
    with _guest(args, terminal=True):
        return 0


def run_command(args: argparse.Namespace) -> int:
    """Run one command. Return its exit code, or 1 if the guest's kernel gave a warning."""
    from usrdrv.lab.console import alarms

    with _guest(args, terminal=False) as guest:
        # One word is the shell's to take apart.
        command = args.command[0] if len(args.command) == 1 else args.command
        job = guest.start(command)
        result = job.wait(args.timeout, follow=None if args.json else _Follow(job))
        log = guest.kernel_log()
    if args.kernel_log is not None:
        args.kernel_log.write_text(log)
    warnings = alarms(log)
    if args.json:
        outcome = {"code": result.code, "out": result.out, "err": result.err}
        print(json.dumps({**outcome, "warnings": warnings, "kernel_log": log}))
    for line in warnings:
        say(f"the guest's kernel: {line}")
    return result.code or int(bool(warnings))


class _Follow:
    """Print what a job prints, as it does."""

    def __init__(self, job: Job) -> None:
        self._streams = [(job.folder / "out", sys.stdout), (job.folder / "err", sys.stderr)]
        self._read = [0, 0]

    def __call__(self) -> None:
        for index, (path, stream) in enumerate(self._streams):
            if not path.exists():
                continue
            with path.open("rb") as file:
                file.seek(self._read[index])
                data = file.read()
            self._read[index] += len(data)
            stream.buffer.write(data)
            stream.flush()
