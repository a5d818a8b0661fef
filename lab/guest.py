# SPDX-License-Identifier: MIT
"""A running guest: commands in, output and exit codes out, its kernel's log beside."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Final, Self

import usrdrv
from usrdrv.base import errors
from usrdrv.base.closing import Closing
from usrdrv.base.process import Child
from usrdrv.lab import accelerator, kernels, qemu, root
from usrdrv.lab.console import PANIC, Console
from usrdrv.lab.qemu import Machine

BOOT_TIMEOUT: Final = 120.0
POLL: Final = 0.5
POWER_OFF: Final = 10.0


@dataclass(frozen=True)
class Result:
    """How a command in the guest ended."""

    command: str
    code: int
    out: str
    err: str

    def check(self) -> Self:
        """Raise LabError for an exit code that is not 0."""
        if self.code:
            said = (self.err or self.out).strip()
            raise errors.LabError(f"{self.command}: ended with status {self.code}: {said}")
        return self


class Job:
    """A command that runs in the guest."""

    def __init__(self, guest: Guest, number: int, command: str) -> None:
        self._guest = guest
        self.command = command
        self.folder = guest.share / "jobs" / str(number)
        self.done = threading.Event()

    @property
    def out(self) -> str:
        """What it has printed so far."""
        return self._text("out")

    @property
    def err(self) -> str:
        return self._text("err")

    def _text(self, name: str) -> str:
        with suppress(FileNotFoundError):
            return (self.folder / name).read_text(errors="replace")
        return ""

    def wait(self, timeout: float = 60, follow: Callable[[], None] | None = None) -> Result:
        """Wait for its end, calling `follow` now and then and at last.

        LabError, with the console's last lines: too late, or the guest died.
        """
        deadline = time.monotonic() + timeout
        while not self.done.wait(POLL):
            if follow is not None:
                follow()
            self._guest.check_alive(self.command)
            if time.monotonic() > deadline:
                raise errors.LabError(
                    f"{self.command}: not done after {timeout:.0f} s; it said:\n"
                    f"{self.out[-2000:]}{self.err[-2000:]}\nconsole:\n{self._guest.console.tail()}"
                )
        if follow is not None:
            follow()
        return Result(self.command, int(self._text("code")), self.out, self.err)

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to its process group."""
        self._guest.run(f"env kill -{int(number)} -- -{self._text('pid').strip()}").check()


def _terminal() -> list[str]:
    """What the shell's side must know of our terminal: the kernel hands unknown NAME=VALUE to its init."""
    size = os.get_terminal_size(sys.stdin.fileno())
    kind = os.environ.get("TERM", "linux")
    return ["usrdrv_shell", f"TERM={kind}", f"ROWS={size.lines}", f"COLS={size.columns}"]


