# SPDX-License-Identifier: MIT
"""A driver that errs: it crashes, takes its device for gone, or meets a drive's errors."""

from __future__ import annotations

import re

import pytest

from tests.lab.block.ways import USRLOOP, Served, Way, nothing_is_left
from tests.lab.helpers.disks import ADDRESS, LOAD
from tests.lab.helpers.kmod import wait
from tests.lab.helpers.loads import again_and_again, all_was_verified, finish, fio, gets_on, writing
from tests.model_faults import broken, left
from tests.waiting import at_best
from usrdrv.lab.guest import Guest
from usrdrv.lab.models import Model

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
        load = writing(guest, device)
        for number in (1, 2):
            gets_on(guest, device, load, sectors=128)
            guest.run("touch /tmp/doubt", check=True)
            served.restarted(number)
        assert "device is gone" in served.job.err, "the driver's own line"
        gets_on(guest, device, load)
        finish(guest, load)
        assert not re.search(r"I/O error", guest.kernel_log(log))
        assert served.end() == 0, served.job.err
    finally:
        guest.run(f"umount {source}", check=True)
    nothing_is_left(guest, way)


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param("/mnt/core", id="file", marks=pytest.mark.rare),
        pytest.param("|/bin/sh -c cat>/mnt/core", id="pipe"),
    ],
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
        load = again_and_again(guest, fio("--directory=/mnt", size=LOAD))
        gets_on(guest, device, load, sectors=512)
        served.signal_driver("SEGV")
        served.restarted(1)
        finish(guest, load)
        all_was_verified(load, LOAD)
        assert not re.search(r"I/O error|EXT4-fs error|Buffer I/O", guest.kernel_log(log))
        assert guest.run("test -e /mnt/core").code == 1
        names = f"{way.process} usrdrv-standby" if way.export == "usrloop" else way.process
        badness = f"for name in {names}; do cat /proc/$(pgrep -x $name)/oom_score_adj; done"
        wait(lambda: set(guest.run(badness).out.split()) == {"-1000"}, 60, "badness of all")
    finally:
        guest.run("umount /mnt; echo core >/proc/sys/kernel/core_pattern", check=True)
    assert served.end() == 0, served.job.err
    nothing_is_left(guest, way)


def interrupts(guest: Guest) -> int:
    """How many the controller's line had."""
    irq = guest.run(f"cat /sys/bus/pci/devices/{ADDRESS}/irq", check=True).out.strip()
    line = guest.run(f"grep -w '^ *{irq}:' /proc/interrupts", check=True).out
    return int(line.split()[1])


@pytest.mark.kernel_log(allow=[r"I/O error, dev usrblk0"])
def test_a_driver_that_polls_keeps_its_interrupt_after_errors(guest: Guest, model: Model) -> None:
    """A driver that busy-polls the chip owes the interrupt's acknowledgement; errors of commands come in between.

    Without it there is none any more: every command that takes longer than the polling ends when somebody looks for
    hung ones.
    """
    way = USRLOOP
    served = Served(guest, way, "--poll-us", "50")
    device = served.device
    guest.run(f"mkfs.ext4 -q -F {device} && mount {device} /mnt", 120, check=True)
    log = guest.console.position()
    load = again_and_again(guest, fio("--directory=/mnt", size=LOAD))
    for kind in ("crc", "dma-abort") * 2:
        gets_on(guest, device, load, sectors=512)
        with broken(model.control, {"kind": kind, "on": "write", "count": 1}):
            wait(lambda: not left(model.control), 60, f"{kind} is met")
    finish(guest, load)
    all_was_verified(load, LOAD)
    assert not re.search(r"I/O error|EXT4-fs error|Buffer I/O", guest.kernel_log(log))
    # One that fails is ended by another thread, which wakes the one that owes.
    with broken(model.control, {"kind": "bad-sector", "lba": 80 << 10, "sectors": 8, "on": "read"}):
        read = f"dd if={device} of=/dev/null bs=4k skip=10k count=1 iflag=direct"
        for _ in range(3):
            assert "Input/output error" in guest.run(read, 60).err

    def reads() -> int:
        before = interrupts(guest)
        guest.run(f"dd if={device} of=/dev/null bs=4k count=8 iflag=direct", 60, check=True)
        return interrupts(guest) - before

    with broken(model.control, {"kind": "slow", "seek_ms": 5, "on": "read"}):
        # On a busy host a read may have ended before the driver polls.
        at_best(reads, lambda came: came >= 8, "an interrupt for each of 8 reads", 200)
    guest.run("umount /mnt", check=True)
    guest.run(f"e2fsck -fn {device}", 120, check=True)
    assert served.end() == 0 and not served.restarts, served.job.err
    nothing_is_left(guest, way)
