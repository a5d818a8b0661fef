# SPDX-License-Identifier: MIT
"""Checks of usrloop: what somebody may have whom root let in, and no more. Run in a guest (usrloop_calls.py)."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import os
import resource
import select
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from scenario import PATIENCE, locked
from usrloop_rig import (
    SIZE,
    SMALL,
    USER,
    USERS,
    Ram,
    attach,
    check,
    child,
    info,
    polled,
    raw,
    refused,
    run,
    target,
    wait,
)

from usrdrv.loop import ANY, STATES, Control, Disk, Interface, Server, lib, new

BLKRRPART = 0x125F
TABLE = bytearray(SIZE)
TABLE[446:462] = bytes.fromhex("00000000 83000000 08000000 00040000")
TABLE[510:512] = b"\x55\xaa"


def create(control: Control, device: Disk | Interface, **changes: Any) -> None:
    raw(control, lib.USRLOOP_IOC_CREATE, info(device, **changes))


@check
def nobody_waits_without_end_for_a_users_disk() -> None:
    """Its requests end in finite time: by its server, without one, and if that comes and goes."""
    with Control() as file:

        def body() -> None:
            for changes in (
                {"recovery_ms": 0},
                {"timeout_ms": 0},
                {"recovery_ms": lib.USRLOOP_USER_MS + 1},
                {"timeout_ms": lib.USRLOOP_USER_MS + 1},
                {"policy": lib.USRLOOP_DEATH_REISSUE},
            ):
                refused(errno.EPERM, create, file, USERS, **changes)
            create(file, USERS, recovery_ms=lib.USRLOOP_USER_MS)

        child(body, USER)
    with Control() as control:
        create(control, SMALL, recovery_ms=0, timeout_ms=0)  # root may


@check
def a_user_has_no_zero_copy() -> None:
    """Who may not touch registers may not say that memory was written which was not."""
    wanted = {"blk_max_segments": 8, "features": lib.USRLOOP_BLK_ZERO_COPY}
    with Control() as control, Control() as file, Control() as second:
        if not control.can_zero_copy(lib.USRLOOP_BLOCK):
            return
        i = info(SMALL, flags=lib.USRLOOP_OWNER, owner=USER, **wanted)
        raw(control, lib.USRLOOP_IOC_CREATE, i)

        def body() -> None:
            refused(errno.EPERM, create, second, USERS, **wanted)
            refused(errno.EPERM, attach, file, i.id)  # though it is its own

        child(body, USER)


@check
def a_user_has_a_limited_number_of_devices() -> None:
    """Also one that is many in a namespace of its own. Others do not pay for it."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(Control()) for _ in range(lib.USRLOOP_USER_DEVICES + 1)]

        def body() -> None:
            for file in files[:-1]:
                create(file, USERS)
            refused(errno.EDQUOT, create, files[-1], USERS)

        child(body, USER)
        last = files[-1]
        child(lambda: refused(errno.EDQUOT, create, last, USERS), USER, os.CLONE_NEWUSER)  # type: ignore[attr-defined]
        child(lambda: create(last, USERS), USER + 1)
        files[0].close()
        with Control() as again:
            child(lambda: create(again, USERS), USER)
        with Control() as roots:
            create(roots, USERS)


@check
def what_is_made_counts_against_the_limit_of_locked_memory() -> None:
    """Also what the block layer has for requests, before there is a server."""
    with Control() as file, Control() as control:
        control.create(SMALL)
        before = locked()
        control.attach()
        assert locked() > before > 0

        def body() -> None:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (4096, 4096))
            refused(errno.ENOMEM, create, file, dataclasses.replace(USERS, depth=1024))

        child(body, USER)
    assert locked() == 0, "it was given back"


@check
def a_users_disk_has_few_dirty_pages() -> None:
    """However slow it is on purpose, sync waits for no more. Root's are as any disk."""
    for uid, few in ((USER, True), (0, False)):
        with Control() as file:

            def body(file: Control = file) -> None:
                create(file, USERS)
                attach(file)
                target(lib.USRLOOP_IOC_START, file)

            child(body, uid)
            bdi = Path(f"/sys/block/usrblk{file.query().id}/bdi")
            limits = [int((bdi / name).read_text()) for name in ("strict_limit", "max_ratio")]
            assert limits == ([1, 1] if few else [0, 100]), limits


