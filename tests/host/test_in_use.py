# SPDX-License-Identifier: MIT
"""A disk in use is not detached by Ctrl-C, whoever uses it; told to end all the same, what was written is kept.

Each use is one that the kernel knows of and that the mount tables of running processes do not show, or not
under the disk's own name.
"""

import ctypes
import fcntl
import os
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from tests.host.running import Running, World, sh, until_free
from tests.needs import NEEDS_FUSE
from tests.waiting import until

pytestmark = NEEDS_FUSE

DATA = os.urandom(1 << 20)
NAME = "just-written"
BLKPG = 0x1269


@pytest.fixture(autouse=True)
def as_from_a_terminal() -> Iterator[None]:
    """Signals that these tests were started with as ignored (nohup) would stay ignored."""
    numbers = (signal.SIGHUP, signal.SIGTERM)
    before = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


class Use(Protocol):
    """Uses a device; yields what must be said of the user.

    That is nothing where it cannot be seen: of a mount somebody's namespace may have a copy for a moment.
    """

    def __call__(self, device: str, folder: Path) -> AbstractContextManager[str]: ...


@contextmanager
def mounted(device: str, folder: Path) -> Iterator[str]:
    """A file system that everybody sees."""
    sh("mount", device, folder)
    try:
        (folder / NAME).write_bytes(DATA)
        yield str(folder)
    finally:
        sh("umount", folder)


@contextmanager
def unmounted_lazily(device: str, folder: Path) -> Iterator[str]:
    """A file system that is in no mount table any more, with an open file on it."""
    sh("mount", device, folder)
    with (folder / NAME).open("wb", buffering=0) as file:
        file.write(DATA)
        sh("umount", "-l", folder)
        yield ""


@contextmanager
def mounted_where_nobody_is(device: str, folder: Path) -> Iterator[str]:
    """A mount namespace without a process, kept by a bind mount."""
    sh("mount", "-t", "tmpfs", "none", folder)
    try:
        sh("mount", "--make-private", folder)
        (folder / "disk").mkdir()
        (folder / "namespace").touch()
        space = f"--mount={folder}/namespace"
        (folder / "data").write_bytes(DATA)
        script = f"mount {device} {folder}/disk && cp {folder}/data {folder}/disk/{NAME}"
        sh("unshare", space, "sh", "-c", script)
        try:
            yield ""
        finally:
            sh("umount", folder / "namespace")
    finally:
        sh("umount", folder)


@contextmanager
def mounted_through_loop_devices(device: str, folder: Path) -> Iterator[str]:
    """Two on top of each other. Neither claims what is below it."""
    with ExitStack() as stack:
        below = sh("losetup", "-f", "--show", device).strip()
        stack.callback(sh, "losetup", "-d", below)
        above = sh("losetup", "-f", "--show", below).strip()
        stack.callback(sh, "losetup", "-d", above)
        stack.enter_context(mounted(above, folder))
        yield below


FILE_SYSTEMS = [mounted, unmounted_lazily, mounted_where_nobody_is, mounted_through_loop_devices]


@contextmanager
def opened_exclusively(device: str, folder: Path) -> Iterator[str]:
    """As virtual machines and databases do."""
    fd = os.open(device, os.O_RDONLY | os.O_EXCL)
    try:
        yield ""
    finally:
        os.close(fd)


class Partition(ctypes.Structure):
    """struct blkpg_partition, linux/blkpg.h."""

    _fields_ = (
        ("start", ctypes.c_longlong),
        ("length", ctypes.c_longlong),
        ("number", ctypes.c_int),
        ("names", ctypes.c_char * 128),
    )


class Change(ctypes.Structure):
    """struct blkpg_ioctl_arg."""

    _fields_ = (
        ("operation", ctypes.c_int),
        ("flags", ctypes.c_int),
        ("length", ctypes.c_int),
        ("data", ctypes.POINTER(Partition)),
    )


@contextmanager
def a_partition_opened_exclusively(device: str, folder: Path) -> Iterator[str]:
    """Of which /dev has no node."""
    node = folder / "partition"
    sh("mount", "-t", "tmpfs", "-o", "dev", "none", folder)
    try:
        with Path(device).open("rb", buffering=0) as disk:
            partition = ctypes.pointer(Partition(4096, 1 << 20, 1))
            fcntl.ioctl(disk, BLKPG, Change(1, 0, ctypes.sizeof(Partition), partition))
        name = Path(device).name
        numbers = Path(f"/sys/block/{name}/{name}p1/dev").read_text().split(":")
        os.mknod(node, stat.S_IFBLK | 0o600, os.makedev(*map(int, numbers)))
        with opened_exclusively(str(node), folder) as seen:
            yield seen
    finally:
        sh("umount", folder)


