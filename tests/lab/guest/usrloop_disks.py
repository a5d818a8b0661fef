# SPDX-License-Identifier: MIT
"""Checks of usrloop: who may, what a disk does, how it ends. Run in a guest (usrloop_calls.py)."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import resource
import select
import subprocess
import threading
from pathlib import Path

from scenario import PATIENCE, locked
from usrloop_rig import (
    MODULE,
    SIZE,
    SMALL,
    USER,
    USERS,
    Ram,
    attach,
    check,
    child,
    enter,
    info,
    no_device,
    polled,
    raw,
    reader,
    refused,
    run,
    served,
    sysfs,
    target,
    wait,
)

from usrdrv.loop import STATES, Control, Disk, Interface, Server, ffi, lib

# --- who may ---


@check
def another_user_may_look_and_no_more() -> None:
    with Control() as control, Control() as other:
        number = control.create(SMALL).id
        control.attach()
        assert control.query().server_pid == os.getpid()

        def body() -> None:
            for request in (
                *(
                    lib.USRLOOP_IOC_START,
                    lib.USRLOOP_IOC_STOP,
                    lib.USRLOOP_IOC_DELETE,
                    lib.USRLOOP_IOC_RESIZE,
                ),
                *(lib.USRLOOP_IOC_DETACH, lib.USRLOOP_IOC_CARRIER),
            ):
                refused(errno.EPERM, target, request, other, lib.USRLOOP_BLOCK, number)
            refused(errno.EPERM, attach, other, number)
            seen = other.query(lib.USRLOOP_BLOCK, number)
            assert seen.owner == 0 and seen.server_pid == 0, "whose process serves is not told"
            refused(
                errno.EPERM,
                raw,
                other,
                lib.USRLOOP_IOC_CREATE,
                info(USERS, flags=lib.USRLOOP_OWNER, owner=0),
            )
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
            ram.join(PATIENCE)
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
            i = info(USERS)
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
            assert locked() == a.size
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (a.size, 7 << 20))
            target(lib.USRLOOP_IOC_DETACH, again, lib.USRLOOP_BLOCK, number)
            refused(errno.ENOMEM, attach, again, number)

        child(body, USER)
        file.close()
        target(
            lib.USRLOOP_IOC_DETACH, again, lib.USRLOOP_BLOCK, number
        ) if control.query().server_pid else None
        attach(again, number)  # for root there is no limit
    no_device()


# --- the disk ---


@check
def data_goes_both_ways() -> None:
    with served() as (_, ram, device):
        data = os.urandom(256 << 10)
        Path("/tmp/data").write_bytes(data)
        run(
            "dd",
            "if=/tmp/data",
            f"of={device}",
            "bs=64k",
            "oflag=direct",
            "conv=notrunc",
            "status=none",
        )
        assert ram.data[: len(data)] == data
        assert max(length for op, _, length, _ in ram.ops if op == lib.USRLOOP_OP_WRITE) == 16 << 10
        run(
            "dd", f"if={device}", "of=/tmp/back", "bs=64k", "count=4", "iflag=direct", "status=none"
        )
        assert Path("/tmp/back").read_bytes() == data


@check
def each_kind_of_request_arrives() -> None:
    f = (
        lib.USRLOOP_BLK_CACHE
        | lib.USRLOOP_BLK_FUA
        | lib.USRLOOP_BLK_DISCARD
        | lib.USRLOOP_BLK_ZEROES
    )
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
    f = (
        lib.USRLOOP_BLK_CACHE
        | lib.USRLOOP_BLK_FUA
        | lib.USRLOOP_BLK_DISCARD
        | lib.USRLOOP_BLK_ROTATIONAL
    )
    disk = Disk(
        SIZE, 1024, 4096, 64 << 10, f, depth=8, max_discard=512 << 10, discard_granularity=8192
    )
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
        with served(result=lambda sqe, code=code: code if sqe.sector >= 1024 else 0) as (
            control,
            ram,
            device,
        ):
            fd = os.open(device, os.O_RDWR | os.O_DIRECT)
            block = mmap.mmap(-1, 4096)
            refused(expected, os.pwritev, fd, [block], 1024 * 512)
            refused(expected, os.preadv, fd, [block], 1024 * 512)
            os.close(fd)
            bad = code > 0 or code < -4095
            # Counted when all that came with it has been ended.
            wait(lambda bad=bad: control.query().refused == (2 if bad else 0), "count of refused")  # type: ignore[misc]
            wait(lambda bad=bad: bool(ram.bits & lib.USRLOOP_READY_REFUSED) == bad, "READY_REFUSED")  # type: ignore[misc]


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
        client = reader(f"/dev/usrblk{number}")
        asked = 2
        while client.poll() is None:
            server.enter(timeout_ms=50)
            while (sqe := lib.loop_next(q)) != ffi.NULL:
                lib.loop_complete(q, sqe.tag, sqe.seq + 1, 0)
                lib.loop_complete(q, sqe.tag ^ 1, sqe.seq, 0)
                lib.loop_complete(q, sqe.tag, sqe.seq, 0)
                lib.loop_complete(q, sqe.tag, sqe.seq, 0)
                asked += 3
        assert client.returncode == 0 and control.query().refused == asked
        q.cq_tail += 1000  # more than a ring holds
        assert server.enter(flags=lib.USRLOOP_ENTER_NOWAIT) == lib.USRLOOP_READY_REFUSED
        server.close()


@check
def a_read_only_disk_is_not_written() -> None:
    with served(Disk(SIZE, max_io=16 << 10, depth=8, features=lib.USRLOOP_BLK_READ_ONLY)) as (
        _,
        ram,
        device,
    ):
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
    disk = Disk(
        SIZE,
        max_io=16 << 10,
        depth=8,
        policy="queue",
        recovery_ms=1234,
        timeout_ms=5678,
        label="drive 0",
    )
    with served(disk) as (_, _, device):
        for name, value in {
            "state": "live",
            "policy": "queue",
            "owner": "0",
            "label": "drive 0",
            "generation": "1",
            "recovery_ms": "1234",
            "timeout_ms": "5678",
            "refused": "0",
        }.items():
            assert sysfs(device, f"usrloop/{name}") == value, name
    with Control() as control:
        control.create(Interface(name="probe%d", label="wire"))
        control.attach()
        control.start()
        folder = Path("/sys/class/net/probe0/usrloop")
        assert (folder / "label").read_text() == "wire\n" and (
            folder / "state"
        ).read_text() == "live\n"
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
        ram.join(PATIENCE)


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
                run(
                    "dd",
                    f"if={device}",
                    "of=/dev/null",
                    "bs=4k",
                    "count=2",
                    "iflag=direct",
                    "status=none",
                )
                assert len(ram.ops) >= 2
            control.stop()
            assert not Path(device).exists()
            ram.join(PATIENCE)
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
        client = reader(f"/dev/usrblk{number}")
        assert polled(file, PATIENCE * 1000) & select.POLLIN  # and nobody answers
        if last == "close":
            control.close()
        else:
            getattr(control, last)(force=True)
        said = client.communicate(timeout=PATIENCE)[1]
        # Its request, or that of its open() for partitions: then the disk has no bytes any more.
        assert (client.returncode == 1 and "error" in said) or "0 bytes copied" in said, said
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
        assert (
            STATES[control.query().state] == "dead"
            and sysfs(f"usrblk{number}", "usrloop/state") == "dead"
        )
        refused(errno.EIO, attach, again, number)
        refused(errno.EIO, target, lib.USRLOOP_IOC_STOP, control)
        refused(errno.EALREADY, target, lib.USRLOOP_IOC_START, control)
        done = subprocess.run(
            ["dd", f"if=/dev/usrblk{number}", "of=/dev/null", "count=1"],
            capture_output=True,
            check=False,
        )
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
        ram.join(PATIENCE)
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
