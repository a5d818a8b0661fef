# SPDX-License-Identifier: MIT
"""The dispatcher's look at busy channels, while another thread services an interrupt."""

import errno
import threading
from collections.abc import Callable
from typing import Any

from tests.unit.drivers.ide_cmd680.scripted_device import ScriptedDevice, ffi, lib, limits
from tests.waiting import PATIENCE

BM_CMD, BM_STATUS, STATUS = 0x00, 0x02, 0x87
ALT_OF_CHANNEL_1, COMMAND_OF_CHANNEL_1 = 0xCA, 0xC7
INT, START = 4, 1


class HeldDevice(ScriptedDevice):
    """Holds interrupts as the in-process backend does, and can stop a submitter that lets the next one through.

    The submitter services those that are held, whoever else holds them.
    Channel 0 ends a command when its engine is started, channel 1 never does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.script[ALT_OF_CHANNEL_1] = [0x80]
        self.script[STATUS] = [0x50]
        self.on_write = self.react
        self.lock = threading.Lock()
        self.masked = self.raised = self.pending = False
        self.holders = self.started = self.ended = 0
        self.early: list[int] = []
        self.submitter = 0
        self.before_service: Callable[[], object] = lambda: None
        self.before_unmask: Callable[[], object] = lambda: None
        self.looks = threading.Semaphore(0)
        self.working = threading.Event()
        for name, signature in (
            ("irq_hold", "void(struct usrdrv_dev *)"),
            ("irq_release", "int(struct usrdrv_dev *)"),
        ):
            callback = ffi.callback(signature, getattr(self, f"_{name}"))
            self._keep.append(callback)
            setattr(self.ops, name, callback)

    def react(self, offset: int, value: int) -> None:
        if offset == BM_CMD and value & START:
            self.started += 1
            self.script[BM_STATUS] = [INT]
            self.raised = True
            self._deliver()
        elif offset == BM_STATUS and value & INT:
            self.script[BM_STATUS] = [0]
            self.raised = False
        elif offset == COMMAND_OF_CHANNEL_1:
            self.working.set()

    def _deliver(self) -> None:
        with self.lock:
            if not self.raised or self.masked:
                return
            self.masked = True
            self.pending = self.holders > 0
            if not self.pending:
                self.interrupt()

    def _read(self, dev: Any, writes: Any, n: int, region: int, offset: int, *rest: Any) -> int:
        result = super()._read(dev, writes, n, region, offset, *rest)
        if offset == STATUS:
            self.ended += 1
            if self.ended > self.started:
                self.early.append(self.ended)
        return result

    def _irq_hold(self, dev: Any) -> None:
        if threading.get_ident() == self.submitter and self.started:
            self.before_service()
        with self.lock:
            self.holders += 1

    def _irq_release(self, dev: Any) -> int:
        if threading.get_ident() != self.submitter:
            self.looks.release()
        with self.lock:
            self.holders -= 1
            mine = self.pending and threading.get_ident() == self.submitter
            self.pending = self.pending and not mine
        return int(mine)

    def _irq_unmask(self, dev: Any, writes: Any, n: int) -> int:
        if threading.get_ident() == self.submitter:
            self.before_unmask()
        super()._irq_unmask(dev, writes, n)
        self.masked = False
        self._deliver()
        return 0


def once(do: Any) -> Any:
    left = [do]
    return lambda: left.pop()() if left else None


def test_a_look_at_a_channel_whose_next_command_waits_in_the_list_of_a_stopped_submitter() -> None:
    """It must not take the last command's interrupt for that of one that no drive has seen yet."""
    device = HeldDevice()
    out = ffi.new("struct ide **")
    assert lib.ide_create(device.dev, 1, out) == 0
    ide = out[0]
    front = lib.ide_front(ide)
    conf = {"sectors": 1 << 20, "physical_block": 512, "flush": 1, "dma": 1}
    for drive in (0, 2):
        assert lib.ide_configure(ide, drive, ffi.new("struct ide_drive_conf *", conf)) == 0
    lib.block_set_limits(front, limits())
    assert lib.block_start(front) == 0
    queued = threading.Event()
    leave = ffi.callback("void(struct usrdrv_gate *)", lambda gate: queued.set())
    gate = ffi.new("struct usrdrv_gate *", {"leave": leave})
    results: dict[str, int] = {}

    def submit(name: str, drive: int, sector: int, gate: Any = ffi.NULL) -> None:
        block, data = lib.block_top_end(front, drive), ffi.new("char[]", 512)
        if name == "first":
            device.submitter = threading.get_ident()
        results[name] = block.ops.submit_wait(
            block, lib.USRDRV_BLOCK_READ, sector * 512, 512, data, 0, gate
        )

    # One that never ends keeps the dispatcher looking.
    endless = threading.Thread(target=submit, args=("endless", 2, 0))
    second = threading.Thread(target=submit, args=("second", 0, 1000, gate))
    first = threading.Thread(target=submit, args=("first", 0, 0))

    def queue_another() -> None:
        second.start()
        assert queued.wait(PATIENCE)

    def stop_until_looked_at() -> None:
        lib.block_set_limits(front, limits(0))
        while device.looks.acquire(blocking=False):
            pass
        assert all(device.looks.acquire(timeout=PATIENCE) for _ in range(2))

    device.before_service = once(queue_another)
    device.before_unmask = once(stop_until_looked_at)
    endless.start()
    assert device.working.wait(PATIENCE)
    first.start()
    for thread in (first, second):
        thread.join(PATIENCE)
    lib.block_stop(front)
    endless.join(PATIENCE)
    lib.ide_destroy(ide)
    assert results == {"first": 0, "second": 0, "endless": -errno.ENODEV}
    assert device.started == 2
    assert device.early == [], "a command was completed before it was started"