@pytest.fixture
def folder(world: World) -> Path:
    folder = world.folder / "mnt"
    folder.mkdir()
    return folder


def attach(world: World) -> Running:
    image = world.folder / "disk.img"
    if not image.exists():
        world.image()
        sh("mkfs.ext4", "-q", image)
    return world.start("block", f"model:cmd680?strict=1&image={image}", "--export", "fuse")


def refuses_to_detach(running: Running, who: str) -> None:
    running.process.send_signal(signal.SIGINT)
    until(lambda: "still serving" in running.stderr, "an answer to Ctrl-C")
    assert f"{running.line} is in use (" in running.stderr and who in running.stderr
    assert running.process.poll() is None


def ends(running: Running) -> None:
    until_free(running.line)
    assert running.end() == 0, running.stderr


@pytest.mark.parametrize(
    "use", [*FILE_SYSTEMS[1:], opened_exclusively, a_partition_opened_exclusively]
)
def test_ctrl_c_does_not_detach_what_is_in_use(world: World, folder: Path, use: Use) -> None:
    running = attach(world)
    with use(running.line, folder) as who:
        refuses_to_detach(running, who)
    ends(running)


@pytest.mark.parametrize(
    ("use", "number"),
    [
        *((use, signal.SIGTERM) for use in FILE_SYSTEMS),
        (mounted, signal.SIGHUP),
        *(pytest.param(use, signal.SIGHUP, marks=pytest.mark.rare) for use in FILE_SYSTEMS[1:]),
    ],
)
def test_what_was_written_is_kept_when_told_to_end_all_the_same(
    world: World, folder: Path, use: Use, number: int
) -> None:
    """And of the file system is left what a crash leaves, which mounting it again puts right."""
    running = attach(world)
    with use(running.line, folder) as who:
        assert running.end(number) == 1
    assert "detached while in use (" in running.stderr and who in running.stderr
    running = attach(world)
    sh("mount", running.line, folder)
    try:
        assert (folder / NAME).read_bytes() == DATA
    finally:
        sh("umount", folder)
    ends(running)


def test_a_driver_that_does_not_answer_is_left_on_a_second_signal(
    world: World, folder: Path
) -> None:
    running = attach(world)
    with mounted(running.line, folder):
        os.kill(running.child("nbdkit"), signal.SIGSTOP)
        running.process.send_signal(signal.SIGTERM)
        until(lambda: "writing its cached data" in running.stderr, "an answer to the first signal")
        time.sleep(3)  # within one second it would be the same signal; nothing is to happen
        assert running.end(signal.SIGTERM) == 1
    assert "a signal ended the writing: data lost; it is still in use" in running.stderr


def mask(running: Running, which: str) -> set[int]:
    """The signals in a mask of /proc/PID/status."""
    status = Path(f"/proc/{running.pid}/status").read_text()
    (bits,) = (line.split()[1] for line in status.splitlines() if line.startswith(f"{which}:"))
    return {number for number in range(1, 32) if int(bits, 16) >> (number - 1) & 1}


def test_started_with_nohup_a_closed_terminal_does_not_end_it(world: World, folder: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        running = attach(world)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.SIGHUP in mask(running, "SigIgn")
    assert mask(running, "SigCgt") >= {signal.SIGINT, signal.SIGTERM}
    with mounted(running.line, folder):
        running.process.send_signal(signal.SIGHUP)
        refuses_to_detach(running, str(folder))
        assert "detached" not in running.stderr
    ends(running)


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
def test_a_write_error_is_told_once(world: World, told: bool) -> None:
    """To its writer; only of one that nobody was told of the end says that data are lost."""
    model = world.model("--image", str(world.image()))
    control = str(world.control)
    running = world.start("block", model.line, "--export", "fuse")
    with Path(running.line).open("r+b", buffering=0) as disk:
        fault = world.run("fault", control, "add", "bad-sector", "lba=64", "sectors=8", "on=write")
        assert fault.returncode == 0, fault.stderr
        os.pwrite(disk.fileno(), bytes(4096), 32768)
        if told:
            with pytest.raises(OSError):
                os.fsync(disk.fileno())
            assert world.run("fault", control, "clear").returncode == 0
            os.pwrite(disk.fileno(), bytes(4096), 32768)
            os.fsync(disk.fileno())
    assert running.end() == (0 if told else 1), running.stderr
    assert ("data lost" in running.stderr) is not told
