# SPDX-License-Identifier: MIT
"""Each call of usrloop and each error that its header documents. Runs in a guest; test_usrloop_calls.py has the results.

    python3 usrloop_calls.py RESULTS.json [NAME ...]
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import mmap
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from usrdrv import errors
from usrdrv.loop import ANY, STATES, Control, Disk, Interface, Server, ffi, lib

MODULE = "/share/usrloop.ko"
CHECKS: dict[str, Callable[[], None]] = {}

SIZE = 1 << 20
SMALL = Disk(SIZE, max_io=16 << 10, depth=8)
USER = 1000


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
    i = ffi.new("struct usrloop_info *")
    i.version, i.type, i.id = lib.USRLOOP_VERSION, device.kind, device.id
    for name in ("features", "flags", "queues", "depth", "poll_us", "owner"):
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
    return raw(control, request, ffi.new("struct usrloop_target *", {"type": kind, "id": id, "arg": arg}))


def attach(control: Control, id: int = ANY, kind: int = lib.USRLOOP_BLOCK) -> Any:
    a = ffi.new("struct usrloop_attach *", {"type": kind, "id": id})
    raw(control, lib.USRLOOP_IOC_ATTACH, a)
    return a


class Ram(threading.Thread):
    """Serves one queue from memory of its own, and notes what it was asked for."""

    def __init__(
        self,
        server: Server,
        data: bytearray | None = None,
        result: Callable[[Any], int] | None = None,
    ) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.data = bytearray(SIZE) if data is None else data
        self.ops: list[tuple[int, int, int, int]] = []
        self.result = result
        self.end = 0
        self.bits = 0
        self.start()

    def run(self) -> None:
        q = self.server.queue[0]
        while True:
            got = self.server.enter()
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
                    self.server.data(sqe.tag, sqe.len)[:] = bytes(self.data[at : at + sqe.len])
                elif sqe.op == lib.USRLOOP_OP_WRITE:
                    self.data[at : at + sqe.len] = self.server.data(sqe.tag, sqe.len)[:]
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
        ram.join(10)
        assert not ram.is_alive()
        ram.server.close()


def child(function: Callable[[], None], uid: int = 0) -> None:
    """Run something in a process of its own, as another user."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            if uid:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            function()
        except BaseException:
            os.write(writer, traceback.format_exc().encode()[-3000:])
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(pid, 0)
    assert not said, said


