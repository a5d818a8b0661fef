# SPDX-License-Identifier: MIT
"""Interrupts of all kinds, wide registers and BARs: a model in the process, and the same over vfio-user."""

import errno
import os
import select
from pathlib import Path

import pytest

from tests import irq_model
from tests.irq_model import LAST, LEVEL, MESSAGE, SIZE, WIDE, descriptors
from tests.waiting import PATIENCE
from usrdrv.base import errors
from usrdrv.device import Bar, Device, Interrupt

KINDS = ("msix", "msi")


@pytest.fixture(params=["in the process", "vfio-user"])
def path(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path | None:
    """Where the model is served, if it is."""
    monkeypatch.setenv("USRDRV_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setattr("usrdrv.device.REPLY_TIMEOUT_MS", 60_000)
    return tmp_path / "s" if request.param == "vfio-user" else None


def send(device: Device, vector: int) -> None:
    """Have the device send a message; it is where it goes when this returns."""
    device.write32(0, MESSAGE, vector)
    device.read32(0, LEVEL)


def came(irqs: list[Interrupt]) -> list[int]:
    """The numbers of those that have come, as often as they have."""
    ready, _, _ = select.select(irqs, [], [], 0)
    return [
        irq.number for irq in irqs if irq in ready for _ in range(os.eventfd_read(irq.fileno()))
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_each_vector_interrupts_by_itself(path: Path | None, kind: str) -> None:
    with irq_model.device(path) as device:
        irqs = device.irqs(device.vectors[kind], kind)
        assert device.irq_kind == kind and len(irqs) == {"msix": 20, "msi": 4}[kind]
        for irq in irqs:
            send(device, irq.number)
            assert came(irqs) == [irq.number]
        for number in (3, 0, 3):
            device.write32(0, MESSAGE, number)
        assert irqs[0].wait(PATIENCE) and irqs[3].wait(PATIENCE), "not masked by an interrupt"
        assert not device.irq_wait(0)
        device.irq_unmask()  # and there is nothing to unmask
        assert came(irqs) == []


def test_the_best_kind_that_has_so_many_is_taken(path: Path | None) -> None:
    with irq_model.device(path, msi=32) as device:
        assert device.vectors == {"msix": 20, "msi": 32, "intx": 1}
        assert device.irq_kind == "intx"
        for count, kind in ((1, "msix"), (20, "msix"), (21, "msi"), (32, "msi")):
            assert len(device.irqs(count)) == count
            assert device.irq_kind == kind


def test_more_than_there_are_is_refused(path: Path | None) -> None:
    with irq_model.device(path) as device:
        there = "there are: msix 20, msi 4, intx 1$"
        for count, kind in ((21, None), (21, "msix"), (5, "msi"), (2, "intx"), (0, None)):
            with pytest.raises(errors.UsageError, match=f"{count} {kind or 'interrupts'}.*{there}"):
                device.irqs(count, kind)
        device.write32(0, LEVEL, 1)
        assert device.irq_wait(PATIENCE), "what was connected is"


def test_vectors_that_the_function_does_not_have_are_not_connected(path: Path | None) -> None:
    with irq_model.device(path) as device:
        fds = [device.c.irq_fd] * 21
        for kind, count in ((0, 2), (1, 5), (2, 21), (3, 1), (2**32 - 1, 0)):
            assert device.c.ops.irq_connect(device.c, kind, fds, count) == -errno.EINVAL
        for vector in (20, 2**32 - 1):
            send(device, vector)
        assert not device.irq_wait(0)
        device.write32(0, LEVEL, 1)
        assert device.irq_kind == "intx" and device.irq_wait(PATIENCE), "what was connected is"


def test_one_kind_at_a_time(path: Path | None) -> None:
    """The model has its line up and sends messages alike; what is connected comes."""
    with irq_model.device(path) as device:
        device.write32(0, LEVEL, 1)
        assert device.irq_wait(PATIENCE)
        irqs = device.irqs(4, "msi")
        device.irq_unmask()
        assert came(irqs) == []
        send(device, 1)
        assert came(irqs) == [1]
        (line,) = device.irqs(1, "intx")
        assert line.wait(PATIENCE), "it is up still"
        send(device, 0)
        assert came([line]) == []
        irqs = device.irqs(20, "msix")
        assert came(irqs) == [0], "a message has waited"


def test_a_message_waits_for_its_vector_once(path: Path | None) -> None:
    with irq_model.device(path) as device:
        device.irqs(2)
        for _ in range(2):
            send(device, 5)
        irqs = device.irqs(6)
        assert came(irqs) == [5]
        for _ in range(2):
            assert device.c.ops.irq_connect(device.c, 2, [], 0) == 0
            assert device.irq_kind is None
        send(device, 1)
        assert came(irqs) == []
        device.reset()
        assert came(device.irqs(6)) == [], "a reset forgets it"


def test_a_function_without_intx(path: Path | None) -> None:
    with irq_model.device(path, intx=0) as device:
        assert device.vectors == {"msix": 20, "msi": 4, "intx": 0}
        assert device.irq_kind is None
        device.write32(0, LEVEL, 1)
        assert not device.irq_wait(0)
        with pytest.raises(errors.UsageError, match="1 intx asked for; there are: msix 20, msi 4$"):
            device.irqs(1, "intx")
        irqs = device.irqs(2)
        send(device, 1)
        assert came(irqs) == [1]
        device.irq_unmask()
        assert came(irqs) == []


def test_a_function_without_interrupts(path: Path | None) -> None:
    with irq_model.device(path, 0, 0, 0) as device:
        with pytest.raises(errors.UsageError, match="there are: none$"):
            device.irqs()
        device.write32(0, LEVEL, 1)
        send(device, 0)
        device.irq_unmask()
        assert not device.irq_wait(0)


def test_a_device_may_be_closed_while_interrupts_wait(path: Path | None) -> None:
    before = descriptors()
    with irq_model.device(path) as device:
        for count in (20, 1, 20):
            irqs = device.irqs(count)
            for irq in irqs:
                send(device, irq.number)
    assert descriptors() == before


def test_a_wide_bar_and_registers_beyond_64_kib(path: Path | None) -> None:
    with irq_model.device(path) as device:
        wide = Bar(SIZE, io=False, wide=True, prefetchable=True)
        assert device.bars == [wide, Bar(0, False), Bar(0x10000, False), *[Bar(0, False)] * 3]
        for at, value in ((WIDE, 0x0123456789ABCDEF), (LAST, 0xFEDCBA9876543210)):
            device.write64(0, at, value)
            assert device.read64(0, at) == value
            assert device.read32(0, at + 4) == value >> 32
            assert (device.read16(0, at), device.read8(0, at + 2)) == (
                value & 0xFFFF,
                value >> 16 & 0xFF,
            )
        assert device.read64(0, WIDE) == 0x0123456789ABCDEF, "another register"


def test_the_configuration_space_of_pci_express(path: Path | None) -> None:
    with irq_model.device(path) as device:
        assert device.config_read(0x100, 4) == 0x00010003
        assert device.config_read(0x104, 2) == 0xCDEF
