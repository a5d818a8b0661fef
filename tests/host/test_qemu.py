# SPDX-License-Identifier: MIT
"""`qemu:` names: devices of QEMU's, driven from here without a guest, and what goes wrong with them."""

from __future__ import annotations

import gc
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chips import E1000e, Edu, Nvme, enable, finish

import usrdrv.lab  # noqa: F401  whose QEMU is used where this machine has none
from tests.host.running import children
from tests.names import own
from tests.needs import NEEDS_TAP
from tests.waiting import PATIENCE, until
from usrdrv import qemu
from usrdrv.base import errors
from usrdrv.device import Device, ffi, open_device


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No QEMU outlives its device, and no descriptor."""
    open_files = Path("/proc/self/fd")
    gc.collect()  # the exception of a failed opening has its process
    before = len(list(open_files.iterdir())), children(os.getpid())
    yield
    gc.collect()
    assert (len(list(open_files.iterdir())), children(os.getpid())) == before


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk, with a comma.img"
    path.write_bytes(bytes(range(256)) * 4096)
    return path


@pytest.fixture
def device() -> Iterator[Device]:
    """QEMU's edu."""
    with open_device("qemu:edu") as device:
        enable(device)
        yield device


@pytest.fixture
def edu(device: Device) -> Edu:
    return Edu(device)


def test_registers_of_a_chip(device: Device, edu: Edu) -> None:
    assert device.config_read(0, 4) == 0x11E81234
    assert device.bars[0].size == 1 << 20
    assert device.read32(0, edu.IDENTIFICATION) & 0xFFFF == 0x00ED
    device.write32(0, edu.LIVENESS, 0x12345678)
    assert device.read32(0, edu.LIVENESS) == 0xFFFFFFFF ^ 0x12345678


def test_intx_is_masked_until_it_is_unmasked(device: Device, edu: Edu) -> None:
    assert device.irq_kind == "intx" and not device.irq_wait(0)
    edu.begin(0)
    assert device.irq_wait(PATIENCE)
    device.read32(0, edu.IDENTIFICATION)
    assert not device.irq_wait(0), "masked"
    device.irq_unmask()
    assert device.irq_wait(PATIENCE), "the line is up still"
    edu.end(0)
    device.irq_unmask()
    assert not device.irq_wait(0), "the line is down"


def test_msi_is_not_masked(device: Device, edu: Edu) -> None:
    (interrupt,) = device.irqs()
    assert device.irq_kind == "msi"
    for _ in range(3):
        edu.begin(0)
        assert interrupt.wait(PATIENCE)
        edu.end(0)


def test_kinds_take_turns(device: Device, edu: Edu) -> None:
    for kind in ("msi", "intx", "msi", "intx"):
        (interrupt,) = device.irqs(1, kind)
        edu.begin(0)
        assert interrupt.wait(PATIENCE), kind
        edu.end(0)
        device.irq_unmask()
        assert not interrupt.wait(0), kind


def test_dma_both_ways_and_a_clock_that_runs(device: Device, edu: Edu) -> None:
    """Its DMA takes 100 ms of the machine's time."""
    memory = device.dma_alloc(4096, limit=edu.REACH)
    (interrupt,) = device.irqs()
    memory.buffer[0:8] = b"to and f"
    edu.move(memory.bus, edu.BUFFER, 8)
    assert interrupt.wait(PATIENCE)
    edu.end(0)
    edu.move(edu.BUFFER, memory.bus + 64, 8, edu.TO_MEMORY)
    assert interrupt.wait(PATIENCE)
    assert bytes(memory.buffer[64:72]) == b"to and f"


def test_a_reset_leaves_addresses_and_interrupts(device: Device, edu: Edu) -> None:
    (interrupt,) = device.irqs()
    edu.begin(0)
    assert interrupt.wait(PATIENCE)
    device.reset()
    assert device.config_read(4, 2) & 6 == 6
    assert device.read32(0, edu.IDENTIFICATION) & 0xFFFF == 0x00ED
    edu.begin(0)
    assert interrupt.wait(PATIENCE)