def wait(condition: Callable[[], Any], what: str = "", seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


def polled(control: Control, milliseconds: int = 0) -> int:
    p = select.poll()
    p.register(control.fd, select.POLLIN)
    return dict(p.poll(milliseconds)).get(control.fd, 0)


def sysfs(device: str, name: str) -> str:
    return (Path("/sys/class/block") / Path(device).name / name).read_text().strip()


def no_device() -> None:
    assert not list(Path("/dev").glob("usrblk*")), "a disk is left"


# --- what is wrong with it is said ---


@check
def version() -> None:
    with Control() as control:
        v = control.version()
        assert v.version == lib.USRLOOP_VERSION
        assert (v.blk_features, v.net_features, v.flags, v.policies) == (0x3F, 7, 3, 15)


@check
def create_of_another_version_or_type() -> None:
    create_refused(errno.EPROTONOSUPPORT, SMALL, version=lib.USRLOOP_VERSION + 1)
    create_refused(errno.EPROTONOSUPPORT, SMALL, version=0)
    create_refused(errno.EINVAL, SMALL, type=0)
    create_refused(errno.EINVAL, SMALL, type=3)


@check
def create_with_what_the_module_does_not_know() -> None:
    create_refused(errno.EOPNOTSUPP, SMALL, features=0x40)
    create_refused(errno.EOPNOTSUPP, Interface(), features=8)
    create_refused(errno.EOPNOTSUPP, SMALL, flags=4)
    create_refused(errno.EOPNOTSUPP, SMALL, policy=4)


@check
def create_with_numbers_out_of_range() -> None:
    for changes in (
        *({"queues": n} for n in (0, 65)),
        *({"depth": n} for n in (0, 3, 2048, 1 << 31)),
        *({"id": 1024}, {"poll_us": 1001}, {"reserved": 1}),
        *({"label": b"x" * 64}, {"label": b"two\nlines"}, {"label": b"\x7f"}),
    ):
        create_refused(errno.EINVAL, SMALL, **changes)


@check
def create_of_a_disk_that_cannot_be() -> None:
    for changes in (
        *({"blk_size": n} for n in (0, 511, 513, 1 << 63)),
        *({"blk_logical_block": n} for n in (0, 256, 768, 8192)),
        *({"blk_physical_block": n} for n in (0, 256, 3 << 10, 128 << 10)),
        *({"blk_max_io": n} for n in (0, 2048, 12 << 10, 8 << 20)),
        *({"blk_discard_granularity": 3 << 10}, {"blk_discard_granularity": 256}, {"blk_max_discard": 100}),
        {"blk_discard_granularity": 64 << 10, "blk_max_discard": 4096},
        {"features": lib.USRLOOP_BLK_FUA},
        {"blk_logical_block": 4096, "blk_physical_block": 4096, "blk_size": 4096 + 512},
    ):
        create_refused(errno.EINVAL, SMALL, **changes)
    create_refused(errno.E2BIG, SMALL, depth=1024, blk_max_io=4 << 20)


@check
def create_of_an_interface_that_cannot_be() -> None:
    for changes in (
        {"features": lib.USRLOOP_NET_TSO},
        {"features": lib.USRLOOP_NET_USO},
        {"net_mtu": 67},
        {"net_mtu": 2000, "net_max_mtu": 1500},
        {"net_max_mtu": 65522},
        {"net_name": b"x" * 16},
        {"net_mac": b"\x01\0\0\0\0\1"},
        {"net_reserved": [0, 1]},
    ):
        create_refused(errno.EINVAL, Interface(), **changes)


@check
def what_create_hands_back_is_not_what_was_put_in() -> None:
    with Control() as control:
        i = info(SMALL, state=5, generation=9, server_pid=7, ifindex=11, refused=13)
        raw(control, lib.USRLOOP_IOC_CREATE, i)
        assert (i.state, i.generation, i.server_pid, i.ifindex, i.refused) == (lib.USRLOOP_NEW, 0, 0, 0, 0)


@check
def a_number_is_taken_once() -> None:
    with Control() as first, Control() as second, Control() as third:
        assert first.create(Disk(SIZE, id=3)).id == 3
        refused(errno.EEXIST, raw, second, lib.USRLOOP_IOC_CREATE, info(Disk(SIZE, id=3)))
        assert second.create(SMALL).id != 3
        refused(errno.EBUSY, raw, second, lib.USRLOOP_IOC_CREATE, info(SMALL))
        assert third.create(Interface(id=3)).id == 3, "interfaces have numbers of their own"
    with Control() as control:
        assert control.create(Disk(SIZE, id=3)).id == 3, "it was given back"


@check
def there_are_no_more_queues_than_cpus() -> None:
    with Control() as control:
        assert control.create(Disk(SIZE, queues=64)).queues == os.cpu_count()
        assert control.attach().queues == os.cpu_count()


@check
def calls_for_no_device() -> None:
    with Control() as control:
        for request in (
            *(lib.USRLOOP_IOC_START, lib.USRLOOP_IOC_STOP, lib.USRLOOP_IOC_DELETE, lib.USRLOOP_IOC_RESIZE),
            *(lib.USRLOOP_IOC_DETACH, lib.USRLOOP_IOC_CARRIER),
        ):
            refused(errno.ENODEV, target, request, control)
            refused(errno.ENODEV, target, request, control, lib.USRLOOP_BLOCK, 1023)
            refused(errno.ENODEV, target, request, control, lib.USRLOOP_BLOCK, 5000)
            refused(errno.ENODEV, target, request, control, 7, 0)
        refused(errno.ENODEV, attach, control)
        refused(errno.ENODEV, attach, control, 1023)
        refused(errno.ENODEV, raw, control, lib.USRLOOP_IOC_QUERY, ffi.new("struct usrloop_info *", {"type": 1}))
        refused(errno.ENOTCONN, enter, control, 0)
        refused(errno.ENOTCONN, raw, control, lib.USRLOOP_IOC_EVENTFD, ffi.new("struct usrloop_eventfd *"))
        refused(errno.ENOTTY, fcntl.ioctl, control.fd, 0x5401, 0)
        refused(errno.ENOTTY, fcntl.ioctl, control.fd, lib.USRLOOP_IOC_VERSION ^ 0x8000_0000, 0)
        refused(errno.ENOTTY, fcntl.ioctl, control.fd, lib.USRLOOP_IOC_START | 0x7F, bytearray(16))
        refused(errno.EFAULT, fcntl.ioctl, control.fd, lib.USRLOOP_IOC_VERSION, 0)
        refused(errno.EFAULT, fcntl.ioctl, control.fd, lib.USRLOOP_IOC_CREATE, 0)
        refused(errno.EFAULT, fcntl.ioctl, control.fd, lib.USRLOOP_IOC_START, 8)
        assert polled(control) & select.POLLERR


# --- servers ---


@check
def start_needs_a_server_and_is_done_once() -> None:
    with Control() as control:
        control.create(SMALL)
        refused(errno.ENOTCONN, target, lib.USRLOOP_IOC_START, control)
        control.attach()
        refused(errno.EINVAL, target, lib.USRLOOP_IOC_START, control, arg=1)
        refused(errno.EINVAL, target, lib.USRLOOP_IOC_STOP, control, arg=2)
        refused(errno.EINVAL, target, lib.USRLOOP_IOC_DELETE, control, arg=2)
        refused(errno.EINVAL, target, lib.USRLOOP_IOC_DETACH, control, arg=1)
        refused(errno.EINVAL, target, lib.USRLOOP_IOC_CARRIER, control, arg=100)
        target(lib.USRLOOP_IOC_STOP, control)
        control.start()
        refused(errno.EALREADY, target, lib.USRLOOP_IOC_START, control)
    no_device()


@check
def a_device_has_one_server_at_a_time() -> None:
    with Control() as control, Control() as second:
        number = control.create(SMALL).id
        assert control.query().server_pid == 0
        assert control.attach().generation == 1
        assert control.query().server_pid == os.getpid()
        refused(errno.EBUSY, attach, second, number)
        refused(errno.EBUSY, attach, control, number)
        target(lib.USRLOOP_IOC_DETACH, second, lib.USRLOOP_BLOCK, number)
        refused(errno.ENOTCONN, target, lib.USRLOOP_IOC_DETACH, control)
        refused(errno.EBUSY, attach, control, number)  # a file serves once
        assert attach(second, number).generation == 2


@check
def taken_away_means_stale() -> None:
    with Control() as control, Control() as server:
        number = control.create(SMALL).id
        a = attach(server, number)
        memory = mmap.mmap(server.fd, a.size)
        assert polled(server) == 0
        control.detach()
        assert polled(server) & select.POLLHUP
        refused(errno.ESTALE, enter, server, 0)
        refused(errno.ESTALE, enter, server, lib.USRLOOP_ENTER_NOWAIT)
        memory[0:4] = b"safe"  # still mapped, and nobody's
        memory.close()


@check
def enter_checks_its_argument() -> None:
    with Control() as control:
        control.create(SMALL)
        control.attach()
        refused(errno.EINVAL, enter, control, control.query().queues)
        refused(errno.EINVAL, enter, control, 0xFFFF)
        refused(errno.EINVAL, enter, control, 0x40000)
        assert enter(control, lib.USRLOOP_ENTER_NOWAIT) == 0
        assert enter(control, lib.USRLOOP_ENTER_NOWAIT | lib.USRLOOP_ENTER_ACK) == 0


@check
def enter_waits_as_long_as_it_was_told() -> None:
    with Control() as control:
        control.create(SMALL)
        server = Server(control, control.attach())
        begun = time.monotonic()
        assert server.enter(timeout_ms=200) == 0
        assert 0.15 < time.monotonic() - begun < 5
        server.close()


@check
def a_queue_is_for_one_thread() -> None:
    with Control() as control:
        control.create(SMALL)
        server = Server(control, control.attach())
        got: list[int] = []
        thread = threading.Thread(target=lambda: got.append(server.enter(timeout_ms=1500)))
        thread.start()
        wait(lambda: busy(control), "it is in ENTER")
        e = ffi.new("struct usrloop_eventfd *", {"fd": -1})
        refused(errno.EBUSY, raw, control, lib.USRLOOP_IOC_EVENTFD, e)
        thread.join()
        assert got == [0]
        server.close()


def busy(control: Control) -> bool:
    try:
        enter(control, lib.USRLOOP_ENTER_NOWAIT)
    except OSError as error:
        return error.errno == errno.EBUSY
    return False


@check
def a_signal_ends_enter() -> None:
    def body() -> None:
        with Control() as control:
            control.create(SMALL)
            server = Server(control, control.attach())
            signal.signal(signal.SIGALRM, lambda *_: None)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            assert server.enter(timeout_ms=10000) == -errno.EINTR
            server.close()

    child(body)


@check
def mmap_of_every_kind() -> None:
    with Control() as control:
        refused(errno.ENOTCONN, mmap.mmap, control.fd, 4096)
        control.create(SMALL)
        refused(errno.ENOTCONN, mmap.mmap, control.fd, 4096)
        a = control.attach()
        assert a.size % 4096 == 0
        refused(errno.EINVAL, mmap.mmap, control.fd, a.size, mmap.MAP_PRIVATE)
        refused(errno.EINVAL, mmap.mmap, control.fd, a.size + 4096)
        refused(errno.EINVAL, mmap.mmap, control.fd, 4096, offset=a.size)
        refused(errno.EINVAL, mmap.mmap, control.fd, 8192, offset=a.size - 4096)
        whole = mmap.mmap(control.fd, a.size)
        last = mmap.mmap(control.fd, 4096, offset=a.size - 4096)
        seen = mmap.mmap(control.fd, a.size, prot=mmap.PROT_READ)
        assert whole[:] == bytes(a.size), "memory of somebody else"
        last[0:3] = b"end"
        assert whole[a.size - 4096 : a.size - 4093] == b"end" and seen[a.size - 4096 : a.size - 4093] == b"end"
        refused(errno.EFAULT, raw, control, lib.USRLOOP_IOC_CREATE, None)
        os.close(os.dup(control.fd))
        for m in (whole, last, seen):
            m.close()


@check
def memory_lives_as_long_as_its_mapping() -> None:
    control = Control()
    control.create(SMALL)
    a = control.attach()
    memory = mmap.mmap(control.fd, a.size)
    control.close()
    memory[0 : a.size] = b"\xff" * a.size
    memory.close()


@check
def poll_of_a_controller() -> None:
    with Control() as control, Control() as server:
        number = control.create(SMALL).id
        control.query()
        assert polled(control) == 0
        attach(server, number)
        assert polled(control, 5000) == select.POLLIN
        assert control.query().server_pid and polled(control) == 0
        target(lib.USRLOOP_IOC_START, server)
        assert polled(control, 5000) == select.POLLIN and STATES[control.query().state] == "live"
        server.close()
        assert polled(control, 5000) == select.POLLIN and STATES[control.query().state] == "quiesced"
        assert polled(control) == 0
        control.resize(2 * SIZE)
        assert polled(control) == select.POLLIN
        control.delete(force=True)
        assert polled(control) & select.POLLHUP
        refused(errno.ENODEV, raw, control, lib.USRLOOP_IOC_QUERY, ffi.new("struct usrloop_info *", {"id": ANY}))
        refused(errno.ENODEV, target, lib.USRLOOP_IOC_DELETE, control)
        refused(errno.ENODEV, target, lib.USRLOOP_IOC_STOP, control)


@check
def poll_of_a_server() -> None:
    with Control() as control, Control() as file:
        number = control.create(SMALL).id
        server = Server(file, attach(file, number))
        control.start()
        assert polled(file) == 0
        reader = subprocess.Popen(["dd", f"if=/dev/usrblk{number}", "of=/dev/null", "bs=4k", "count=1", "iflag=direct"],
                                  stderr=subprocess.DEVNULL)
        assert polled(file, 10000) == select.POLLIN
        q = server.queue[0]
        while reader.poll() is None:
            polled(file, 100)
            while (sqe := lib.loop_next(q)) != ffi.NULL:
                lib.loop_complete(q, sqe.tag, sqe.seq, 0)
            server.enter(flags=lib.USRLOOP_ENTER_NOWAIT)
        assert reader.returncode == 0
        assert polled(file) == 0
        server.close()


def register(control: Control, fd: int, index: int = 0, ack: int = -1, queue: int = 0) -> None:
    e = ffi.new("struct usrloop_eventfd *", {"queue": queue, "index": index, "fd": fd, "ack_fd": ack})
    raw(control, lib.USRLOOP_IOC_EVENTFD, e)


@check
def eventfds_end_the_wait() -> None:
    with Control() as control:
        control.create(SMALL)
        server = Server(control, control.attach())
        one, two, ack = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3))
        register(control, one, 0)
        register(control, two, 3, ack)
        assert server.enter(flags=lib.USRLOOP_ENTER_NOWAIT) == 0
        threading.Timer(0.2, os.eventfd_write, (two, 5)).start()
        assert server.enter(timeout_ms=10000) == lib.USRLOOP_READY_EVENT << 3
        refused(errno.EAGAIN, os.eventfd_read, two)  # its count was taken
        refused(errno.EAGAIN, os.eventfd_read, ack)
        assert server.enter(flags=lib.USRLOOP_ENTER_NOWAIT | lib.USRLOOP_ENTER_ACK) == 0
        assert os.eventfd_read(ack) == 1
        os.eventfd_write(one, 1)
        os.eventfd_write(two, 1)
        assert polled(control) == select.POLLIN
        assert server.enter() == lib.USRLOOP_READY_EVENT * 9
        server.enter(flags=lib.USRLOOP_ENTER_NOWAIT)  # without an acknowledgement
        refused(errno.EAGAIN, os.eventfd_read, ack)
        register(control, -1, 3)
        os.eventfd_write(two, 1)
        assert server.enter(flags=lib.USRLOOP_ENTER_NOWAIT) == 0
        assert os.eventfd_read(two) == 1
        server.close()
        for fd in (one, two, ack):
            os.close(fd)


