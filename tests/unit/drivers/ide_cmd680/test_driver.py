# SPDX-License-Identifier: MIT
"""Driver and model together: bring-up, modes, all drives, both register windows, big drives."""

import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import PATIENCE
from usrdrv.base import errors
from usrdrv.device import open_device
from usrdrv.drivers import open_driver
from usrdrv.drivers.ide_cmd680 import modes

MIB = 1 << 20
PATIENT: Any = {"timeout": PATIENCE, "lost_timeout": PATIENCE}
"""No command of a busy machine counts as hung, nor is its interrupt looked for."""


def data_of(seed: int, size: int) -> bytes:
    return hashlib.shake_128(seed.to_bytes(4, "little")).digest(size)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("ram=1M", "UDMA6"),
        ("ram=1M&cable0=40", "UDMA2"),
        ("ram=1M&udma=4", "UDMA4"),
        ("ram=1M&udma=none", "MWDMA2"),
        ("ram=1M&udma=none&mwdma=none", "PIO4"),
    ],
)
def test_the_mode_is_what_drive_cable_and_controller_share(query: str, expected: str) -> None:
    with open_device(f"model:cmd680?strict=1&{query}") as device, open_driver(device) as controller:
        drive = controller.drives[0]
        assert drive.mode == expected
        drive.block.write_from(data_of(1, 65536), 512)
        drive.block.flush()
        back = bytearray(65536)
        drive.block.read_into(back, 512)
        assert back == data_of(1, 65536)
        counters = device.model.counters()
        assert counters["drives"][0]["mode_mismatch"] == 0
        assert counters["drives"][0]["crc_errors"] == 0
        assert counters["tf_while_dma"] == 0
        assert counters["unexpected"] == 0


def test_config_space_after_bring_up() -> None:
    """Section 14.1: drive 0 in UDMA 6 on an 80-wire cable, channel 1 empty."""
    with open_device("model:cmd680?strict=1&ram=1M") as device, open_driver(device):
        assert device.config_read(0x0C, 1) == 0x01
        assert device.config_read(0x80, 1) == 0x03
        assert device.config_read(0x84, 1) == 0x00
        assert device.config_read(0x8A, 1) == 0x11
        assert device.config_read(0xA0, 4) & ~0x800 == 0x10C1_6201
        assert device.config_read(0xA4, 4) == 0x62DD_10C1
        assert device.config_read(0xA8, 4) == 0x4392_10C1
        assert device.config_read(0xAC, 4) == 0x4009_4001
        assert device.config_read(0xB0, 4) & 0xFFFF_FF00 == 0x328A_6200
        assert device.config_read(0xB4, 4) == 0x62DD62DD
        assert device.config_read(0xB8, 4) == 0x43924392
        assert device.config_read(0xBC, 4) == 0x40094009


def test_no_bus_before_the_engines_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim of a function that cannot be reset may find them at the last driver's transfers."""
    with open_device("model:cmd680?strict=1&ram=1M") as device:
        device.config_write(4, 2, 3)
        engines = (0, 8)
        running: list[int] = []
        for engine in engines:
            device.write8(4, engine, 1)
        assert all(device.read8(4, engine) & 1 for engine in engines)
        write = device.config_write

        def spy(at: int, width: int, value: int) -> None:
            if at == 4 and value & 4:
                running.extend(device.read8(4, engine) & 1 for engine in engines)
            write(at, width, value)

        monkeypatch.setattr(device, "config_write", spy)
        with open_driver(device):
            assert running == [0, 0]


@pytest.mark.parametrize("mmio", [True, False])
@pytest.mark.parametrize("mode", ["UDMA6", "PIO4"])
def test_four_drives_at_once_through_either_window(mmio: bool, mode: str) -> None:
    """Each drive gets data of its own from a thread of its own."""
    query = "&".join(f"ram{n or ''}=4M" for n in range(4))
    size = MIB if mode == "UDMA6" else 65536
    wrong: list[int] = []

    def work(drive: Any) -> None:
        data = data_of(drive.index, size)
        for offset in (0, 3 * MIB, 512):
            drive.block.write_from(data, offset)
            back = bytearray(size)
            drive.block.read_into(back, offset)
            if back != data:
                wrong.append(drive.index)

    with open_device(f"model:cmd680?strict=1&{query}") as device:
        highest = modes.parse(mode)
        with open_driver(device, mmio=mmio, highest_mode=highest, **PATIENT) as controller:
            assert [drive.index for drive in controller.drives] == [0, 1, 2, 3]
            assert {drive.mode for drive in controller.drives} == {mode}
            threads = [threading.Thread(target=work, args=(d,)) for d in controller.drives]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            stats: Any = controller.stats()
        assert wrong == []
        for channel in stats["channels"]:
            assert (channel["errors"], channel["timeouts"], channel["lost_interrupts"]) == (0, 0, 0)
            assert channel["sectors_written"] == 2 * 3 * size // 512