def test_each_vector_of_msix_by_itself() -> None:
    """QEMU's throttling may tell of one again, so those that have not come yet are looked at."""
    with open_device("qemu:e1000e") as device:
        enable(device)
        assert device.vectors == {"msix": 5, "msi": 1, "intx": 1}
        quiet = {interrupt.number: interrupt for interrupt in device.irqs(5)}
        assert device.irq_kind == "msix"
        chip = E1000e(device)
        for vector in (3, 0, 4, 1, 2):
            chip.begin(vector)
            assert quiet.pop(vector).wait(PATIENCE)
            chip.end(vector)
            device.read32(0, chip.IMS)
            assert not any(interrupt.wait(0) for interrupt in quiet.values()), vector


def test_fewer_vectors_leave_the_others_alone() -> None:
    """A message of a vector that is not connected is lost, and disturbs nobody."""
    with open_device("qemu:e1000e") as device:
        enable(device)
        device.irqs(5)
        interrupts = device.irqs(2)
        chip = E1000e(device)
        for vector in (4, 1, 3, 0):
            chip.begin(vector)
            chip.end(vector)
        assert all(interrupt.wait(PATIENCE) for interrupt in interrupts)


@pytest.mark.parametrize("vector", [1, 8])
def test_a_disk_is_read_and_written(image: Path, vector: int) -> None:
    """An NVMe controller: data by DMA, a vector for each queue, doorbells."""
    alone = [int(number == vector) for number in range(9)]
    with open_device(f"qemu:nvme?serial=1&drive={image}") as device:
        enable(device)
        low, high = device.read32(0, Nvme.CAP), device.read32(0, Nvme.CAP + 4)
        assert device.read64(0, Nvme.CAP) == low | high << 32
        interrupts = device.irqs(9)
        chip = Nvme(device, interrupts)
        chip.move(vector, Nvme.READ, 0)
        assert finish(device, chip, interrupts, vector) == alone
        assert bytes(chip.data.buffer[:512]) == image.read_bytes()[:512]
        chip.data.buffer[0:4] = b"ours"
        chip.move(vector, Nvme.WRITE, 8)
        assert finish(device, chip, interrupts, vector) == alone
    assert image.read_bytes()[4096:4100] == b"ours"


def test_a_disk_behind_a_controller(image: Path) -> None:
    with open_device(f"qemu:ich9-ahci?drive={image}&behind=ide-hd") as device:
        device.config_write(4, 2, 7)
        ports = device.read32(5, 0x0C)
        assert ports == 0x3F
        assert device.read32(5, 0x128) & 0xF == 3, "a drive on port 0: SStatus"


def test_what_a_nic_sends_is_recorded(tmp_path: Path) -> None:
    """The pcap file has the frame, which is as short as it may be."""
    record = tmp_path / "frames.pcap"
    frame = bytes(range(60))
    with open_device(f"qemu:e1000e?record={record}") as device:
        enable(device)
        E1000e(device).send(frame)
        until(lambda: frame in record.read_bytes(), "it is in the file")


@NEEDS_TAP
def test_what_a_nic_sends_leaves_its_tap() -> None:
    """An interface of this machine's receives it."""
    name = own("qemu")
    broadcast, other, ours = b"\xff" * 6, b"\x52\x54\0\0\0\x01", b"\x88\xb5"
    frame = (broadcast + other + ours + b"from a process").ljust(60, b"\0")
    with open_device(f"qemu:e1000e?tap={name}") as device:
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5)) as heard:
            heard.bind((name, 0x88B5))
            enable(device)
            E1000e(device).send(frame)
            assert heard.recv(2000) == frame


def test_io_ports() -> None:
    """The RTL8139's registers are the same through both of its BARs."""
    with open_device("qemu:rtl8139") as device:
        device.config_write(4, 2, 7)
        io, memory = (device.bars.index(bar) for bar in device.bars if bar.size)
        assert device.bars[io].io and not device.bars[memory].io
        mac = [device.read8(memory, i) for i in range(6)]
        assert [device.read8(io, i) for i in range(6)] == mac and any(mac)
        with pytest.raises(errors.DeviceError, match="Invalid argument"):
            device.read64(io, 0)


def test_a_bar_above_4_gib() -> None:
    """An NVMe controller's memory for commands, of 64 bits and prefetchable: written and read far into it."""
    with open_device("qemu:nvme?serial=1&cmb_size_mb=64&legacy-cmb=on") as device:
        enable(device)
        bar = device.bars[2]
        assert (bar.size, bar.wide, bar.prefetchable) == (64 << 20, True, True)
        assert device.config_read(0x1C, 4) > 0, "the upper half of its address"
        device.write64(2, 32 << 20, 0x1122334455667788)
        assert device.read64(2, 32 << 20) == 0x1122334455667788
        assert device.read32(2, (32 << 20) + 4) == 0x11223344


