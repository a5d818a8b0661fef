# SPDX-License-Identifier: MIT
"""Commands run as a user runs them, and a check that nothing of them is left behind."""

import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest

from tests.waiting import PATIENCE, at_best, until

COMMAND = (sys.executable, "-m", "usrdrv")


def children(parent: int) -> set[int]:
    """Processes that `parent` has started and that run, whichever of its threads did so."""
    found: set[int] = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            # The name, in parentheses, may hold anything: field 4 (proc_pid_stat(5)) is counted from its end.
            state, started_by = status.read_text().rpartition(")")[2].split()[:2]
            if int(started_by) == parent and state != "Z":
                found.add(int(status.parent.name))
    return found


def child_of(parent: int, name: str) -> int:
    """Process id of the child that has this program name."""
    for pid in children(parent):
        with suppress(OSError):  # it has ended
            if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                return pid
    raise AssertionError(f"no child {name}")


def sh(*argv: str | Path) -> str:
    """Run a tool that must succeed; return what it says."""
    done = subprocess.run(
        [str(word) for word in argv],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


def is_free(device: str) -> bool:
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
    except OSError:
        return False
    return True


def until_free(*devices: str) -> None:
    """Nobody uses them any more: a namespace that goes, or one that somebody made meanwhile, needs a moment."""
    until(lambda: all(map(is_free, devices)), f"{', '.join(devices)} free")


class Running:
    """A command that keeps running: `line` is what it printed when it was ready."""

    def __init__(self, argv: Sequence[str], env: dict[str, str]) -> None:
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as this
        self.process = subprocess.Popen(
            argv, env=env, stdout=subprocess.PIPE, stderr=self._stderr, text=True
        )
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            ready = selector.select(PATIENCE)
        self.line = self.process.stdout.readline().strip() if ready else ""
        if not self.line:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{' '.join(argv)}: not ready: {self.stderr}")

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stderr(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read()

    def child(self, name: str) -> int:
        """Process id of our child with this program name."""
        return child_of(self.pid, name)

    def end(self, number: int = signal.SIGINT, timeout: float = PATIENCE) -> int:
        """Send a signal, wait, return the exit code."""
        self.process.send_signal(number)
        return self.wait(timeout)

    def wait(self, timeout: float = PATIENCE) -> int:
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {timeout} s: {self.stderr}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *rest: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class World:
    """A run directory of its own with everything that a test starts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rundir = folder / "run"
        self.env = {**os.environ, "USRDRV_RUN_DIR": str(self.rundir), "COLUMNS": "160"}
        self.running: list[Running] = []

    def run(
        self,
        *args: str,
        timeout: float = PATIENCE,
        env: dict[str, str] | None = None,
        user: int | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [*COMMAND, *args],
            env={**self.env, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            user=user,
            check=False,
        )

    def start(self, *args: str) -> Running:
        """Start a command that serves; it is ready."""
        running = Running([*COMMAND, *args], self.env)
        self.running.append(running)
        return running

    def model(self, *options: str) -> Running:
        """Start a controller on the socket m.sock, which refuses what a card would."""
        socket = str(self.folder / "m.sock")
        return self.start("model", "cmd680", "--option", "strict=1", "--socket", socket, *options)

    @property
    def control(self) -> Path:
        """The control socket of that model."""
        return self.folder / "m.sock.ctl"

    def forget_model(self) -> None:
        """Remove the sockets that a killed one leaves: the next one would take them over."""
        for name in ("m.sock", "m.sock.ctl"):
            (self.folder / name).unlink()

    def image(self, name: str = "disk.img", size: int = 64 << 20) -> Path:
        path = self.folder / name
        with path.open("wb") as file:
            file.truncate(size)
        return path

    def processes(self) -> list[str]:
        """Processes of ours that are still there, by their environment."""
        mark = f"USRDRV_RUN_DIR={self.rundir}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(f"{entry.name} {(entry / 'comm').read_text().strip()}")
            except OSError:
                continue
        return found

    def loop_devices(self) -> list[str]:
        """Those over a file of ours. A number tells nothing: the next one who asks for a device gets it."""
        found = []
        for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
            try:
                if str(self.rundir) in entry.read_text():
                    found.append(entry.parts[3])
            except OSError:
                continue
        return found

    def mounts(self) -> list[str]:
        table = Path("/proc/self/mountinfo").read_text().splitlines()
        return [line for line in table if str(self.folder) in line]

    def sockets(self) -> list[str]:
        return [str(path) for path in self.folder.rglob("*") if path.is_socket()]

    def left_over(self) -> dict[str, list[str]]:
        found = {
            "processes": self.processes(),
            "loop devices": self.loop_devices(),
            "mounts": self.mounts(),
            "sockets": self.sockets(),
        }
        return {what: items for what, items in found.items() if items}

    def assert_clean(self, timeout: float = PATIENCE) -> None:
        """Nothing is left behind; some of it needs a moment to go."""
        at_best(self.left_over, lambda left: not left, "nothing is left", timeout)

    def close(self) -> None:
        for running in reversed(self.running):
            running.__exit__()


@pytest.fixture
def world() -> Iterator[World]:
    """Start things, then see that they all went."""
    folder = Path(tempfile.mkdtemp(prefix="usrdrv-test-"))  # tmp_path is too long for sockets
    here = World(folder)
    try:
        yield here
        here.close()
        here.assert_clean()
    finally:
        here.close()
        shutil.rmtree(folder, ignore_errors=True)