@check
def eventfds_wake_poll() -> None:
    with Control() as control:
        control.create(SMALL)
        control.query()
        control.attach()
        control.query()
        fd = os.eventfd(0)
        register(control, fd)
        threading.Timer(0.2, os.eventfd_write, (fd, 1)).start()
        begun = time.monotonic()
        assert polled(control, 10000) == select.POLLIN
        assert time.monotonic() - begun < 8
        os.close(fd)


@check
def an_eventfd_that_is_signalled_already_or_closed() -> None:
    with Control() as control:
        control.create(SMALL)
        server = Server(control, control.attach())
        fd = os.eventfd(1)
        register(control, fd, 1)
        os.close(fd)
        assert server.enter() == lib.USRLOOP_READY_EVENT << 1
        register(control, -1, 1)
        server.close()


@check
def what_is_no_eventfd() -> None:
    with Control() as control:
        control.create(SMALL)
        control.attach()
        fd = os.eventfd(0)
        refused(errno.EINVAL, register, control, 0)
        refused(errno.EBADF, register, control, 999)
        refused(errno.EBADF, register, control, fd, 0, 999)
        refused(errno.EINVAL, register, control, fd, 0, control.fd)
        refused(errno.EINVAL, register, control, fd, lib.USRLOOP_EVENTFDS)
        refused(errno.EINVAL, register, control, fd, 0, -1, 64)
        os.close(fd)


