# SPDX-License-Identifier: MIT
"""Each call of usrloop and each error that its header documents. Runs in a guest; test_usrloop_calls.py judges.

python3 usrloop_calls.py RESULTS.json [NAME ...]
"""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from scenario import PATIENCE, apart
from usrloop_rig import CHECKS as CHECKS
from usrloop_rig import (
    SIZE,
    SMALL,
    attach,
    check,
    child,
    create_refused,
    enter,
    info,
    no_device,
    polled,
    raw,
    reader,
    refused,
    target,
    wait,
)

from usrdrv.loop import ANY, STATES, Control, Disk, Interface, Server, ffi, lib, new

# --- what is wrong with it is said ---


@check
def version() -> None:
    with Control() as control:
        v = control.version()
        assert v.version == lib.USRLOOP_VERSION
        assert v.oldest == v.version and v.flags == 0
        assert (v.blk_features, v.net_features, v.create_flags, v.policies) == (0x7F, 15, 3, 15)


@check
def create_of_another_type() -> None:
    create_refused(errno.EINVAL, SMALL, type=0)
    create_refused(errno.EINVAL, SMALL, type=3)


@check
def create_with_what_the_module_does_not_know() -> None:
    create_refused(errno.EOPNOTSUPP, SMALL, features=0x80)
    create_refused(errno.EOPNOTSUPP, Interface(), features=0x10)
    create_refused(errno.EOPNOTSUPP, SMALL, flags=4)
    create_refused(errno.EOPNOTSUPP, SMALL, policy=4)


@check
def create_with_numbers_out_of_range() -> None:
    wrong: tuple[dict[str, Any], ...] = (
        *({"queues": n} for n in (0, 65)),
        *({"depth": n} for n in (0, 3, 2048, 1 << 31)),
        *({"id": 1024}, {"poll_us": 1001}),
        *({"label": b"x" * 64}, {"label": b"two\nlines"}, {"label": b"\x7f"}),
    )
    for changes in wrong:
        create_refused(errno.EINVAL, SMALL, **changes)


@check
def create_of_a_disk_that_cannot_be() -> None:
    for changes in (
        *({"blk_size": n} for n in (0, 511, 513, 1 << 63)),
        *({"blk_logical_block": n} for n in (0, 256, 768, 8192)),
        *({"blk_physical_block": n} for n in (0, 256, 3 << 10, 128 << 10)),
        *({"blk_max_io": n} for n in (0, 2048, 12 << 10, 8 << 20)),
        *(
            {"blk_discard_granularity": 3 << 10},
            {"blk_discard_granularity": 256},
            {"blk_max_discard": 100},
        ),
        {"blk_discard_granularity": 64 << 10, "blk_max_discard": 4096},
        {"features": lib.USRLOOP_BLK_FUA},
        {"blk_logical_block": 4096, "blk_physical_block": 4096, "blk_size": 4096 + 512},
        {"blk_reserved": 1},
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
        {"net_max_csum": 8000},
        {"net_reserved2": 1},
        {"features": lib.USRLOOP_NET_ZERO_COPY, "net_reserved2": 1},
        {"features": 0xF},  # zero copy knows no UDP segmentation
    ):
        create_refused(errno.EINVAL, Interface(), **changes)


@check
def what_create_fills_in_was_zero() -> None:
    """And the room behind what the type uses, and the owner without the flag: bits for later."""
    for name in ("state", "generation", "server_pid", "ifindex", "refused", "owner"):
        create_refused(errno.EINVAL, SMALL, **{name: 1})
    for device, used in ((SMALL, "blk"), (Interface(), "net")):
        size = ffi.sizeof(getattr(info(device), used))
        for at in (size, ffi.sizeof(info(device).room) - 1):
            i = info(device)
            ffi.buffer(ffi.addressof(i, "room"))[at : at + 1] = b"\x80"
            with Control() as control:
                refused(errno.EINVAL, raw, control, lib.USRLOOP_IOC_CREATE, i)


def resized(argument: Any, size: int, fill: bytes = b"\0") -> bytearray:
    """A structure as somebody has it who knows `size` bytes of it."""
    data = bytearray(ffi.buffer(argument)).ljust(size, fill)[:size]
    data[:4] = size.to_bytes(4, "little")
    return data


