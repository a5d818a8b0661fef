# SPDX-License-Identifier: MIT
"""What the checks of usrloop's calls share: they run in a guest (usrloop_calls.py)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import subprocess
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scenario import PATIENCE
from scenario import wait as wait

from usrdrv.base import errors
from usrdrv.loop import ANY, Control, Disk, Server, ffi, lib, new

MODULE = "/share/usrloop.ko"
CHECKS: dict[str, Callable[[], None]] = {}

SIZE = 1 << 20
SMALL = Disk(SIZE, max_io=16 << 10, depth=8)
USER = 1000
USERS = Disk(SIZE, max_io=16 << 10, depth=8, policy="queue", timeout_ms=60_000)
"""What somebody without privileges may have."""


def check(function: Callable[[], None]) -> Callable[[], None]:
    CHECKS[function.__name__] = function
    return function


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout.strip()


def refused(code: int, function: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    """A call fails with this errno."""
    try:
        result = function(*arguments, **named)
    except OSError as error:
        got = error.errno
    else:
        raise AssertionError(f"no error but {result!r}")
    assert got == code, f"{errno.errorcode.get(got or 0)} instead of {errno.errorcode[code]}"


def raw(control: Control, request: int, argument: Any) -> int:
    """A call without the explanations of usrdrv.loop."""
    return fcntl.ioctl(control.fd, request, ffi.buffer(argument) if argument is not None else 0)


def enter(control: Control, argument: int) -> int:
    return fcntl.ioctl(control.fd, lib.USRLOOP_IOC_ENTER, argument)


def info(device: Any, **changes: Any) -> Any:
    """What Control.create() hands over, with changes; `blk.size` is written blk_size."""
    i = new("info", type=device.kind, id=device.id)
    for name in ("features", "flags", "queues", "depth", "timeout_ms", "poll_us", "owner"):
        setattr(i, name, getattr(device, name))
    device.fill(i)
    for name, value in changes.items():
        part, _, rest = name.partition("_")
        if part in ("blk", "net"):
            setattr(getattr(i, part), rest, value)
        else:
            setattr(i, name, value)
    return i


def create_refused(code: int, device: Any, **changes: Any) -> None:
    with Control() as control:
        refused(code, raw, control, lib.USRLOOP_IOC_CREATE, info(device, **changes))


def target(request: int, control: Control, kind: int = 0, id: int = ANY, arg: int = 0) -> int:
    return raw(control, request, new("target", type=kind, id=id, arg=arg))


def attach(
    control: Control, id: int = ANY, kind: int = lib.USRLOOP_BLOCK, claim_fd: int = -1
) -> Any:
    a = new("attach", type=kind, id=id, version=lib.USRLOOP_VERSION, claim_fd=claim_fd)
    raw(control, lib.USRLOOP_IOC_ATTACH, a)
    return a


class Ram(threading.Thread):
    """Serves one queue from memory of its own, and notes what it was asked for."""

    def __init__(
        self,
        server: Server,
        data: bytearray | None = None,
        result: Callable[[Any], int] | None = None,
        queue: int = 0,
    ) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.queue = queue
        self.data = bytearray(SIZE) if data is None else data
        self.ops: list[tuple[int, int, int, int]] = []
        self.result = result
        self.end = 0
        self.bits = 0
        self.start()

    def run(self) -> None:
        q = self.server.queue[self.queue]
        while True:
            got = self.server.enter(self.queue)
            if got == -errno.EINTR:
                continue
            if got < 0 or got & lib.USRLOOP_READY_STOP:
                self.end = got
                return
            self.bits |= got
            while (sqe := lib.loop_next(q)) != ffi.NULL:
                self.ops.append((sqe.op, sqe.sector, sqe.len, sqe.flags))
                at = sqe.sector * 512
                if sqe.op == lib.USRLOOP_OP_READ:
                    self.server.data(sqe.tag, sqe.len, self.queue)[:] = bytes(
                        self.data[at : at + sqe.len]
                    )
                elif sqe.op == lib.USRLOOP_OP_WRITE:
                    self.data[at : at + sqe.len] = self.server.data(sqe.tag, sqe.len, self.queue)[:]
                lib.loop_complete(q, sqe.tag, sqe.seq, self.result(sqe) if self.result else 0)

    def has(self, op: int) -> list[tuple[int, int, int, int]]:
        return [entry for entry in self.ops if entry[0] == op]


@contextlib.contextmanager
def served(device: Disk = SMALL, **options: Any) -> Iterator[tuple[Control, Ram, str]]:
    """A started disk with a server, in one file."""
    with Control() as control:
        number = control.create(device).id
        ram = Ram(Server(control, control.attach()), bytearray(device.size), **options)
        control.start()
        yield control, ram, f"/dev/usrblk{number}"
        with contextlib.suppress(errors.UsrdrvError):
            control.delete(force=True)
        ram.join(PATIENCE)
        assert not ram.is_alive()
        ram.server.close()


def child(function: Callable[[], None], uid: int = 0, namespaces: int = 0) -> None:
    """Run something in a process of its own, as another user, in namespaces of that one's."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            if uid:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            if namespaces:
                os.unshare(namespaces)  # type: ignore[attr-defined]
            function()
        except BaseException:
            os.write(writer, traceback.format_exc().encode()[-3000:])
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(pid, 0)
    assert not said, said


def polled(control: Control, milliseconds: int = 0) -> int:
    p = select.poll()
    p.register(control.fd, select.POLLIN)
    return dict(p.poll(milliseconds)).get(control.fd, 0)


def sysfs(device: str, name: str) -> str:
    return (Path("/sys/class/block") / Path(device).name / name).read_text().strip()


def reader(device: str, *before: str) -> subprocess.Popen[str]:
    """Somebody who reads its first 4 KiB, from no cache; before: words before that command."""
    command = [*before, "dd", f"if={device}", "of=/dev/null", "bs=4k", "count=1", "iflag=direct"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def in_flight(device: str) -> int:
    """Requests of a disk that are under way (Documentation/block/stat.rst)."""
    return int(sysfs(device, "stat").split()[8])


def no_device() -> None:
    assert not list(Path("/dev").glob("usrblk*")), "a disk is left"