# --- who may ---


@check
def another_user_may_look_and_no_more() -> None:
    with Control() as control, Control() as other:
        number = control.create(SMALL).id

        def body() -> None:
            for request in (
                *(lib.USRLOOP_IOC_START, lib.USRLOOP_IOC_STOP, lib.USRLOOP_IOC_DELETE, lib.USRLOOP_IOC_RESIZE),
                *(lib.USRLOOP_IOC_DETACH, lib.USRLOOP_IOC_CARRIER),
            ):
                refused(errno.EPERM, target, request, other, lib.USRLOOP_BLOCK, number)
            refused(errno.EPERM, attach, other, number)
            assert other.query(lib.USRLOOP_BLOCK, number).owner == 0
            refused(errno.EPERM, raw, other, lib.USRLOOP_IOC_CREATE, info(SMALL, flags=lib.USRLOOP_OWNER, owner=0))
            refused(errno.EPERM, raw, other, lib.USRLOOP_IOC_CREATE, info(Interface()))

        child(body, USER)


@check
def an_owner_serves_without_privileges() -> None:
    with Control() as control, Control() as file:
        device = Disk(SIZE, max_io=16 << 10, depth=8, flags=lib.USRLOOP_OWNER, owner=USER)
        number = control.create(device).id
        assert control.query().owner == USER
        reader, writer = os.pipe()

        def body() -> None:
            ram = Ram(Server(file, attach(file, number)))
            ram.data[:4] = b"mine"
            target(lib.USRLOOP_IOC_START, file)
            os.write(writer, b"x")
            ram.join(30)
            assert ram.end > 0 and ram.end & lib.USRLOOP_READY_STOP, ram.end

        def root() -> None:
            os.read(reader, 1)
            with open(f"/dev/usrblk{number}", "rb") as disk:
                got.append(disk.read(4))
            assert sysfs(f"usrblk{number}", "usrloop/owner") == str(USER)
            control.stop(force=True)

        got: list[bytes] = []
        thread = threading.Thread(target=root)
        thread.start()
        child(body, USER)
        thread.join()
        assert got == [b"mine"]


