# SPDX-License-Identifier: MIT
"""What open_device() promises, kept by each kind of name that works without a PCI function of this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.host.running import children
from usrdrv.base import errors
from usrdrv.device import Device, open_device
from usrdrv.lab.models import Model

COMMAND = 4
MEMORY_AND_IO = 3


@dataclass(frozen=True)
class Kind:
    """A name; what its function is, and a register that says the same each time: a BAR and an offset."""

    name: str
    ids: int
    register: tuple[int, int]


KINDS = (
    Kind("model:cmd680?ram=1M", 0x06801095, (5, 0xA4)),
    Kind("model:dp83820?wire=loop", 0x0022100B, (1, 0x58)),
    Kind("vfio-user:cmd680", 0x06801095, (5, 0xA4)),
    Kind("vfio-user:dp83820", 0x0022100B, (1, 0x58)),
    Kind("qemu:edu", 0x11E81234, (0, 0)),
    Kind("qemu:nvme?serial=1", 0x00101B36, (0, 0)),
    Kind("qemu:e1000e", 0x10D38086, (0, 0x5400)),
    Kind("qemu:igb", 0x10C98086, (0, 0x5400)),
    Kind("qemu:rtl8139", 0x813910EC, (1, 0)),
    Kind("qemu:ich9-ahci", 0x29228086, (5, 0x10)),
)
"""Registers: SiI0680 task file timing; DP83820 SRR; edu, NVMe CAP, MAC address, AHCI version."""
APART = [kind for kind in KINDS if not kind.name.startswith("model:")]
"""Those whose device is in another process."""
MODELS = {"cmd680": ("--ram", "1M"), "dp83820": ("--option", "wire=loop")}


@dataclass(frozen=True)
class Opened:
    device: Device
    kind: Kind
    end: Callable[[], None]
    """Kills the process that provides the device."""


def _name(kind: Kind) -> str:
    return kind.name.partition("?")[0]


@pytest.fixture(params=KINDS, ids=_name)
def opened(request: pytest.FixtureRequest) -> Iterator[Opened]:
    kind: Kind = request.param
    scheme, _, what = kind.name.partition(":")
    with ExitStack() as stack:
        name, before = kind.name, children(os.getpid())
        if scheme == "vfio-user":
            name = stack.enter_context(Model(what, *MODELS[what])).name
        device = stack.enter_context(open_device(name))
        providers = children(os.getpid()) - before

        def end() -> None:
            for pid in providers:
                os.kill(pid, signal.SIGKILL)

        device.config_write(COMMAND, 2, device.config_read(COMMAND, 2) | MEMORY_AND_IO)
        yield Opened(device, kind, end)


def test_configuration_space(opened: Opened) -> None:
    device = opened.device
    assert device.config_read(0, 4) == opened.kind.ids
    assert device.config_read(0, 2) == opened.kind.ids & 0xFFFF
    assert device.config_read(2, 1) == opened.kind.ids >> 16 & 0xFF
    device.config_write(0x3C, 1, 0x5A)
    assert device.config_read(0x3C, 1) == 0x5A, "the interrupt line, which is the system's to write"


def test_registers(opened: Opened) -> None:
    device, (bar, offset) = opened.device, opened.kind.register
    assert all(bar.size & (bar.size - 1) == 0 for bar in device.bars) and device.bars[bar].size
    value = device.read32(bar, offset)
    assert value not in (0, 0xFFFFFFFF) and value == device.read32(bar, offset)


def test_accesses_that_cannot_be(opened: Opened) -> None:
    """Beyond a BAR, askew, in a BAR that is not there, wider than configuration space takes."""
    device, (bar, _) = opened.device, opened.kind.register
    size = device.bars[bar].size
    missing = next((i for i, b in enumerate(device.bars) if not b.size), None)
    accesses: list[Callable[[], object]] = [
        lambda: device.read32(bar, size),
        lambda: device.write32(bar, size, 0),
        lambda: device.read32(bar, size - 2),
        lambda: device.read32(bar, 1 << 40),
        lambda: device.read32(bar, 2),
        lambda: device.config_read(0, 8),
        lambda: device.config_read(4096, 4),
        *([] if missing is None else [lambda: device.read32(missing, 0)]),
    ]
    for access in accesses:
        with pytest.raises(errors.DeviceError, match="Invalid argument"):
            access()


def test_memory(opened: Opened) -> None:
    device = opened.device
    memory = device.dma_alloc(3 * 4096, align=1 << 16)
    assert memory.bus % (1 << 16) == 0 and memory.bus + memory.size - 1 <= 0xFFFFFFFF
    assert bytes(memory.buffer[:]) == bytes(3 * 4096)
    other = device.dma_alloc(4096)
    assert not memory.bus <= other.bus < memory.bus + 3 * 4096
    memory.buffer[0:4] = b"used"
    memory.free()
    memory.free()
    assert bytes(device.dma_alloc(3 * 4096, align=1 << 16).buffer[:4]) == bytes(4)
    with pytest.raises(errors.DeviceError, match="No space left"):
        device.dma_alloc(4096, limit=4095)


def test_interrupts_that_there_are(opened: Opened) -> None:
    """Each kind can be had, all at once; one more cannot."""
    device = opened.device
    assert not device.irq_wait(0)
    assert sum(device.vectors.values()) > 0
    for kind, number in device.vectors.items():
        if number:
            assert [i.number for i in device.irqs(number, kind)] == list(range(number))
            assert device.irq_kind == kind
            assert not any(interrupt.wait(0) for interrupt in device.irqs(1, kind))
            device.irq_unmask()
        with pytest.raises(errors.UsageError, match="asked for; there are:"):
            device.irqs(number + 1, kind)
    with pytest.raises(errors.UsageError, match="0 interrupts asked for"):
        device.irqs(0)


def test_reset(opened: Opened) -> None:
    device, register = opened.device, opened.kind.register
    before = device.read32(*register)
    device.reset()
    device.config_write(COMMAND, 2, device.config_read(COMMAND, 2) | MEMORY_AND_IO)
    assert device.read32(*register) == before
    assert not device.irq_wait(0)


@pytest.mark.parametrize("opened", APART, ids=_name, indirect=True)
def test_a_device_that_goes(opened: Opened) -> None:
    """Whoever provides it dies."""
    opened.end()
    device = opened.device
    with pytest.raises(errors.NoSuchDeviceError, match="device is gone"):
        device.irq_wait(None)
    with pytest.raises(errors.NoSuchDeviceError, match="device is gone"):
        device.read32(*opened.kind.register)


def test_closing(opened: Opened) -> None:
    device = opened.device
    memory = device.dma_alloc(4096)
    device.close()
    device.close()
    memory.free()
    with pytest.raises(errors.UsageError, match="device is closed"):
        device.read32(0, 0)
