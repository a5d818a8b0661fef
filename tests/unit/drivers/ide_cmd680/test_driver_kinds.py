# SPDX-License-Identifier: MIT
"""Driver and model together: drives that are slow to start, that stay in standby, and CompactFlash cards."""

import logging
from typing import Any

import pytest

from usrdrv.device import Device, open_device
from usrdrv.drivers import open_driver
from usrdrv.drivers.ide_cmd680 import _cmd680, ports
from usrdrv.drivers.ide_cmd680.driver import Options
from usrdrv.drivers.ide_cmd680.ports import Channel, CommandError, CommandTimeoutError, TaskFile

R = _cmd680.lib
MIB = 1 << 20
DATA = bytes(range(256)) * 256


def opened(query: str) -> Device:
    return open_device(f"model:cmd680?strict=1&{query}")


def works(controller: Any, index: int = 0) -> bool:
    block = controller.drives[index].block
    block.write_from(DATA, 65536)
    block.flush()
    back = bytearray(len(DATA))
    block.read_into(back, 65536)
    return back == DATA


def test_drives_are_waited_for_until_they_have_spun_up() -> None:
    """A drive may take 31 s (section 7.3), whatever it is given in a reset later."""
    assert Options().spin_up_timeout == 31
    with opened("ram=1M&ram1=1M&ram3=1M&spinup=0.5&spinup1=0.8&spinup3=0.8") as device:
        with open_driver(device, reset_timeout=0.05) as controller:
            assert all(works(controller, index) for index in (0, 1, 3))


class Clock:
    """Time that passes in sleep() alone."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 0.001)


def test_a_long_wait_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    told: list[str] = []
    monkeypatch.setattr(ports, "time", clock)
    with opened("ram=1M&spinup=3600") as device:
        channel = Channel(device, 0, mmio=True, tell=told.append)
        with pytest.raises(CommandTimeoutError, match="not ready after 31 s"):
            channel.wait_ready(31)
    assert told == [
        f"channel 0: a drive is busy for {n} s, waiting up to 31 s" for n in (3, 13, 23)
    ]
    assert 31 < clock.now < 31.1


def test_a_drive_that_never_gets_ready_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with opened("ram=1M&spinup=3600&ram2=1M") as device:
        with open_driver(device, spin_up_timeout=0.2) as controller:
            assert controller.drives[0] is None
            assert works(controller, 2)
    assert any(": channel 0: not ready after 0." in text for text in caplog.messages)


@pytest.mark.parametrize("word", ["37c8", "738c", "8c73", "c837"])
def test_a_drive_in_standby_is_told_to_spin_up(word: str) -> None:
    """Word 2 of IDENTIFY, section 7.5."""
    with opened(f"ram=1M&puis={word}&spinup=0.3") as device, open_driver(device) as controller:
        drive = controller.drives[0]
        assert drive.identity.size == MIB and drive.mode == "UDMA6"
        assert works(controller)
        assert device.model.counters()["drives"][0]["errors"] == 0


def test_a_drive_that_lost_its_power_is_told_again() -> None:
    """It is back in standby, and that is found when a command gets no answer."""
    query = "ram=1M&puis=1&spinup=0.1"
    with opened(query) as device, open_driver(device, timeout=0.4) as controller:
        assert works(controller)
        model = device.model
        model.clear_fault(model.add_fault(model.fault_type.parse(["unplug", "drive=0"])))
        assert works(controller)
        assert not controller.drives[0].offline


@pytest.mark.parametrize("word", ["848a", "844a", "044a", "0040"])
@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("", "UDMA6"),
        ("&flush=0&lba48=0&udma=none", "MWDMA2"),
        ("&flush=0&lba48=0&udma=none&mwdma=none", "PIO4"),
    ],
    ids=["new", "without-flush", "without-dma"],
)
def test_a_compact_flash_card_is_a_disk(word: str, kind: str, mode: str) -> None:
    with opened(f"ram=1M&cfa={word}{kind}") as device:
        with open_driver(device) as controller:
            assert controller.drives[0].mode == mode
            assert controller.drives[0].identity.cfa == word.startswith("84")
            assert works(controller)
        counters = device.model.counters()["drives"][0]
        assert counters["errors"] == 0
        assert bool(counters["flushes"]) == ("flush=0" not in kind)


def test_a_card_may_refuse_to_be_told_its_pio_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in its default one then, the fastest without IORDY."""
    command = Channel.command

    def refuse(channel: Channel, device: int, tf: TaskFile, seconds: float = 15.0) -> Any:
        if (tf.command, tf.features) == (R.ATA_SET_FEATURES, R.ATA_SF_XFER_MODE):
            raise CommandError("drive 0", 0x51, 0x04)
        return command(channel, device, tf, seconds)

    monkeypatch.setattr(Channel, "command", refuse)
    with opened("ram=1M&cfa=1&udma=none&mwdma=none") as device:
        with open_driver(device) as controller:
            assert controller.drives[0].mode == "PIO2"
            assert device.config_read(0xA4, 2) == 0x1104
            assert works(controller)


def test_both_drives_are_asked_before_either_is_sped_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task file's timing is the channel's, and the second drive may be the slower one."""
    with opened("ram=1M&ram1=1M") as device:
        write, asked = device.config_write, []

        def spy(at: int, width: int, value: int) -> None:
            if (at, value) == (0xA2, 0x10C1):
                asked.append([drive["commands"] for drive in device.model.counters()["drives"][:2]])
            write(at, width, value)

        monkeypatch.setattr(device, "config_write", spy)
        with open_driver(device) as controller:
            assert works(controller, 1)
        assert asked and all(count for count in asked[0])


def test_a_packet_device_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By its signature (section 7.3)."""
    read = Channel.read

    def cd_rom(channel: Channel, register: int) -> int:
        if channel.number == 0:
            return {R.CMD680_TF_LBAM: 0x14, R.CMD680_TF_LBAH: 0xEB}.get(register) or read(
                channel, register
            )
        return read(channel, register)

    monkeypatch.setattr(Channel, "read", cd_rom)
    caplog.set_level(logging.WARNING)
    with opened("ram=1M&ram2=1M") as device, open_driver(device) as controller:
        assert controller.drives[0] is None
        assert works(controller, 2)
    assert any(
        "drive 0 is a packet device, such as a CD-ROM, not a disk" in t for t in caplog.messages
    )