@check
def of_a_users_partition_table_the_kernel_reads_nothing() -> None:
    with Control() as control:
        child(lambda: create(control, USERS), USER)
        number = control.query().id
        ram = Ram(Server(control, control.attach()), bytearray(TABLE))
        control.start()
        fd = os.open(f"/dev/usrblk{number}", os.O_RDONLY)
        refused(errno.EINVAL, fcntl.ioctl, fd, BLKRRPART)
        os.close(fd)
        assert not ram.ops and not Path(f"/sys/block/usrblk{number}/usrblk{number}p1").exists()
        control.delete(force=True)
        ram.join(PATIENCE)
        ram.server.close()


@check
def a_forked_child_does_not_keep_the_session_mapped() -> None:
    with Control() as control:
        control.create(SMALL)
        server = Server(control, control.attach())
        assert "/dev/usrloop" in Path("/proc/self/maps").read_text()

        def body() -> None:
            assert "/dev/usrloop" not in Path("/proc/self/maps").read_text()

        child(body)
        server.close()


# --- interfaces ---


def interfaces() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


@check
def an_interface_goes_with_its_network_namespace() -> None:
    """As a TAP does; the first network namespace does not get it. Its maker is told."""
    before = interfaces()
    # The packets of an interface are more than a user may lock as a rule.
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with Control() as file:

        def body() -> None:
            file.create(Interface(name="hostile"))
            file.attach()
            file.start()
            assert STATES[file.query().state] == "live"

        child(body, USER, os.CLONE_NEWUSER | os.CLONE_NEWNET)  # type: ignore[attr-defined]
        wait(lambda: STATES[file.query().state] == "new", "the interface goes")
        assert file.query().ifindex == 0 and interfaces() == before
        file.start()  # and can be had again, here
        assert interfaces() - before == {"hostile"}
        file.query()
        run("ip", "link", "delete", "hostile")
        assert polled(file, PATIENCE * 1000) & select.POLLIN
        wait(lambda: STATES[file.query().state] == "new", "it goes")
        assert interfaces() == before


@check
def an_interface_is_deleted_while_it_is_used() -> None:
    """By "ip link delete", STOP and the server's death, at once and again and again."""
    for turn in range(20):
        with Control() as control, Control() as server:
            number = control.create(Interface(name="busy")).id
            attach(server, number, lib.USRLOOP_NET)
            control.start()
            control.carrier(1000)
            run("ip", "link", "set", "busy", "up")
            deleter = threading.Thread(target=quietly, args=("ip", "link", "delete", "busy"))
            deleter.start()
            if turn % 2:
                server.close()
            control.stop(force=True)
            deleter.join()
            assert STATES[control.query().state] == "new"
    assert "busy" not in interfaces()


def quietly(*words: str) -> None:
    subprocess.run(words, capture_output=True, check=False)


@check
def a_server_that_leaves_a_packet_alone_counts_as_dead() -> None:
    with Control() as control, Control() as server:
        number = control.create(Interface(name="still", timeout_ms=400)).id
        attach(server, number, lib.USRLOOP_NET)
        control.start()
        control.carrier(1000)
        time.sleep(1.5)  # past its time-out; nothing is asked, so nothing can be late
        assert STATES[control.query().state] == "live", "nothing was asked of it"
        run("ip", "link", "set", "still", "up")
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind(("still", 0))
            with contextlib.suppress(OSError):  # what the kernel sends by itself does as well
                wire.send(bytes(60))
        wait(lambda: STATES[control.query().state] == "quiesced", "it is taken for dead")
        assert polled(server) & select.POLLHUP
        a = new("attach", type=lib.USRLOOP_NET, id=ANY, version=lib.USRLOOP_VERSION)
        raw(control, lib.USRLOOP_IOC_ATTACH, a)
        # Not its state: it leaves the packets that wait alone, too, and so is not live for long.
        assert a.generation == 2