@check
def a_creator_owns_what_he_made() -> None:
    with Control() as file:

        def body() -> None:
            i = info(SMALL)
            raw(file, lib.USRLOOP_IOC_CREATE, i)
            assert i.owner == USER
            attach(file)
            raw(file, lib.USRLOOP_IOC_QUERY, i)
            assert i.server_pid == os.getpid()

        child(body, USER)


@check
def locked_memory_is_limited() -> None:
    with Control() as control, Control() as file, Control() as again:
        device = Disk(SIZE, max_io=1 << 20, depth=4, flags=lib.USRLOOP_OWNER, owner=USER)
        number = control.create(device).id
        def body() -> None:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (64 << 10, 7 << 20))
            refused(errno.ENOMEM, attach, file, number)
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (7 << 20, 7 << 20))
            a = attach(file, number)
            locked = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmLck"))
            assert int(locked.split()[1]) << 10 == a.size, locked
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (a.size, 7 << 20))
            target(lib.USRLOOP_IOC_DETACH, again, lib.USRLOOP_BLOCK, number)
            refused(errno.ENOMEM, attach, again, number)

        child(body, USER)
        file.close()
        target(lib.USRLOOP_IOC_DETACH, again, lib.USRLOOP_BLOCK, number) if control.query().server_pid else None
        attach(again, number)  # for root there is no limit
    no_device()


# --- the disk ---


@check
def data_goes_both_ways() -> None:
    with served() as (_, ram, device):
        data = os.urandom(256 << 10)
        Path("/tmp/data").write_bytes(data)
        run("dd", "if=/tmp/data", f"of={device}", "bs=64k", "oflag=direct", "conv=notrunc", "status=none")
        assert ram.data[: len(data)] == data
        assert max(length for op, _, length, _ in ram.ops if op == lib.USRLOOP_OP_WRITE) == 16 << 10
        run("dd", f"if={device}", "of=/tmp/back", "bs=64k", "count=4", "iflag=direct", "status=none")
        assert Path("/tmp/back").read_bytes() == data