def test_a_drive_beyond_28_bits() -> None:
    sectors = (1 << 28) + 4096
    with (
        open_device(f"model:cmd680?strict=1&ram={sectors * 512}") as device,
        open_driver(device) as controller,
    ):
        block = controller.drives[0].block
        assert block.size == sectors * 512
        for sector in (0, (1 << 28) - 64, (1 << 28) + 128, sectors - 128):
            block.write_from(data_of(sector & 0xFFFF, 65536), sector * 512)
        for sector in (0, (1 << 28) - 64, (1 << 28) + 128, sectors - 128):
            back = bytearray(65536)
            block.read_into(back, sector * 512)
            assert back == data_of(sector & 0xFFFF, 65536)


def test_a_drive_without_lba48() -> None:
    with (
        open_device("model:cmd680?strict=1&ram=8M&lba48=0") as device,
        open_driver(device) as controller,
    ):
        block = controller.drives[0].block
        assert not block.can_trim
        data = data_of(5, 2 * MIB)
        block.write_from(data, MIB, fua=True)
        back = bytearray(2 * MIB)
        block.read_into(back, MIB)
        assert back == data


def test_trimmed_sectors_are_given_back_to_the_image(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(data_of(1, 4 * MIB))
    before = image.stat().st_blocks
    with (
        open_device(f"model:cmd680?strict=1&image={image}") as device,
        open_driver(device) as controller,
    ):
        block = controller.drives[0].block
        assert block.can_trim
        block.trim(MIB, 2 * MIB)
        block.flush()
    assert image.stat().st_blocks <= before - 2 * MIB // 512
    content = image.read_bytes()
    assert content[:MIB] == data_of(1, 4 * MIB)[:MIB]
    assert content[3 * MIB :] == data_of(1, 4 * MIB)[3 * MIB :]


def test_what_is_written_is_in_the_image(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(8 * MIB)
    data = data_of(9, MIB)
    with (
        open_device(f"model:cmd680?strict=1&image={image}") as device,
        open_driver(device) as controller,
    ):
        controller.drives[0].block.write_from(data, 5 * MIB)
        controller.drives[0].block.flush()
        assert device.model.counters()["drives"][0]["flushes"] == 1
    assert image.read_bytes()[5 * MIB : 6 * MIB] == data


def test_no_drive_at_all() -> None:
    with open_device("model:cmd680?strict=1") as device, open_driver(device) as controller:
        assert controller.drives == (None, None, None, None)


def test_identity_and_health() -> None:
    with open_device("model:cmd680?strict=1&ram=64M&serial=S1&model=DISK&rpm=7200") as device:
        with open_driver(device) as controller:
            drive = controller.drives[0]
            assert (drive.identity.serial, drive.identity.model) == ("S1", "DISK")
            assert drive.identity.size == 64 * MIB
            assert drive.block.rotational
            assert drive.smart is not None
            assert drive.smart.healthy
            assert drive.smart.attributes


def test_register_accesses_per_request() -> None:
    """Counted by the model: two reads for a DMA command once its drive is selected."""
    device = open_device("model:cmd680?strict=1&ram=4M")
    with device, open_driver(device, **PATIENT) as controller:
        block = controller.drives[0].block
        buf = bytearray(4096)
        block.read_into(buf, 0)
        before = device.model.counters()
        for n in range(100):
            block.read_into(buf, n * 4096)
        after = device.model.counters()
        assert after["register_reads"] - before["register_reads"] == 200
        assert after["register_writes"] - before["register_writes"] == 900
        assert after["interrupts"] - before["interrupts"] == 100


def test_requests_after_close_fail_at_once() -> None:
    with open_device("model:cmd680?strict=1&ram=4M") as device:
        controller = open_driver(device)
        controller.close()
        controller.close()
        assert not device.config_read(4, 2) & 4


def test_read_only(tmp_path: Path) -> None:
    with open_device("model:cmd680?strict=1&ram=4M") as device:
        with open_driver(device, read_only=True) as controller:
            block = controller.drives[0].block
            assert block.read_only
            with pytest.raises(errors.UsrdrvError, match="Read-only"):
                block.write_from(bytes(512), 0)
            assert device.model.counters()["drives"][0]["writes"] == 0