def test_a_function_with_intx_alone() -> None:
    """The RTL8139's timer: it interrupts after so many cycles of 30 ns."""
    mask, status, count, when, timed_out = 0x3C, 0x3E, 0x48, 0x54, 1 << 14
    with open_device("qemu:rtl8139") as device:
        enable(device)
        assert device.vectors == {"msix": 0, "msi": 0, "intx": 1}
        (interrupt,) = device.irqs()
        device.write16(1, mask, timed_out)
        device.write32(1, when, 100_000)
        device.write32(1, count, 0)
        assert interrupt.wait(PATIENCE)
        assert device.read16(1, status) & timed_out


def test_a_function_without_interrupts() -> None:
    with open_device("qemu:pci-testdev?membar=8G") as device:
        assert device.irq_kind is None and device.bars[2].size == 8 << 30
        with pytest.raises(errors.UsageError, match="there are: none"):
            device.irqs()


def test_memory_is_zeroed_and_within_reach(device: Device, edu: Edu) -> None:
    first = device.dma_alloc(8192, align=1 << 20, limit=edu.REACH)
    assert first.bus % (1 << 20) == 0 and first.bus + 8191 <= edu.REACH
    assert bytes(first.buffer[:8192]) == bytes(8192)
    first.buffer[0:4] = b"used"
    bus = first.bus
    first.free()
    again = device.dma_alloc(8192, align=1 << 20, limit=edu.REACH)
    assert again.bus == bus and bytes(again.buffer[:4]) == bytes(4)
    with pytest.raises(errors.DeviceError, match="No space left"):
        device.dma_alloc(1 << 30)


def test_two_at_once() -> None:
    with open_device("qemu:edu") as one, open_device("qemu:edu") as two:
        enable(one)
        enable(two)
        one.write32(0, Edu.LIVENESS, 1)
        two.write32(0, Edu.LIVENESS, 2)
        assert [device.read32(0, Edu.LIVENESS) for device in (one, two)] == [0xFFFFFFFE, 0xFFFFFFFD]


def test_intx_comes_among_many_writes(device: Device, edu: Edu) -> None:
    """Their answers are read on the way, and the line's change between them."""
    device = device
    writes = [(edu.LIVENESS, 1)] * 63 + [(edu.RAISE, 1)]
    table = ffi.new(
        "struct usrdrv_write[]",
        [{"offset": at, "value": value, "region": 0, "width": 4} for at, value in writes],
    )
    for _ in range(200):
        assert device.c.ops.write_list(device.c, table, len(writes)) == 0
        assert device.irq_wait(PATIENCE)
        edu.end(0)
        device.irq_unmask()


def test_vectors_are_connected_while_memory_is_not_decoded() -> None:
    with open_device("qemu:e1000e") as device:
        device.config_write(4, 2, 0)
        interrupts = device.irqs(5)
        device.reset()
        enable(device)
        E1000e(device).begin(2)
        assert interrupts[2].wait(PATIENCE)


def test_a_device_outlives_the_thread_that_opened_it() -> None:
    opened: list[Device] = []
    thread = threading.Thread(target=lambda: opened.append(open_device("qemu:edu")))
    thread.start()
    thread.join()
    with opened[0] as device:
        assert device.config_read(0, 4) == 0x11E81234
        assert not device.irq_wait(0)


def test_a_forked_child_leaves_the_device_alone(device: Device, edu: Edu) -> None:
    child = os.fork()
    if not child:
        device.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    edu.begin(0)
    assert device.irq_wait(PATIENCE)


def test_a_value_that_does_not_fit(device: Device, edu: Edu) -> None:
    writes: list[Callable[[], None]] = [
        lambda: device.write32(0, edu.LIVENESS, 1 << 32),
        lambda: device.config_write(0x3C, 1, 0x100),
        lambda: device.write32(0, edu.LIVENESS, -1),
    ]
    for write in writes:
        with pytest.raises(errors.UsageError, match="does not fit"):
            write()