@check
def each_kind_of_request_arrives() -> None:
    f = lib.USRLOOP_BLK_CACHE | lib.USRLOOP_BLK_FUA | lib.USRLOOP_BLK_DISCARD | lib.USRLOOP_BLK_ZEROES
    with served(Disk(SIZE, max_io=16 << 10, depth=8, features=f)) as (_, ram, device):
        fd = os.open(device, os.O_RDWR | os.O_DIRECT)
        block = mmap.mmap(-1, 4096)
        os.pwritev(fd, [block], 8192, os.RWF_DSYNC)
        assert (lib.USRLOOP_OP_WRITE, 16, 4096, lib.USRLOOP_SQE_FUA) in ram.ops
        os.fsync(fd)
        assert ram.has(lib.USRLOOP_OP_FLUSH)
        os.close(fd)
        run("blkdiscard", "-f", "-o", "65536", "-l", "131072", device)
        assert (lib.USRLOOP_OP_DISCARD, 128, 131072, 0) in ram.ops
        run("blkdiscard", "-f", "-z", "-o", "0", "-l", "65536", device)
        zeroes = ram.has(lib.USRLOOP_OP_ZEROES)
        assert [(at, length) for _, at, length, _ in zeroes] == [(0, 65536)]


@check
def without_features_the_kernel_does_without() -> None:
    with served() as (_, ram, device):
        assert sysfs(device, "queue/write_cache") == "write through"
        assert sysfs(device, "queue/discard_max_bytes") == "0"
        run("blkdiscard", "-f", "-z", "-o", "0", "-l", "65536", device)
        fd = os.open(device, os.O_RDWR)
        os.fsync(fd)
        os.close(fd)
        assert {op for op, *_ in ram.ops} <= {lib.USRLOOP_OP_READ, lib.USRLOOP_OP_WRITE}
        refused(errno.EOPNOTSUPP, discard, device)


def discard(device: str) -> None:
    fd = os.open(device, os.O_RDWR)
    try:
        fcntl.ioctl(fd, 0x1277, (0).to_bytes(8, "little") + (4096).to_bytes(8, "little"))
    finally:
        os.close(fd)


@check
def limits_are_those_asked_for() -> None:
    f = lib.USRLOOP_BLK_CACHE | lib.USRLOOP_BLK_FUA | lib.USRLOOP_BLK_DISCARD | lib.USRLOOP_BLK_ROTATIONAL
    disk = Disk(SIZE, 1024, 4096, 64 << 10, f, depth=8, max_discard=512 << 10, discard_granularity=8192)
    with served(disk) as (_, _, device):
        for name, value in {
            "logical_block_size": "1024",
            "physical_block_size": "4096",
            "max_hw_sectors_kb": "64",
            "discard_granularity": "8192",
            "discard_max_hw_bytes": str(512 << 10),
            "write_zeroes_max_bytes": "0",
            "rotational": "1",
            "write_cache": "write back",
            "fua": "1",
        }.items():
            assert sysfs(device, f"queue/{name}") == value, name


@check
def errors_reach_whoever_asked() -> None:
    for code, expected in (
        (-errno.EIO, errno.EIO),
        (-errno.ENOSPC, errno.ENOSPC),
        (-errno.ETIMEDOUT, errno.ETIMEDOUT),
        (-1, errno.EIO),
        (-5000, errno.EIO),
        (4096, errno.EIO),
    ):
        with served(result=lambda sqe, code=code: code if sqe.sector >= 1024 else 0) as (control, ram, device):
            fd = os.open(device, os.O_RDWR | os.O_DIRECT)
            block = mmap.mmap(-1, 4096)
            refused(expected, os.pwritev, fd, [block], 1024 * 512)
            refused(expected, os.preadv, fd, [block], 1024 * 512)
            os.close(fd)
            bad = code > 0 or code < -4095
            assert control.query().refused == (2 if bad else 0)
            wait(lambda: bool(ram.bits & lib.USRLOOP_READY_REFUSED) == bad, "READY_REFUSED")


@check
def completions_that_name_nothing_are_refused() -> None:
    with Control() as control:
        number = control.create(SMALL).id
        server = Server(control, control.attach())
        q = server.queue[0]
        lib.loop_complete(q, 3, 1, 0)  # before there is a disk
        lib.loop_complete(q, 999, 1, 0)
        assert server.enter(flags=lib.USRLOOP_ENTER_NOWAIT) == lib.USRLOOP_READY_REFUSED
        control.start()
        reader = subprocess.Popen(["dd", f"if=/dev/usrblk{number}", "of=/dev/null", "bs=4k", "count=1", "iflag=direct"],
                                  stderr=subprocess.DEVNULL)
        asked = 2
        while reader.poll() is None:
            server.enter(timeout_ms=50)
            while (sqe := lib.loop_next(q)) != ffi.NULL:
                lib.loop_complete(q, sqe.tag, sqe.seq + 1, 0)
                lib.loop_complete(q, sqe.tag ^ 1, sqe.seq, 0)
                lib.loop_complete(q, sqe.tag, sqe.seq, 0)
                lib.loop_complete(q, sqe.tag, sqe.seq, 0)
                asked += 3
        assert reader.returncode == 0 and control.query().refused == asked
        q.cq_tail += 1000  # more than a ring holds
        assert server.enter(flags=lib.USRLOOP_ENTER_NOWAIT) == lib.USRLOOP_READY_REFUSED
        server.close()