@check
def structures_may_grow() -> None:
    """A newer program gets what this module knows, if it asks for nothing else; an older one what it knows."""
    with Control() as control:
        known = bytes(ffi.buffer(control.version()))
        size = len(known)
        data = resized(new("version"), size + 64)
        fcntl.ioctl(control.fd, lib.USRLOOP_IOC_VERSION, data)
        assert data[4:size] == known[4:] and not any(data[size:])
        assert data[:4] == (size + 64).to_bytes(4, "little"), "it is the caller's"
        data = resized(info(SMALL), ffi.sizeof("struct usrloop_info") + 8)
        fcntl.ioctl(control.fd, lib.USRLOOP_IOC_CREATE, data)
        a = new("attach", type=lib.USRLOOP_BLOCK, id=ANY, version=lib.USRLOOP_VERSION)
        fcntl.ioctl(control.fd, lib.USRLOOP_IOC_ATTACH, resized(a, ffi.sizeof(a[0]) + 8))


@check
def what_is_not_known_is_refused() -> None:
    """Sizes below the first version's, bytes beyond what is known, flags, in each structure."""
    calls = {
        lib.USRLOOP_IOC_VERSION: new("version"),
        lib.USRLOOP_IOC_CREATE: info(SMALL),
        lib.USRLOOP_IOC_QUERY: new("info", id=ANY),
        lib.USRLOOP_IOC_EVENTFD: new("eventfd", fd=-1, ack_fd=-1),
        lib.USRLOOP_IOC_FINISH: new("finish"),
        lib.USRLOOP_IOC_ATTACH: new("attach", id=ANY, version=lib.USRLOOP_VERSION),
        lib.USRLOOP_IOC_START: new("target", id=ANY),
        lib.USRLOOP_IOC_STOP: new("target", id=ANY),
        lib.USRLOOP_IOC_DELETE: new("target", id=ANY),
        lib.USRLOOP_IOC_RESIZE: new("target", id=ANY, arg=4096),
        lib.USRLOOP_IOC_DETACH: new("target", id=ANY),
        lib.USRLOOP_IOC_CARRIER: new("target", id=ANY),
    }
    with Control() as control, Control() as server:
        number = control.create(SMALL).id
        attach(server, number)
        for request, argument in calls.items():
            fd = server.fd
            size = ffi.sizeof(argument[0])
            for least in (0, 4, size - 1):
                data = resized(argument, size)
                data[:4] = least.to_bytes(4, "little")
                refused(errno.EINVAL, fcntl.ioctl, fd, request, data)
            refused(errno.E2BIG, fcntl.ioctl, fd, request, resized(argument, size + 1, b"x"))
            refused(errno.E2BIG, fcntl.ioctl, fd, request, resized(argument, 8192))
            if request == lib.USRLOOP_IOC_QUERY:
                continue  # only type and id of it are read
            argument.flags = 0x8000_0000
            code = errno.EOPNOTSUPP if request == lib.USRLOOP_IOC_CREATE else errno.EINVAL
            code = errno.EBUSY if request == lib.USRLOOP_IOC_ATTACH else code
            refused(code, fcntl.ioctl, fd, request, ffi.buffer(argument))
    with Control() as control:
        control.create(SMALL)
        for name, code in (
            *((name, errno.EINVAL) for name in ("flags", "generation", "queues", "rx", "size")),
            ("version", errno.EPROTONOSUPPORT),
        ):
            a = new("attach", id=ANY, version=lib.USRLOOP_VERSION)
            setattr(a, name, getattr(a, name) + 1)
            refused(code, raw, control, lib.USRLOOP_IOC_ATTACH, a)
        a = new("attach", id=ANY, version=lib.USRLOOP_VERSION - 1)
        refused(errno.EPROTONOSUPPORT, raw, control, lib.USRLOOP_IOC_ATTACH, a)


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
            *(
                lib.USRLOOP_IOC_START,
                lib.USRLOOP_IOC_STOP,
                lib.USRLOOP_IOC_DELETE,
                lib.USRLOOP_IOC_RESIZE,
            ),
            *(lib.USRLOOP_IOC_DETACH, lib.USRLOOP_IOC_CARRIER),
        ):
            refused(errno.ENODEV, target, request, control)
            refused(errno.ENODEV, target, request, control, lib.USRLOOP_BLOCK, 1023)
            refused(errno.ENODEV, target, request, control, lib.USRLOOP_BLOCK, 5000)
            refused(errno.ENODEV, target, request, control, 7, 0)
        refused(errno.ENODEV, attach, control)
        refused(errno.ENODEV, attach, control, 1023)
        refused(
            errno.ENODEV,
            raw,
            control,
            lib.USRLOOP_IOC_QUERY,
            new("info", type=1),
        )
        refused(errno.ENOTCONN, enter, control, 0)
        refused(
            errno.ENOTCONN,
            raw,
            control,
            lib.USRLOOP_IOC_EVENTFD,
            new("eventfd"),
        )
        steps = new("finish")
        refused(errno.ENOTCONN, raw, control, lib.USRLOOP_IOC_FINISH, steps)
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
        assert time.monotonic() - begun > 0.19
        server.close()