class Guest(Closing):
    """A machine of the lab, from the start of its kernel to close(), which its log outlives. A context manager.

    kernel: `stock` (Debian's), `base` or `debug` (our own), or a folder that kernel.build() returned.
    kmod: `modprobe usrloop` works in it; not with a folder.
    folder: what /host is in the guest.
    counting: its time is counted in instructions (see Machine).
    Not thread-safe, but for wait() of several jobs.
    """

    def __init__(
        self,
        devices: Sequence[Path] = (),
        *,
        kernel: str | Path = "stock",
        kmod: bool = False,
        iommu: bool = False,
        memory: int = 1024,
        cpus: int = 1,
        append: str = "",
        folder: Path | None = None,
        extra: Sequence[str] = (),
        posted: bool = True,
        counting: bool = False,
        terminal: bool = False,
        accel: str | None = None,
        timeout: float = BOOT_TIMEOUT,
    ) -> None:
        machine = Machine(devices, memory, cpus, iommu, append, extra, posted, counting)
        self._jobs: dict[int, Job] = {}
        self._number = 0
        self._stack = ExitStack()
        self._qemu: Child | None = None
        self._closed = False
        self._ready = threading.Event()
        try:
            own = Path(tempfile.mkdtemp(prefix="usrdrv-lab-"))
            self._stack.callback(shutil.rmtree, own, ignore_errors=True)
            self.share = own / "share"
            """Here; /share in the guest."""
            (self.share / "jobs").mkdir(parents=True)
            self._fill_share()
            self.console = Console(own / "console")
            self._stack.callback(self.console.keep)
            command, env = self._prepare(machine, kernel, kmod, own, folder, terminal, accel)
            if terminal:
                self._interact(command, env)
            else:
                self._boot(command, env, own / "agent", timeout)
        except BaseException:
            self.close()
            raise

    def _fill_share(self) -> None:
        """Put there what the guest starts with, and what says which version of us it has."""
        init = (resources.files("usrdrv.lab") / "guest/init").read_text()
        (self.share / "init").write_text(init)
        distribution = metadata.distribution("usrdrv")
        folder = self.share / "site" / f"usrdrv-{distribution.version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(distribution.read_text("METADATA") or "")

    def _prepare(
        self,
        machine: Machine,
        kernel: str | Path,
        kmod: bool,
        own: Path,
        folder: Path | None,
        terminal: bool,
        accel: str | None,
    ) -> tuple[list[str], dict[str, str]]:
        base = root.build()
        image, modules = kernels.find(kernel, base)
        package = Path(usrdrv.__path__[0])
        root.compile_python(base, package)
        shares = {"src": (package.parent, False), "share": (self.share, True)}
        if folder is not None:
            shares["host"] = (folder.resolve(), True)
        if modules is not None:
            shares["modules"] = (modules, False)
        if kmod:
            assert isinstance(kernel, str)
            # Not for guests without it: it needs compilers.
            from usrdrv.lab import kmod as loopback

            shares["kmod"] = (loopback.folder(kernel, loopback.build(kernel)), False)
        parameters = [
            *(["usrdrv_folder"] if folder is not None else []),
            *(["usrdrv_modules"] if modules is not None else []),
            *(["usrdrv_kmod"] if kmod else []),
            *(_terminal() if terminal else []),
        ]
        sockets = {name: own / name for name in ("root", "agent", "console")}
        env = qemu.environment(base)
        filesystem = Child(
            "virtiofsd",
            [
                *root.program(base, "usr/libexec/virtiofsd"),
                *("--shared-dir", str(base), "--socket-path", str(sockets["root"])),
                *("--sandbox", "none", "--readonly", "--cache", "always", "--log-level", "error"),
            ],
            env=env,
        )
        self._stack.callback(filesystem.stop, 1)
        deadline = time.monotonic() + BOOT_TIMEOUT
        while not sockets["root"].exists():
            if filesystem.wait(0.01) or time.monotonic() > deadline:
                said = "; ".join(filesystem.lines) or filesystem.status()
                raise errors.LabError(f"virtiofsd: {said}")
        command = qemu.command(
            machine,
            base,
            image,
            accelerator=accel or accelerator.best(),
            sockets=sockets,
            shares=shares,
            parameters=parameters,
            terminal=terminal,
        )
        return command, env

    def _interact(self, command: Sequence[str], env: dict[str, str]) -> None:
        """Give the guest the terminal until its shell ends."""
        done = subprocess.run(command, env=env, check=False)
        if done.returncode:
            raise errors.LabError(f"QEMU ended with status {done.returncode}")

    def _boot(
        self, command: Sequence[str], env: dict[str, str], agent: Path, timeout: float
    ) -> None:
        self._qemu = Child("qemu", command, env=env)
        self._stack.callback(self._qemu.stop, 5)
        deadline = time.monotonic() + timeout
        self._agent = socket.socket(socket.AF_UNIX)
        self._stack.callback(self._agent.close)
        while True:
            try:
                self._agent.connect(str(agent))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                self.check_alive("start", 0.02)
        self._agent.settimeout(POLL)
        threading.Thread(target=self._listen, daemon=True).start()
        while not self._ready.wait(POLL):
            self.check_alive("boot")
            if time.monotonic() > deadline:
                raise errors.LabError(
                    f"the guest is not up after {timeout:.0f} s; console:\n{self.console.tail()}"
                )

    def _listen(self) -> None:
        """Take what the agent says: it is ready, or job N is done."""
        data = b""
        while True:
            try:
                got = self._agent.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                return
            if not got:
                return
            *lines, data = (data + got).split(b"\n")
            for line in lines:
                word = line.strip().decode(errors="replace")
                if word == "ready":
                    self._ready.set()
                elif word.isdigit() and int(word) in self._jobs:
                    self._jobs.pop(int(word)).done.set()

    @property
    def jobs(self) -> list[Job]:
        """Those that have not ended."""
        return list(self._jobs.values())

    @property
    def pid(self) -> int:
        """Of QEMU."""
        assert self._qemu is not None
        return self._qemu.pid

    def check_alive(self, during: str, wait: float = 0) -> None:
        """LabError with the console's last lines if the guest has died or its kernel panicked."""
        assert self._qemu is not None
        if self._qemu.wait(wait) or PANIC.search(self.console.text()):
            said = "\n".join(self._qemu.lines)
            raise errors.LabError(
                f"{during}: the guest died (QEMU {self._qemu.status()}): {said}\n"
                f"console:\n{self.console.tail(80)}"
            )

    def start(self, command: str | Sequence[str]) -> Job:
        """Start a command as root in /root: a line for the shell, or words; those alone get the job's signals."""
        text = command if isinstance(command, str) else f"exec {shlex.join(command)}"
        self.check_alive(text)
        self._number += 1
        job = Job(self, self._number, text)
        job.folder.mkdir()
        (job.folder / "command").write_text(text + "\n")
        self._jobs[self._number] = job
        self._agent.sendall(f"{self._number}\n".encode())
        return job

    def run(self, command: str | Sequence[str], timeout: float = 60, check: bool = False) -> Result:
        """Run a command to its end; with `check`, LabError unless it succeeds."""
        result = self.start(command).wait(timeout)
        return result.check() if check else result

    def kernel_log(self, since: int = 0) -> str:
        """Return what the kernel said after byte `since` of its console."""
        return self.console.text(since)

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Power off. Idempotent."""
        self._closed = True
        if self._qemu is not None and self._ready.is_set():
            with suppress(errors.LabError, OSError):  # it is dead
                self.start("sync; echo o >/proc/sysrq-trigger")
                self._qemu.wait(POWER_OFF)
        self._qemu = None
        self._stack.close()
