# SPDX-License-Identifier: MIT
"""Driver and model together: each fault, and what becomes of the requests that meet it.

Every test asserts the data, the counters and which request failed.
"""

import errno
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.waiting import PATIENCE, at_best, until
from usrdrv.base import errors
from usrdrv.device import Device, open_device
from usrdrv.devices.cmd680.faults import Fault
from usrdrv.drivers import open_driver
from usrdrv.drivers.ide_cmd680 import _cmd680
from usrdrv.drivers.ide_cmd680.driver import Controller, Drive

ffi, lib = _cmd680.ffi, _cmd680.lib

SECTOR = 512
QUICK = {"timeout": 0.4, "lost_timeout": 0.1, "reset_timeout": 0.3}


class Rig:
    """A controller over an in-process model."""

    def __init__(self, device: Device, controller: Controller) -> None:
        self.device = device
        self.controller = controller

    def drive(self, index: int = 0) -> Drive:
        drive = self.controller.drives[index]
        assert drive is not None
        return drive

    def fault(self, *words: str) -> int:
        assert self.device.model is not None
        return int(self.device.model.add_fault(Fault.parse(list(words))))

    def recovery(self, index: int = 0) -> dict[str, Any]:
        drives: Any = self.controller.stats()["drives"]
        return dict(drives[str(index)])

    def count(self, name: str, channel: int = 0) -> int:
        channels: Any = self.controller.stats()["channels"]
        return int(channels[channel][name])

    def write(self, sector: int, data: bytes, index: int = 0) -> None:
        self.drive(index).block.write_from(data, sector * SECTOR)

    def read(self, sector: int, sectors: int, index: int = 0) -> bytes:
        buf = bytearray(sectors * SECTOR)
        self.drive(index).block.read_into(buf, sector * SECTOR)
        return bytes(buf)

    def read_error(self, sector: int, sectors: int, index: int = 0) -> errors.UsrdrvError:
        with pytest.raises(errors.UsrdrvError) as caught:
            self.read(sector, sectors, index)
        return caught.value

    def before_decision(self, do: Callable[[], object]) -> None:
        """Have the control plane do that before each decision: the channel is frozen meanwhile."""
        controller: Any = self.controller
        decide = controller._decide

        def doing(*arguments: Any) -> Any:
            do()
            return decide(*arguments)

        controller._decide = doing


@contextmanager
def open_rig(query: str = "ram=16M", **options: Any) -> Iterator[Rig]:
    with open_device(f"model:cmd680?strict=1&{query}") as device:
        with open_driver(device, **(QUICK | options)) as controller:
            yield Rig(device, controller)
        assert device.model is not None
        counters = device.model.counters()
        assert not any(counters[f"refused_{what}"] for what in ("timings", "accesses", "prds"))


@pytest.fixture
def rig() -> Iterator[Rig]:
    with open_rig() as rig:
        yield rig


def pattern(sectors: int, seed: int = 1) -> bytes:
    return bytes((seed * 31 + i * 7 + (i >> 9) * 13) & 0xFF for i in range(sectors * SECTOR))


def test_a_bad_sector_fails_that_request_alone(rig: Rig) -> None:
    data = pattern(32)
    rig.write(0, data)
    rig.fault("bad-sector", "lba=13", "on=read")
    error = rig.read_error(8, 8)
    assert error.errno == errno.EIO
    assert "sector 8" in str(error)
    assert rig.read(0, 8) == data[: 8 * SECTOR]
    assert rig.read(16, 16) == data[16 * SECTOR :]
    assert rig.recovery()["media_errors"] == 2  # the retry met it again
    assert rig.recovery()["resets"] == 0
    assert rig.drive().mode == "UDMA6"


def test_neighbours_merged_with_a_bad_sector_survive(rig: Rig) -> None:
    """Four requests that wait for a paused channel are merged; one of them has a bad sector."""
    data = pattern(32)
    rig.write(0, data)
    rig.fault("bad-sector", "lba=20", "on=read")
    block = rig.drive().block._block
    waiting = threading.Semaphore(0)
    leave = ffi.callback("void(struct usrdrv_gate *)", lambda gate: waiting.release())
    results: dict[int, tuple[int, bytes]] = {}

    def read(sector: int) -> None:
        found = ffi.new("char[]", 8 * SECTOR)
        gate = ffi.new("struct usrdrv_gate *", {"leave": leave})
        error = block.ops.submit_wait(
            block, lib.USRDRV_BLOCK_READ, sector * SECTOR, 8 * SECTOR, found, 0, gate
        )
        results[sector] = error, ffi.buffer(found)[:]

    threads = [threading.Thread(target=read, args=(sector,)) for sector in (0, 8, 16, 24)]
    left = list(threads)

    def all_wait() -> None:
        while left:
            left.pop()
            assert waiting.acquire(timeout=PATIENCE)

    rig.before_decision(all_wait)
    assert rig.controller._front.pause(0)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert rig.count("merged") == 3
    assert results.pop(16)[0] == -errno.EIO
    assert results == {s: (0, data[s * SECTOR : (s + 8) * SECTOR]) for s in (0, 8, 24)}


