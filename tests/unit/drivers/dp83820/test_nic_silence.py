# SPDX-License-Identifier: MIT
"""A chip whose reset does not end: it has no bus any more before its memory is given back."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.drivers.dp83820.nic_pair import Pair
from usrdrv.base import errors
from usrdrv.drivers.dp83820 import driver
from usrdrv.drivers.dp83820._dp83820 import lib
from usrdrv.drivers.dp83820.chip import MASTER

COMMAND = 0x04


class Library:
    """The driver's C part; notes whether the chip had the bus when memory was given back."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self.had_bus: list[bool] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    _real = lib

    def dp_destroy(self, dp: Any) -> None:
        self.had_bus.append(has_bus(self._pair))
        self._real.dp_destroy(dp)


def has_bus(pair: Pair) -> bool:
    return bool(pair.a.device.config_read(COMMAND, 2) & MASTER)


def receives(pair: Pair) -> bool:
    """Whether the model still takes frames in, and so would write to memory if it could."""
    before = pair.a.counter("rx_frames")
    pair.b.send(pair.a.mac + pair.b.mac + pair.frame(100)[12:])
    return bool(pair.a.nothing(0.3)) and pair.a.counter("rx_frames") > before


def test_a_chip_that_resets_is_silent_without_that(monkeypatch: pytest.MonkeyPatch) -> None:
    with Pair() as pair:
        library = Library(pair)
        monkeypatch.setattr(driver, "lib", library)
        pair.a.nic.set_mtu(9000)
        assert library.had_bus == [True] and pair.a.nic.failure is None
        monkeypatch.undo()


@pytest.mark.parametrize("count", ["", "count=1"])
def test_close(count: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Pair() as pair:
        library = Library(pair)
        monkeypatch.setattr(driver, "lib", library)
        pair.a.fault("stuck-reset", *count.split())
        pair.a.nic.close()
        assert library.had_bus == [False] and not has_bus(pair)
        assert not receives(pair)
        monkeypatch.undo()


def test_mtu(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is changed with new rings: there are none for a chip that may still have the old ones."""
    with Pair() as pair:
        library = Library(pair)
        monkeypatch.setattr(driver, "lib", library)
        pair.a.fault("stuck-reset")
        with pytest.raises(errors.DeviceError, match="register 0x00 is stuck at"):
            pair.a.nic.set_mtu(9000)
        assert library.had_bus == [False] and not has_bus(pair)
        assert not receives(pair)
        failure = pair.a.nic.failure
        assert failure is not None and "is stuck" in str(failure)
        assert not isinstance(failure, errors.NoSuchDeviceError) and pair.a.changes
        monkeypatch.undo()


def test_a_driver_does_not_begin_with_it() -> None:
    """What the last driver left behind may still be received into."""
    with Pair() as pair:
        pair.a.fault("stuck-reset")
        pair.a.nic.close()
        with pytest.raises(errors.DeviceError, match="is stuck"):
            driver.Nic(pair.a.device)
        assert not has_bus(pair)


def test_a_refused_mtu_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no memory for larger buffers: the old ones are there again."""
    with Pair() as pair:
        refused: list[int] = []

        class Poor(Library):
            def dp_create(self, device: Any, config: Any, out: Any) -> int:
                if config.mtu == 9000:
                    refused.append(config.mtu)
                    return -12
                return int(lib.dp_create(device, config, out))

        monkeypatch.setattr(driver, "lib", Poor(pair))
        with pytest.raises(errors.DeviceError, match="DMA memory"):
            pair.a.nic.set_mtu(9000)
        assert refused == [9000] and pair.a.nic.mtu == 1500 and pair.a.nic.failure is None
        monkeypatch.undo()
        with pytest.raises(errors.UsageError, match="MTU 9001 is not between 68 and 9000"):
            pair.a.nic.set_mtu(9001)
        pair.a.send(pair.frame(1514))
        assert pair.b.receive().frame == pair.frame(1514)