def test_names_of_files_are_taken_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a+b:c d.img"
    path.write_bytes(bytes(1 << 20))
    with open_device(f"qemu:nvme?serial=1&drive={path}") as device:
        assert device.vectors["msix"] == 65
    missing = tmp_path / "x y.img"
    with pytest.raises(errors.UsageError, match=f": Could not open '{missing}': No such file"):
        open_device(f"qemu:nvme?serial=1&drive={missing}")


def test_qemu_that_dies_is_a_device_that_is_gone() -> None:
    others = children(os.getpid())
    with open_device("qemu:edu") as device:
        (pid,) = children(os.getpid()) - others
        os.kill(pid, signal.SIGKILL)
        _gone(device)


def _gone(device: Device) -> None:
    with pytest.raises(errors.NoSuchDeviceError, match="qemu:edu: device is gone"):
        device.irq_wait(None)
    for call in (
        lambda: device.read32(0, 0),
        lambda: device.write32(0, 0, 1),
        lambda: device.irqs(),
        device.irq_unmask,
        device.reset,
    ):
        with pytest.raises(errors.NoSuchDeviceError, match="device is gone"):
            call()


def test_more_vectors_than_there_are(device: Device) -> None:
    with pytest.raises(
        errors.UsageError, match=r"qemu:edu: 2 interrupts asked for; .*msi 1, intx 1"
    ):
        device.irqs(2)
    with pytest.raises(errors.UsageError, match=r"1 msix asked for"):
        device.irqs(1, "msix")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("qemu:nosuch", "'nosuch' is not a valid device model name"),
        ("qemu:edu?colour=red", "Property 'edu.colour' not found"),
        (
            "qemu:nvme?drive=/nonexistent",
            "Could not open '/nonexistent': No such file or directory",
        ),
        ("qemu:edu?addr=3", "addr is not to be chosen"),
        ("qemu:edu?memory=0", "memory=0 is not 1 to"),
        ("qemu:edu?memory=many", "memory=many is not 1 to"),
        ("qemu:edu?memory=1&memory=2", "option memory is given 2 times"),
        ("qemu:edu?what", "expected name=value"),
        ("qemu:edu,help", "'edu,help' is no name of a device or an option"),
        ("qemu:edu?a,b=1", "'a,b' is no name"),
        ("qemu:edu\nx", "is no name"),
        ("qemu:nvme?drive=a%0Ab", "drive has characters that cannot be printed"),
        ("qemu:e1000e?tap=", "tap: a name has 1 to 15 characters"),
        ("qemu:pci-bridge?chassis_nr=3", "it is a bridge"),
        ("qemu:virtio-blk-pci", "drive property not set"),
        ("qemu:virtserialport", "Device 'virtserialport' can't go on PCIE bus"),
    ],
)
def test_what_qemu_refuses(name: str, said: str) -> None:
    with pytest.raises(errors.UsageError, match=re.escape(said)) as raised:
        open_device(name)
    assert "\n" not in str(raised.value) and "qemu-system" not in str(raised.value)


def test_an_image_that_another_has(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "LOCKED", 0.1)
    name = f"qemu:nvme?serial=1&drive={image}"
    with (
        open_device(name),
        pytest.raises(errors.DeviceBusyError, match='Failed to get "write" lock'),
    ):
        open_device(name)
    with open_device(name):
        pass


def test_a_driver_that_is_killed_takes_its_machine_along(image: Path) -> None:
    """The next one gets the image at once."""
    name = f"qemu:nvme?serial=1&drive={image}"
    code = (
        "import sys, time, usrdrv.lab; from usrdrv.device import open_device\n"
        f"device = open_device({name!r}); print('open', flush=True); time.sleep(1e6)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "open\n"
        child.kill()
    with open_device(name) as device:
        assert device.config_read(0, 4) == 0x00101B36


def test_which_qemu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(qemu.VARIABLE, "/nonexistent/qemu")
    with pytest.raises(errors.MissingToolError, match="USRDRV_QEMU=/nonexistent/qemu: no such"):
        open_device("qemu:edu")
    monkeypatch.delenv(qemu.VARIABLE)
    old = tmp_path / qemu.PROGRAM
    old.write_text("#!/bin/sh\necho QEMU emulator version 6.2.0\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(qemu, "_finders", [])
    with pytest.raises(errors.MissingToolError, match=r"7\.0 or later is not installed"):
        open_device("qemu:edu")