def test_one_crc_error_is_retried_at_full_speed(rig: Rig) -> None:
    data = pattern(8)
    rig.write(0, data)
    rig.fault("crc", "count=1")
    assert rig.read(0, 8) == data
    recovery = rig.recovery()
    assert (recovery["crc_errors"], recovery["resets"], recovery["speed_downs"]) == (1, 1, 0)
    assert rig.drive().mode == "UDMA6"


def test_crc_errors_step_the_speed_down_until_it_works(rig: Rig) -> None:
    data = pattern(8)
    rig.write(0, data)
    rig.fault("crc", "above=2")
    assert rig.read(0, 8) == data
    assert rig.drive().mode == "UDMA2"
    recovery = rig.recovery()
    assert (recovery["crc_errors"], recovery["speed_downs"], recovery["pio_fallbacks"]) == (3, 2, 0)
    assert rig.read(0, 8) == data
    assert rig.recovery()["crc_errors"] == 3


def test_crc_errors_at_every_speed_end_in_pio_which_works(rig: Rig) -> None:
    data = pattern(200)
    rig.write(0, data)
    rig.fault("crc")
    assert rig.read(0, 200) == data
    assert rig.drive().mode == "PIO4"
    assert rig.recovery()["pio_fallbacks"] == 1
    rig.write(300, data)
    rig.drive().block.flush()
    assert rig.read(300, 200) == data


def test_in_zero_copy_a_drive_is_never_slowed_down_to_pio(rig: Rig) -> None:
    data = pattern(200)
    rig.write(0, data)
    rig.controller._zero_copied.add(0)
    rig.fault("crc")
    assert rig.read(0, 200) == data
    assert rig.drive().mode == "MWDMA0"
    fault = rig.fault("dma-abort", "count=0")
    for _ in range(4):
        assert rig.read_error(0, 8).errno == errno.EIO
    assert (rig.drive().mode, rig.recovery()["pio_fallbacks"]) == ("MWDMA0", 0)
    assert rig.device.model is not None
    rig.device.model.clear_fault(fault)
    assert rig.read(0, 200) == data


def test_a_hung_command_times_out_and_is_repeated(rig: Rig) -> None:
    data = pattern(8)
    rig.write(0, data)
    rig.fault("hang", "count=1")
    started = time.monotonic()
    assert rig.read(0, 8) == data
    assert time.monotonic() - started > 0.3
    assert rig.count("timeouts") == 1
    assert rig.recovery()["resets"] == 1


def test_a_command_that_always_hangs_fails_and_the_other_channel_goes_on() -> None:
    with open_rig("ram=16M&ram2=16M") as rig:
        data = pattern(8)
        rig.write(0, data, 2)
        rig.fault("hang", "drive=0", "on=read")
        meanwhile: list[bytes] = []
        rig.before_decision(lambda: meanwhile.append(rig.read(0, 8, 2)))
        assert rig.read_error(0, 8).errno == errno.EIO
        assert rig.count("timeouts") == 3
        assert meanwhile == [data] * 3
        rig.write(0, data)  # the drive itself is still in service


def test_a_lost_interrupt_is_noticed(rig: Rig) -> None:
    data = pattern(8)
    rig.write(0, data)
    rig.fault("lost-irq", "count=1")
    assert rig.read(0, 8) == data
    assert rig.count("lost_interrupts") == 1
    assert (rig.count("timeouts"), rig.count("errors")) == (0, 0)


def test_a_lost_interrupt_of_a_flush_is_noticed(rig: Rig) -> None:
    rig.fault("lost-irq", "count=1")
    rig.drive().block.flush()
    assert rig.count("lost_interrupts") == 1


def test_a_spurious_interrupt_is_counted_and_changes_nothing(rig: Rig) -> None:
    data = pattern(8)
    rig.fault("spurious-irq", "drive=0")
    until(lambda: rig.count("spurious"), "an interrupt")
    assert rig.count("spurious") == 1
    rig.write(0, data)
    assert rig.read(0, 8) == data


def test_a_glitch_during_a_command_changes_nothing() -> None:
    """The line is down again when the driver looks: it has the latch, and must not take the command for ended."""
    with open_rig(timeout=60.0, lost_timeout=60.0) as rig:
        data = pattern(8)
        rig.write(0, data)
        model = rig.device.model
        assert model is not None

        def reads() -> int:
            return int(model.counters()["drives"][0]["reads"])

        def during() -> bool:
            """Whether the command was at the chip before the glitch and after it."""
            begun, glitches, found = reads(), rig.count("spurious"), list[bytes]()
            rig.fault("slow", "seek_ms=300", "on=read", "count=1")
            thread = threading.Thread(target=lambda: found.append(rig.read(0, 8)))
            thread.start()
            until(lambda: reads() > begun, "the command at the chip")
            rig.fault("spurious-irq", "drive=0")
            until(lambda: rig.count("spurious") > glitches, "the glitch counted")
            under_way = not found
            thread.join()
            assert found == [data]
            assert rig.count("spurious") == glitches + 1
            return under_way

        at_best(during, bool, "a glitch during a command")
        assert (rig.count("errors"), rig.count("lost_interrupts")) == (0, 0)


