# SPDX-License-Identifier: MIT
"""A drive as a block device of the kernel: partitioned, mounted, loaded, its driver killed.

Once as /dev/nbd0, once as /dev/usrblk0; through VFIO on Debian's kernel, and through the usrdrv system calls on
ours, without an IOMMU.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import disks
import pytest
from disks import (
    LOAD,
    SIZE,
    all_was_written_and_verified,
    driver,
    end_all,
    lives_through_deaths,
    make_image,
    sectors_written,
    start_fio,
    wait,
)
from waiting import at_best

from usrdrv.devices import control
from usrdrv.lab.guest import Guest
from usrdrv.lab.models import Model
from usrdrv.pci import USRDRV, VFIO

Boot = Callable[..., Guest]


@dataclass(frozen=True)
class Way:
    """One of the ways into the kernel. process: the driver's name; program: what is run to start one."""

    export: str
    process: str
    program: str
    left: str
    """Prints nothing when nothing is left of it."""


WAYS = (
    Way(
        "nbd",
        "nbdkit",
        "$(command -v nbdkit)",
        "pgrep -xl nbdkit; ls /run/usrdrv/*.sock; grep -v '^0$' /sys/block/nbd0/size",
    ),
    Way(
        "usrloop",
        "usrdrv-driver",
        "/src/bridge/block_driver.py",
        "pgrep -xl 'usrdrv-driver|usrdrv-standby'; ls -d /dev/usrblk* /sys/block/usrblk*",
    ),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    image = make_image(tmp_path_factory.mktemp("block"))
    with Model("cmd680", "--option", "strict=1", "--image", str(image)) as model:
        yield model


@pytest.fixture(scope="module", params=[VFIO, USRDRV])
def through(request: pytest.FixtureRequest) -> str:
    """The kernel driver that has the controller, because that is the best way there."""
    return str(request.param)


@pytest.fixture(scope="module")
def guest(  # in this order: the model outlives it
    model: Model, guest_factory: Boot, through: str
) -> Iterator[Guest]:
    kernel = "base" if through == USRDRV else "stock"
    guest = guest_factory([model.socket], kernel=kernel, iommu=through == VFIO, kmod=True)
    yield guest
    guest.close()  # the next one wants the model


@pytest.fixture(autouse=True)
def alone(guest: Guest) -> Iterator[None]:
    yield
    end_all(guest)


@pytest.fixture(params=WAYS, ids=lambda way: way.export)
def way(request: pytest.FixtureRequest) -> Way:
    chosen: Way = request.param
    return chosen


class Served(disks.Served):
    """By one of the ways, with a line of JSON when it is usable."""

    def __init__(self, guest: Guest, way: Way, *arguments: str) -> None:
        super().__init__(guest, *arguments, "--export", way.export, process=way.process)
        self.way = way

    @property
    def child(self) -> str:
        """What `usrdrv block` calls the driver's process."""
        return {"nbd": "nbdkit", "usrloop": "driver"}[self.way.export]


def nothing_is_left(guest: Guest, way: Way) -> None:
    assert guest.run(way.left).out == ""
    assert driver(guest) == "pata_sil680"


def test_a_file_system_lives_through_three_deaths_of_its_driver(
    guest: Guest, way: Way, through: str
) -> None:
    served = Served(guest, way)
    device = served.device
    assert driver(guest) == through
    assert served.info["size"] == SIZE
    guest.run(f"echo ',,L' | sfdisk -q {device} && mkfs.ext4 -q {device}p1", 120, check=True)
    guest.run(f"mount {device}p1 /mnt", check=True)
    log = guest.console.position()
    lives_through_deaths(served, "/mnt")
    assert not re.search(r"I/O error|EXT4-fs error|Buffer I/O", guest.kernel_log(log))
    guest.run("umount /mnt", check=True)
    guest.run(f"e2fsck -fn {device}p1", 120, check=True)
    assert served.end() == 0, served.job.err
    nothing_is_left(guest, way)

    # and there for the kernel's own driver, to which the controller went back
    wait(lambda: guest.run("test -b /dev/sda1").code == 0, 30, "/dev/sda1")
    guest.run("e2fsck -fn /dev/sda1 && mount -o ro /dev/sda1 /mnt", 120, check=True)
    assert int(guest.run("stat -c %s /mnt/v.0.0").out) == LOAD
    guest.run("umount /mnt", check=True)


PF_MEMALLOC_NOIO = 1 << 19
"""Of PR_SET_IO_FLUSHER (linux/sched.h)."""


def waits_for_no_disk(guest: Guest, pid: str, thread: str = "") -> bool:
    """Whether its memory is locked, and to get more it does no I/O."""
    status = f"grep -v ' 0 kB' /proc/{pid}/status | grep -q VmLck"
    flags = guest.run(
        f"{status} && cat /proc/{pid}/task/{thread or pid}/stat | sed 's/.*)//' | cut -d' ' -f8"
    ).out.split()
    return bool(flags) and all(int(word) & PF_MEMALLOC_NOIO for word in flags)


def test_the_process_that_waited_takes_over(guest: Guest) -> None:
    """1. both are killed  2. the driver is: its successor is the process that waited  3. another one waits.

    None of them waits for the disk, as for a page of its own that was swapped out there.
    """

    def pids(name: str) -> list[str]:
        return guest.run(["pgrep", "-x", name]).out.split()

    way = WAYS[1]
    served = Served(guest, way)
    wait(lambda: pids("usrdrv-standby"), 60, "standby")
    guest.run("pkill -9 -x usrdrv-standby", check=True)
    wait(lambda: "the driver's standby was killed by SIGKILL" in served.job.err, 10, "its death")
    served.kill_driver()
    wait(lambda: pids("usrdrv-standby"), 60, "standby")
    before = pids("usrdrv-standby")
    served.kill_driver()
    assert pids("usrdrv-driver") == before
    wait(lambda: pids("usrdrv-standby"), 60, "standby")
    guest.run(f"dd if={served.device} of=/dev/null bs=64k count=16 iflag=direct", check=True)
    supervisor = guest.run("ps -o ppid= -C usrdrv-driver", check=True).out
    for who in (*pids("usrdrv-driver"), *pids("usrdrv-standby"), supervisor.strip()):
        assert waits_for_no_disk(guest, who), who
    assert waits_for_no_disk(guest, pids("usrdrv-driver")[0], "*"), "a thread from before"
    assert served.end() == 0, served.job.err
    nothing_is_left(guest, way)


def test_a_driver_that_somebody_ends_in_order_is_started_again(guest: Guest, way: Way) -> None:
    """Its exit status 0 does not say that the device is gone."""
    served = Served(guest, way)
    guest.run("head -c 16M /dev/urandom >/tmp/data", check=True)
    before = sectors_written(guest, served.device)
    written = guest.start(
        f"dd if=/tmp/data of={served.device} bs=64k oflag=direct status=none && "
        f"cmp -n 16M /tmp/data {served.device}"
    )
    wait(lambda: sectors_written(guest, served.device) > before, 60, "I/O before the end")
    served.signal_driver("TERM")
    wait(lambda: served.restarts == 1, 60, f"restart: {served.job.err}")
    how = {"nbd": "ended with status 0", "usrloop": "was killed by SIGTERM"}[way.export]
    assert f"the driver {how}; restarted in" in served.job.err
    result = written.wait(120)
    assert result.code == 0, result.err
    assert sectors_written(guest, served.device) - before == (16 << 20) // 512
    assert served.end() == 0, served.job.err
    nothing_is_left(guest, way)


def test_a_driver_that_dies_again_and_again_is_given_up(guest: Guest, way: Way) -> None:
    """Nobody asks it for anything: it does no work between its deaths."""
    served = Served(guest, way, "--restart-time", "10")
    killer = guest.start(f"while :; do pkill -9 -x {way.process}; sleep 0.3; done")
    try:
        result = served.job.wait(300)
    finally:
        killer.signal(signal.SIGKILL)
    assert result.code == 1
    last = result.err.splitlines()[-1]
    assert "SIGKILL" in last and ("given up" in last or "does not come back" in last)
    nothing_is_left(guest, way)


def test_one_that_worked_may_die_as_often_as_it_likes(guest: Guest, way: Way) -> None:
    """Seven deaths, faster than the restart time: after each the client gets on."""
    served = Served(guest, way, "--restart-time", "30")
    device = served.device
    writer = guest.start(
        f"while :; do dd if=/dev/zero of={device} bs=64k count=16 oflag=direct status=none || exit; done"
    )
    for _ in range(7):
        before = sectors_written(guest, device)
        wait(lambda n=before: sectors_written(guest, device) > n + 128, 60, "I/O before the kill")  # type: ignore[misc]
        served.kill_driver()
    before = sectors_written(guest, device)
    wait(lambda: sectors_written(guest, device) > before, 60, "I/O after the kills")
    assert not writer.done.is_set(), writer.err
    writer.signal(signal.SIGKILL)
    assert served.end() == 0, served.job.err
    nothing_is_left(guest, way)


DOUBT = """
import errno, os, threading, time
def _doubt(device):
    dev = ffi.cast("struct usrdrv_dev *", device.pointer)
    _ops = ffi.new("struct usrdrv_dev_ops *")
    ffi.memmove(_ops, dev.ops, ffi.sizeof("struct usrdrv_dev_ops"))
    _gone = ffi.callback(
        "int(struct usrdrv_dev *, const struct usrdrv_write *, unsigned int)",
        lambda *arguments: -errno.ENODEV,
    )
    _ops.write_list = _gone
    while True:
        try:
            os.unlink("/tmp/doubt")
            dev.ops = _ops
        except FileNotFoundError:
            pass
        time.sleep(0.1)
_start = Controller.__init__
def _start_doubting(self, device, options=None):
    _start(self, device, options)
    threading.Thread(target=_doubt, args=(device,), daemon=True).start()
Controller.__init__ = _start_doubting
"""
"""At the end of the driver: writes to registers fail as if the device were gone, once there is that file."""


def test_a_driver_that_takes_its_device_for_gone_is_started_again(guest: Guest, way: Way) -> None:
    """It ends, and leaves the requests without an answer. But the device answers on its bus."""
    source = "/src/drivers/ide_cmd680/driver.py"
    (guest.share / "doubt").write_text(DOUBT)
    guest.run(
        f"cat {source} /share/doubt >/tmp/doubter && mount --bind /tmp/doubter {source}", check=True
    )
    try:
        served = Served(guest, way)
        device = served.device
        log = guest.console.position()
        writer = guest.start(
            f"while :; do dd if=/dev/zero of={device} bs=64k count=16 oflag=direct status=none || exit; done"
        )
        for number in (1, 2):
            before = sectors_written(guest, device)
            wait(lambda n=before: sectors_written(guest, device) > n + 128, 60, "I/O before")  # type: ignore[misc]
            guest.run("touch /tmp/doubt", check=True)
            wait(lambda n=number: served.restarts == n, 60, f"restart: {served.job.err}")  # type: ignore[misc]
        assert "device is gone" in served.job.err, "the driver's own line"
        before = sectors_written(guest, device)
        wait(lambda: sectors_written(guest, device) > before, 60, "I/O after that")
        assert not writer.done.is_set(), writer.err
        writer.signal(signal.SIGKILL)
        assert not re.search(r"I/O error", guest.kernel_log(log))
        assert served.end() == 0, served.job.err
    finally:
        guest.run(f"umount {source}", check=True)
    nothing_is_left(guest, way)


def test_a_driver_that_hangs_is_killed_and_the_file_system_lives(guest: Guest, way: Way) -> None:
    served = Served(guest, way, "--request-time", "3")
    device = served.device
    guest.run(f"mkfs.ext4 -q -F {device} && mount {device} /mnt", 120, check=True)
    log = guest.console.position()
    fio = start_fio(guest, "/mnt")
    before = sectors_written(guest, device)
    wait(lambda: sectors_written(guest, device) > before + 2048, 60, "I/O before the hang")
    assert not fio.done.is_set()
    served.signal_driver("STOP")
    begun = time.monotonic()
    wait(lambda: served.restarts == 1, 60, f"restart: {served.job.err}")
    assert time.monotonic() - begun > 3, "it had its time"
    assert "the driver completed no request for 3 s: killing it" in served.job.err
    before = sectors_written(guest, device)
    wait(lambda: sectors_written(guest, device) > before, 60, "I/O after the hang")
    all_was_written_and_verified(guest, fio)
    assert served.restarts == 1, "one that works is left alone"
    assert not re.search(r"I/O error|EXT4-fs error|Buffer I/O", guest.kernel_log(log))
    guest.run("umount /mnt", check=True)
    guest.run(f"e2fsck -fn {device}", 120, check=True)
    # also a flush without any data, which the kernel counts apart
    served.signal_driver("STOP")
    flush = f"import os; os.fsync(os.open('{device}', os.O_RDWR))"
    guest.run(["python3", "-c", flush], 60, check=True)
    wait(lambda: served.restarts == 2, 60, "it says so when requests go on already")
    # and one that is stopped while nobody asks it for anything
    served.signal_driver("STOP")
    time.sleep(5)  # nothing is to happen, and longer than the request time
    served.signal_driver("CONT")
    assert served.end() == 0, served.job.err
    assert served.restarts == 2
    nothing_is_left(guest, way)


def test_the_kernel_has_taken_the_disk_from_a_driver_that_does_not_end(guest: Guest) -> None:
    """It was stopped, as one that hangs, and has no request: nobody but the kernel says that it serves no more."""
    way = WAYS[1]
    served = Served(guest, way)
    device = served.device
    wait(lambda: not guest.run("pgrep -x usrdrv-standby").code, 60, "standby")
    number = int(device.removeprefix("/dev/usrblk"))
    served.signal_driver("STOP")
    detach = f"from usrdrv import loop; loop.Control().detach(loop.lib.USRLOOP_BLOCK, {number})"
    guest.run(["python3", "-c", detach], 60, check=True)
    guest.run(f"dd if=/dev/zero of={device} bs=64k count=16 oflag=direct", 120, check=True)
    wait(lambda: served.restarts == 1, 60, "it says so when requests go on already")
    assert "the kernel has taken the disk from the driver, which does not end" in served.job.err
    assert served.end() == 0, served.job.err
    nothing_is_left(guest, way)


@pytest.mark.parametrize(
    "pattern", ["/mnt/core", "|/bin/sh -c cat>/mnt/core"], ids=["file", "pipe"]
)
def test_a_driver_that_crashes_leaves_no_core_on_its_own_disk(
    guest: Guest, way: Way, pattern: str
) -> None:
    """It would not end before that was written, which waits for the next driver, which waits for its end.

    Nor does the kernel kill it, its successor or their supervisor for memory.
    """
    guest.run(f"echo '{pattern}' >/proc/sys/kernel/core_pattern", check=True)
    served = Served(guest, way)
    device = served.device
    guest.run(f"mkfs.ext4 -q -F {device} && mount {device} /mnt", 120, check=True)
    try:
        log = guest.console.position()
        fio = start_fio(guest, "/mnt")
        before = sectors_written(guest, device)
        wait(lambda: sectors_written(guest, device) > before + 512, 60, "I/O before the crash")
        served.signal_driver("SEGV")
        wait(lambda: served.restarts == 1, 60, f"restart: {served.job.err}")
        all_was_written_and_verified(guest, fio)
        assert not re.search(r"I/O error|EXT4-fs error|Buffer I/O", guest.kernel_log(log))
        assert guest.run("test -e /mnt/core").code == 1
        names = f"{way.process} usrdrv-standby" if way.export == "usrloop" else way.process
        badness = f"for name in {names}; do cat /proc/$(pgrep -x $name)/oom_score_adj; done"
        wait(lambda: set(guest.run(badness).out.split()) == {"-1000"}, 60, "badness of all")
    finally:
        guest.run("umount /mnt; echo core >/proc/sys/kernel/core_pattern", check=True)
    assert served.end() == 0, served.job.err
    nothing_is_left(guest, way)


def seconds(guest: Guest, command: str) -> float:
    begun = time.monotonic()
    guest.run(command, 60, check=True)
    return time.monotonic() - begun


@pytest.mark.kernel_log(allow=[r"I/O error, dev usrblk0"])
def test_a_driver_that_polls_keeps_its_interrupt_after_errors(guest: Guest, model: Model) -> None:
    """Who looks at the chip owes the interrupt's acknowledgement; errors of commands come in between.

    Without it every command that takes longer than the looking ends when somebody looks for hung ones: 100 ms.
    """
    way = WAYS[1]
    served = Served(guest, way, "--poll-us", "50")
    device = served.device
    guest.run(f"mkfs.ext4 -q -F {device} && mount {device} /mnt", 120, check=True)
    log = guest.console.position()
    fio = start_fio(guest, "/mnt")
    for kind in ("crc", "dma-abort") * 2:
        before = sectors_written(guest, device)
        wait(lambda n=before: sectors_written(guest, device) > n + 512, 60, "I/O between errors")
        assert not fio.done.is_set()
        fault = {"kind": kind, "on": "write", "count": 1}
        control.call(model.control, {"op": "fault-add", "fault": fault})
        wait(lambda: not control.call(model.control, {"op": "fault-list"}), 60, f"{kind} is met")
    all_was_written_and_verified(guest, fio)
    assert not re.search(r"I/O error|EXT4-fs error|Buffer I/O", guest.kernel_log(log))
    # One that fails is ended by another thread, which wakes the one that owes.
    bad = {"kind": "bad-sector", "lba": 80 << 10, "sectors": 8, "on": "read"}
    number = control.call(model.control, {"op": "fault-add", "fault": bad})
    read = f"dd if={device} of=/dev/null bs=4k skip=10k count=1 iflag=direct"
    for _ in range(3):
        assert "Input/output error" in guest.run(read, 60).err
    control.call(model.control, {"op": "fault-clear", "id": number})
    slow = {"kind": "slow", "seek_ms": 5, "on": "read"}
    number = control.call(model.control, {"op": "fault-add", "fault": slow})
    try:
        read = f"dd if={device} of=/dev/null bs=4k count=8 iflag=direct"
        # A busy host makes it longer; what is looked for makes each of them 800 ms.
        took = at_best(lambda: seconds(guest, read), lambda took: took < 0.64, "reads, in seconds")
        assert took > 0.04
    finally:
        control.call(model.control, {"op": "fault-clear", "id": number})
    guest.run("umount /mnt", check=True)
    guest.run(f"e2fsck -fn {device}", 120, check=True)
    assert served.end() == 0 and not served.restarts, served.job.err
    nothing_is_left(guest, way)


def test_a_driver_that_is_stopped_is_left_in_bounded_time(guest: Guest, way: Way) -> None:
    served = Served(guest, way)
    guest.run(f"dd if=/dev/zero of={served.device} bs=64k count=16", check=True)
    served.signal_driver("STOP")
    served.job.signal(signal.SIGTERM)
    time.sleep(2)  # nothing is to happen
    assert not served.job.done.is_set()
    assert served.end(signal.SIGTERM) == 1
    assert "a signal ended the writing: data lost" in served.job.err
    nothing_is_left(guest, way)


def test_restart_can_be_declined(guest: Guest, way: Way) -> None:
    served = Served(guest, way, "--restart-time", "0")
    served.signal_driver("KILL")
    result = served.job.wait(60)
    assert result.code == 1
    assert f"{served.child} was killed by SIGKILL" in result.err
    nothing_is_left(guest, way)


@contextmanager
def no_other_driver(guest: Guest, way: Way, served: Served, program: str) -> Iterator[None]:
    """Whoever starts the driver meanwhile gets that program instead."""
    if way.export == "usrloop":
        wait(lambda: not guest.run("pgrep -x usrdrv-standby").code, 60, "standby")
    (guest.share / "instead").write_text(
        f"#!/bin/sh\n{program}\n"
        if way.export == "nbd"
        else f"import os\nos._exit(os.waitstatus_to_exitcode(os.system({program!r})))\n"
    )
    guest.run(
        "cp /share/instead /tmp/instead && chmod +x /tmp/instead && "
        f"mount --bind /tmp/instead {way.program}",
        check=True,
    )
    try:
        if way.export == "usrloop":  # the process that waits is from before
            guest.run("pkill -9 -x usrdrv-standby", check=True)
            wait(lambda: "standby was killed" in served.job.err, 60, "its death")
        yield
    finally:
        guest.run(f"umount {way.program}", check=True)


@pytest.mark.parametrize(
    ("program", "why"),
    [("sleep 1000", "3 s"), ("exit 4", "ended with status 4")],
    ids=["hangs", "fails"],
)
def test_requests_wait_for_a_driver_so_long_and_no_longer(
    guest: Guest, way: Way, program: str, why: str
) -> None:
    """Those under way and those that come while it is away: I/O errors in time."""
    served = Served(guest, way, "--restart-time", "3")
    device = served.device
    if way.export == "nbd":
        assert guest.run(f"cat /sys/block/{Path(device).name}/queue/io_timeout").out == "2000\n"
    with no_other_driver(guest, way, served, program):
        dd = f"dd if=/dev/zero of={device} bs=4k oflag=direct seek=%d"
        before = sectors_written(guest, device)
        under_way = guest.start(dd % 0)
        wait(lambda: sectors_written(guest, device) > before + 800, 60, "I/O before the kill")
        begun = time.monotonic()
        served.signal_driver("KILL")
        late = guest.start(dd % 4096)
        for job in (under_way, late):
            result = job.wait(120)
            assert result.code == 1 and "Input/output error" in result.err
        assert time.monotonic() - begun > 2.5, "restart time"
        served_result = served.job.wait(60)
    assert served_result.code == 1
    last = served_result.err.splitlines()[-1]
    assert "was killed by SIGKILL and does not come back" in last and why in last
    nothing_is_left(guest, way)


def test_ctrl_c_while_the_driver_is_away(guest: Guest, way: Way) -> None:
    served = Served(guest, way)
    with no_other_driver(guest, way, served, "sleep 1000"):
        (pid,) = guest.run(f"pgrep -x {way.process}", check=True).out.split()
        served.signal_driver("KILL")
        wait(lambda: guest.run(f"kill -0 {pid}").code == 1, 60, "its death is noticed")
        served.job.signal(signal.SIGINT)
        result = served.job.wait(120)
    assert result.code == 1 and "while its driver was down" in result.err
    nothing_is_left(guest, way)


def test_what_is_in_use_is_detached_only_when_told_twice_and_synced_then(
    guest: Guest, way: Way
) -> None:
    """A file system with an open file, in no mount table any more."""
    served = Served(guest, way)
    guest.run(f"mkfs.ext4 -q {served.device} && mount {served.device} /mnt", 60, check=True)
    holder = guest.start("exec 9>/mnt/file; head -c 1M /dev/urandom >&9; echo yes; exec sleep 900")
    wait(lambda: "yes" in holder.out or holder.done.is_set(), 60, "a file is open")
    written = guest.run("sha256sum </mnt/file && umount -l /mnt", check=True).out
    served.job.signal(signal.SIGINT)
    wait(lambda: "still serving" in served.job.err or served.job.done.is_set(), 60, "an answer")
    assert f"{served.device} is in use (a file system or program that" in served.job.err
    assert served.end(signal.SIGTERM) == 1
    assert "detached while in use" in served.job.err
    holder.signal(signal.SIGKILL)
    holder.wait(60)
    served = Served(guest, way)
    guest.run(f"mount {served.device} /mnt", 60, check=True)
    assert guest.run("sha256sum </mnt/file && umount /mnt", 60, check=True).out == written
    assert served.end() == 0, served.job.err
    nothing_is_left(guest, way)


def test_killed_itself_it_leaves_nothing(guest: Guest, way: Way) -> None:
    served = Served(guest, way)
    served.job.signal(signal.SIGKILL)
    served.job.wait(60)
    wait(lambda: not guest.run(way.left).out, 60, "the block device and the driver are gone")
    wait(
        lambda: driver(guest) == "pata_sil680",
        30,
        "the kernel's driver has it again",
    )