@check
def a_queue_is_for_one_thread() -> None:
    with Control() as control:
        control.create(SMALL)
        server = Server(control, control.attach())
        got: list[int] = []
        control.start()
        thread = threading.Thread(target=lambda: got.append(server.enter()))
        thread.start()
        wait(lambda: busy(control), "it is in ENTER")
        e = new("eventfd", fd=-1)
        refused(errno.EBUSY, raw, control, lib.USRLOOP_IOC_EVENTFD, e)
        control.stop()
        thread.join(PATIENCE)
        assert got == [lib.USRLOOP_READY_STOP]
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
            # Again and again: the first may come before it is there.
            signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
            assert server.enter(timeout_ms=PATIENCE * 1000) == -errno.EINTR
            signal.setitimer(signal.ITIMER_REAL, 0)
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
        assert (
            whole[a.size - 4096 : a.size - 4093] == b"end"
            and seen[a.size - 4096 : a.size - 4093] == b"end"
        )
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
        assert polled(control, PATIENCE * 1000) == select.POLLIN
        assert control.query().server_pid and polled(control) == 0
        target(lib.USRLOOP_IOC_START, server)
        assert (
            polled(control, PATIENCE * 1000) == select.POLLIN
            and STATES[control.query().state] == "live"
        )
        server.close()
        assert (
            polled(control, PATIENCE * 1000) == select.POLLIN
            and STATES[control.query().state] == "quiesced"
        )
        assert polled(control) == 0
        control.resize(2 * SIZE)
        assert polled(control) == select.POLLIN
        control.delete(force=True)
        assert polled(control) & select.POLLHUP
        refused(
            errno.ENODEV,
            raw,
            control,
            lib.USRLOOP_IOC_QUERY,
            new("info", id=ANY),
        )
        refused(errno.ENODEV, target, lib.USRLOOP_IOC_DELETE, control)
        refused(errno.ENODEV, target, lib.USRLOOP_IOC_STOP, control)


@check
def poll_of_a_server() -> None:
    with Control() as control, Control() as file:
        number = control.create(SMALL).id
        server = Server(file, attach(file, number))
        control.start()
        assert polled(file) == 0
        client = reader(f"/dev/usrblk{number}")
        assert polled(file, PATIENCE * 1000) == select.POLLIN
        q = server.queue[0]
        while client.poll() is None:
            polled(file, 100)
            while (sqe := lib.loop_next(q)) != ffi.NULL:
                lib.loop_complete(q, sqe.tag, sqe.seq, 0)
            server.enter(flags=lib.USRLOOP_ENTER_NOWAIT)
        assert client.returncode == 0
        assert polled(file) == 0
        server.close()


import usrloop_events  # noqa: E402, F401, I001
import usrloop_frames  # noqa: E402, F401
import usrloop_users  # noqa: E402, F401
import usrloop_names  # noqa: E402, F401
import usrloop_power  # noqa: E402, F401
import usrloop_resize  # noqa: E402, F401
import usrloop_scenarios  # noqa: E402, F401
import usrloop_disks  # noqa: E402, F401  its checks come last, for then the module is unloaded


def main() -> None:
    results = {}
    for name in sys.argv[2:] or CHECKS:
        begun = time.monotonic()
        Path("/dev/kmsg").write_text(f"check {name}\n")
        failure = apart(CHECKS[name])
        results[name] = {"failure": failure, "seconds": round(time.monotonic() - begun, 2)}
        Path(sys.argv[1]).write_text(json.dumps(results))


if __name__ == "__main__":
    main()
