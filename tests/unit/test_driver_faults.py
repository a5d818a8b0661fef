# SPDX-License-Identifier: MIT
"""Driver and model together: each fault, and what becomes of the requests that meet it.

Every test asserts the data, the counters and which request failed.
"""

import errno
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from waiting import PATIENCE, at_best, until

from usrdrv.base import errors
from usrdrv.device import Device, open_device
from usrdrv.devices.cmd680.faults import parse_fault
from usrdrv.drivers import open_driver
from usrdrv.drivers.ide_cmd680.driver import Controller, Drive

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
        return int(self.device.model.add_fault(parse_fault(list(words))))

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
    """Four requests wait behind a slow one and are merged; one of them has a bad sector."""
    data = pattern(64)
    rig.write(0, data)
    rig.fault("bad-sector", "lba=20", "on=read")

    def merged() -> int:
        """Return how many were merged: those whose threads came in time."""
        slow = rig.fault("slow", "mbps=0.1", "seek_ms=150")
        results: dict[int, bytes | errors.UsrdrvError] = {}

        def read(sector: int) -> None:
            try:
                results[sector] = rig.read(sector, 8)
            except errors.UsrdrvError as error:
                results[sector] = error

        before = rig.count("merged")
        threads = [threading.Thread(target=read, args=(sector,)) for sector in (48, 0, 8, 16, 24)]
        for thread in threads:
            thread.start()
            time.sleep(0.01)  # in time, or it is tried again
        assert rig.device.model is not None
        rig.device.model.clear_fault(slow)
        for thread in threads:
            thread.join(PATIENCE)
        bad = results.pop(16)
        assert isinstance(bad, errors.UsrdrvError)
        assert bad.errno == errno.EIO
        assert results == {s: data[s * SECTOR : (s + 8) * SECTOR] for s in (48, 0, 8, 24)}
        return rig.count("merged") - before

    at_best(merged, lambda count: count >= 3, "merged")


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
        failed: list[errors.UsrdrvError] = []
        thread = threading.Thread(target=lambda: failed.append(rig.read_error(0, 8)))
        thread.start()
        meanwhile = 0
        while thread.is_alive():
            assert rig.read(0, 8, 2) == data
            meanwhile += rig.count("timeouts") < 3
        thread.join()
        assert failed[0].errno == errno.EIO
        assert rig.count("timeouts") == 3
        assert meanwhile > 0
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
        rig.fault("slow", "seek_ms=300", "on=read", "count=1")
        read: list[bytes] = []
        thread = threading.Thread(target=lambda: read.append(rig.read(0, 8)))
        thread.start()
        model = rig.device.model
        assert model is not None
        until(lambda: model.counters()["drives"][0]["reads"])
        rig.fault("spurious-irq", "drive=0")
        until(lambda: rig.count("spurious"))
        thread.join()
        assert read == [data]
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
    until(lambda: not rig.device.read8(5, 0xA1) & 8)
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
    """Two slow drives take as long as one: 1 MiB at 5 MB/s is 0.2 s each."""
    with open_rig("ram=16M&ram2=16M", timeout=5.0) as rig:
        for index in (0, 2):
            rig.write(0, pattern(2048, index), index)
        rig.fault("slow", "mbps=5")

        def both() -> float:
            started = time.monotonic()
            threads = [threading.Thread(target=rig.read, args=(0, 2048, index)) for index in (0, 2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return time.monotonic() - started

        assert at_best(both, lambda took: took < 0.38, "both at once") > 0.19


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


def test_health_is_asked_between_commands(rig: Rig) -> None:
    rig.fault("bad-sector", "lba=8")
    rig.read_error(8, 1)
    assert pending(rig) == 0
    stop = threading.Event()
    data = bytes(range(256)) * 2

    def load() -> None:
        while not stop.is_set():
            rig.write(100, data)

    writing = threading.Thread(target=load)
    writing.start()
    try:
        for _ in range(10):
            rig.controller.ask_health()
            assert pending(rig) == 1
    finally:
        stop.set()
        writing.join()
    assert rig.read(100, 1) == data
    assert rig.recovery()["resets"] == 0