def test_an_interrupt_whose_latch_is_clear_is_taken_back(rig: Rig) -> None:
    """A command that was given up may end after its latch was cleared; INTA# is up until status is read."""
    c = rig.device.c
    c.ops.irq_hold(c)
    rig.fault("spurious-irq", "drive=0")
    rig.device.write8(5, 0x02, 0x04)
    assert rig.device.read8(5, 0xA1) & 8
    assert not rig.device.read8(5, 0x02) & 4
    assert c.ops.irq_release(c) == 1
    rig.device.irq_unmask()
    until(lambda: not rig.device.read8(5, 0xA1) & 8, "INTA# is down")
    rig.write(0, pattern(8))
    assert rig.read(0, 8) == pattern(8)


def test_a_drive_stuck_busy_comes_back_with_a_hard_reset(rig: Rig) -> None:
    data = pattern(8)
    rig.write(0, data)
    rig.fault("stuck-bsy", "drive=0", "count=1")
    assert rig.read(0, 8) == data
    assert rig.recovery()["hard_resets"] == 1


def test_an_unplugged_drive_fails_and_its_neighbours_do_not() -> None:
    with open_rig("ram=16M&ram1=16M&ram2=16M") as rig:
        data = pattern(8)
        for index in (0, 1, 2):
            rig.write(0, data, index)
        rig.fault("unplug", "drive=0")
        assert rig.read_error(0, 8).errno == errno.EIO
        assert rig.recovery(0)["offline"]
        assert rig.read(0, 8, 1) == data
        assert rig.read(0, 8, 2) == data
        assert not rig.recovery(1)["offline"]
        commands = rig.count("commands")
        assert rig.read_error(0, 8).errno == errno.EIO
        assert rig.count("commands") == commands, "it is known to be gone"


def test_a_pci_abort_is_retried(rig: Rig) -> None:
    data = pattern(8)
    rig.write(0, data)
    rig.fault("dma-abort", "count=1")
    assert rig.read(0, 8) == data
    assert rig.recovery()["host_bus_errors"] == 1


def test_a_write_fault_is_retried_and_then_fails(rig: Rig) -> None:
    data = pattern(8)
    rig.fault("write-fault", "count=1")
    rig.write(0, data)
    assert rig.read(0, 8) == data
    assert rig.recovery()["faults"] == 1
    rig.fault("write-fault")
    with pytest.raises(errors.UsrdrvError) as caught:
        rig.write(8, data)
    assert caught.value.errno == errno.EIO
    assert rig.read(0, 8) == data


def test_both_channels_are_busy_at_once() -> None:
    """A command hangs on each, and neither is given up before the other one is at its chip."""
    with open_rig("ram=16M&ram2=16M") as rig:
        model = rig.device.model
        assert model is not None
        for index in (0, 2):
            rig.write(0, pattern(8, index), index)
            rig.fault("hang", f"drive={index}", "on=read", "count=1")
        rig.before_decision(lambda: until(lambda: not model.faults(), "both commands hang"))
        found: dict[int, bytes] = {}

        def read(index: int) -> None:
            found[index] = rig.read(0, 8, index)

        threads = [threading.Thread(target=read, args=(index,)) for index in (0, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert found == {index: pattern(8, index) for index in (0, 2)}
        assert [rig.count("timeouts", channel) for channel in (0, 1)] == [1, 1]


def test_requests_of_a_closed_controller_fail() -> None:
    with open_rig() as rig:
        block = rig.drive().block
        rig.controller.close()
        # the block is gone with its controller; closing twice is harmless
        rig.controller.close()
        assert block.pointer


def pending(rig: Rig) -> int:
    """Sectors that it cannot read, in the drive's own account."""
    smart = rig.drive().smart
    assert smart is not None
    return next(each.raw for each in smart.attributes if each.id == 197)


def test_health_is_asked_between_commands(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usrdrv.drivers.ide_cmd680.driver.HEALTH_TIMEOUT", PATIENCE)
    rig.fault("bad-sector", "lba=8")
    rig.read_error(8, 1)
    assert pending(rig) == 0
    stop = threading.Event()
    data = bytes(range(256)) * 2
    written = 0

    def load() -> None:
        nonlocal written
        while not stop.is_set():
            rig.write(100, data)
            written += 1

    def goes_on() -> None:
        before = written
        until(lambda: written > before, "a write")

    writing = threading.Thread(target=load)
    writing.start()
    try:
        for _ in range(10):
            goes_on()
            rig.controller.ask_health()
            assert pending(rig) == 1
        goes_on()
    finally:
        stop.set()
        writing.join()
    assert rig.read(100, 1) == data
    assert rig.recovery()["resets"] == 0