@check
def a_disk_is_resized_live() -> None:
    with served() as (control, ram, device):
        assert run("blockdev", "--getsize64", device) == str(SIZE)
        for size in (2 * SIZE, SIZE // 2, 512):
            control.resize(size)
            assert run("blockdev", "--getsize64", device) == str(size)
            assert control.query().blk.size == size
        refused(errno.EINVAL, target, lib.USRLOOP_IOC_RESIZE, control, arg=0)
        refused(errno.EINVAL, target, lib.USRLOOP_IOC_RESIZE, control, arg=1000)
        refused(errno.EINVAL, target, lib.USRLOOP_IOC_RESIZE, control, arg=1 << 63)
        control.resize(4 * SIZE)
        control.stop()
        ram.join(10)
        control.start()
        Ram(ram.server, bytearray(4 * SIZE))
        assert run("blockdev", "--getsize64", device) == str(4 * SIZE)
    with Control() as control:
        control.create(Interface())
        refused(errno.EINVAL, target, lib.USRLOOP_IOC_RESIZE, control, arg=4096)


@check
def a_read_only_disk_is_not_written() -> None:
    with served(Disk(SIZE, max_io=16 << 10, depth=8, features=lib.USRLOOP_BLK_READ_ONLY)) as (_, ram, device):
        assert run("blockdev", "--getro", device) == "1"
        assert run("lsblk", "-ndo", "RO", device) == "1"
        try:
            with open(device, "r+b", buffering=0) as disk:
                disk.write(bytes(512))
        except OSError as error:
            assert error.errno in (errno.EPERM, errno.EROFS, errno.EACCES)
        else:
            raise AssertionError("it was written to")
        subprocess.run(["blockdev", "--setrw", device], capture_output=True, check=False)
        assert not ram.has(lib.USRLOOP_OP_WRITE)


@check
def sysfs_shows_a_device() -> None:
    disk = Disk(SIZE, max_io=16 << 10, depth=8, policy="queue", recovery_ms=1234, timeout_ms=5678, label="drive 0")
    with served(disk) as (_, _, device):
        for name, value in {
            **{"state": "live", "policy": "queue", "owner": "0", "label": "drive 0", "generation": "1"},
            **{"recovery_ms": "1234", "timeout_ms": "5678", "refused": "0"},
        }.items():
            assert sysfs(device, f"usrloop/{name}") == value, name
    with Control() as control:
        control.create(Interface(name="probe%d", label="wire"))
        control.attach()
        control.start()
        folder = Path("/sys/class/net/probe0/usrloop")
        assert (folder / "label").read_text() == "wire\n" and (folder / "state").read_text() == "live\n"
        assert control.query().ifindex == int(Path("/sys/class/net/probe0/ifindex").read_text())
    assert not Path("/sys/class/net/probe0").exists()


@check
def lsblk_lists_it() -> None:
    disk = Disk(SIZE, 512, 4096, max_io=16 << 10, depth=8)
    with served(disk) as (_, _, device):
        row = run("lsblk", "-bndo", "NAME,SIZE,TYPE,PHY-SEC,LOG-SEC,ROTA", device).split()
        assert row == [Path(device).name, str(SIZE), "disk", "4096", "512", "0"]


@check
def a_partition_table_is_found_at_the_first_open() -> None:
    table = bytearray(SIZE)
    table[446:462] = bytes.fromhex("00000000 83000000 08000000 00040000")
    table[510:512] = b"\x55\xaa"
    with Control() as control:
        number = control.create(SMALL).id
        ram = Ram(Server(control, control.attach()))
        ram.data[:] = table
        control.start()
        assert not ram.ops, "START reads nothing: who serves may call it"
        os.close(os.open(f"/dev/usrblk{number}", os.O_RDONLY))
        assert sysfs(f"usrblk{number}p1", "size") == "1024"
        control.delete(force=True)
        ram.join(10)


# --- its end ---


@check
def stopped_and_started_again() -> None:
    with Control() as control:
        number = control.create(SMALL).id
        device = f"/dev/usrblk{number}"
        server, data = Server(control, control.attach()), bytearray(SIZE)
        for turn in range(4):
            control.start()
            ram = Ram(server, data)
            if turn:
                run("dd", f"if={device}", "of=/dev/null", "bs=4k", "count=2", "iflag=direct", "status=none")
                assert len(ram.ops) >= 2
            control.stop()
            assert not Path(device).exists()
            ram.join(10)
            assert ram.end & lib.USRLOOP_READY_STOP and STATES[control.query().state] == "new"
        assert control.query().refused == 0
        server.close()


@check
def a_new_server_of_a_stopped_device_is_not_told_to_stop() -> None:
    with Control() as control, Control() as first, Control() as second:
        number = control.create(SMALL).id
        attach(first, number)
        control.start()
        control.stop()
        assert enter(first, 0) == lib.USRLOOP_READY_STOP
        first.close()
        server = Server(second, attach(second, number))
        assert server.enter(timeout_ms=100) == 0
        server.close()


@check
def an_open_disk_is_not_taken_away_unless_forced() -> None:
    with served() as (control, _, device):
        fd = os.open(device, os.O_RDWR | os.O_DIRECT)
        refused(errno.EBUSY, target, lib.USRLOOP_IOC_STOP, control)
        refused(errno.EBUSY, target, lib.USRLOOP_IOC_DELETE, control)
        block = mmap.mmap(-1, 4096)
        os.preadv(fd, [block], 0)
        control.stop(force=True)
        assert os.preadv(fd, [block], 0) == 0, "it has no bytes any more"
        refused(errno.ENOSPC, os.pwritev, fd, [block], 0)
        assert not Path(device).exists()
        control.start()  # another disk of the same name, while the old one is open
        os.close(fd)
        control.stop()


@check
def forced_while_requests_wait() -> None:
    for last in ("stop", "delete", "close"):
        control, file = Control(), Control()
        number = control.create(SMALL).id
        attach(file, number)
        control.start()
        reader = subprocess.Popen(["dd", f"if=/dev/usrblk{number}", "of=/dev/null", "bs=4k", "count=1", "iflag=direct"],
                                  stderr=subprocess.PIPE, text=True)
        assert polled(file, 10000) & select.POLLIN  # and nobody answers
        if last == "close":
            control.close()
        else:
            getattr(control, last)(force=True)
        said = reader.communicate(timeout=20)[1]
        assert reader.returncode == 1 and "error" in said, said
        control.close()
        file.close()
        no_device()


@check
def a_dead_device_can_only_be_deleted() -> None:
    with Control() as control, Control() as file, Control() as again:
        number = control.create(Disk(SIZE, policy="fail", max_io=16 << 10, depth=8)).id
        attach(file, number)
        control.start()
        file.close()
        assert STATES[control.query().state] == "dead" and sysfs(f"usrblk{number}", "usrloop/state") == "dead"
        refused(errno.EIO, attach, again, number)
        refused(errno.EIO, target, lib.USRLOOP_IOC_STOP, control)
        refused(errno.EALREADY, target, lib.USRLOOP_IOC_START, control)
        done = subprocess.run(["dd", f"if=/dev/usrblk{number}", "of=/dev/null", "count=1"], capture_output=True, check=False)
        assert done.returncode == 1
        control.delete()


@check
def persistent_or_not() -> None:
    with Control() as control:
        number = control.create(Disk(SIZE, flags=lib.USRLOOP_PERSIST, max_io=16 << 10, depth=8)).id
    with Control() as server, Control() as third:
        attach(server, number)
        target(lib.USRLOOP_IOC_START, server)
        server.close()
        assert sysfs(f"usrblk{number}", "usrloop/state") == "quiesced"
        third.delete(lib.USRLOOP_BLOCK, number)
        refused(errno.ENODEV, attach, third, number)
    no_device()
    with Control() as control:
        number = control.create(SMALL).id
    with Control() as other:
        refused(errno.ENODEV, attach, other, number)


def rmmod() -> int:
    return subprocess.run(["rmmod", "usrloop"], capture_output=True, check=False).returncode


@check
def unloaded_in_every_state() -> None:
    def again() -> None:
        assert rmmod() == 0
        run("insmod", MODULE)

    again()
    control = Control()
    assert rmmod() != 0, "a file is open"
    control.close()
    again()
    persistent = Disk(SIZE, flags=lib.USRLOOP_PERSIST, max_io=16 << 10, depth=8)
    with Control() as control:
        number = control.create(persistent).id
    assert rmmod() != 0, "there is a device"
    with Control() as server:
        a = attach(server, number)
        memory = mmap.mmap(server.fd, a.size)
        server.start()
    assert rmmod() != 0, "it is live: the mapping keeps the server"
    memory.close()
    assert rmmod() != 0, "it is quiesced"
    fd = -1
    with Control() as server:
        ram = Ram(Server(server, attach(server, number)))
        fd = os.open(f"/dev/usrblk{number}", os.O_RDONLY)
        refused(errno.EBUSY, target, lib.USRLOOP_IOC_DELETE, server)
        server.delete(force=True)
        ram.join(10)
        ram.server.close()
    assert rmmod() != 0, "the disk of a device that is gone is open"
    os.close(fd)
    again()
    with Control() as control:
        control.create(Interface())
        control.attach()
        control.start()
        assert rmmod() != 0
    again()


def main() -> None:
    results = {}
    for name in sys.argv[2:] or CHECKS:
        begun = time.monotonic()
        Path("/dev/kmsg").write_text(f"check {name}\n")
        try:
            CHECKS[name]()
            failure = ""
        except BaseException:
            failure = traceback.format_exc()
        results[name] = {"failure": failure, "seconds": round(time.monotonic() - begun, 2)}
        Path(sys.argv[1]).write_text(json.dumps(results))


if __name__ == "__main__":
    main()
