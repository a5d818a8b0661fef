# SPDX-License-Identifier: MIT
"""Loop devices: the structure handed to the kernel, and real ones where that is allowed."""

import os
import struct
from contextlib import suppress
from pathlib import Path

import pytest

from tests.needs import NEEDS_LOOP
from tests.waiting import until
from usrdrv import disks
from usrdrv.base import errors
from usrdrv.bridge.block import loop
from usrdrv.bridge.block.kernel_disk import KernelDisk


def test_config_has_the_layout_of_the_kernel() -> None:
    raw = loop.pack_config(5, 0x1C, "x" * 100)
    assert len(raw) == 304
    assert struct.unpack_from("=II", raw) == (5, 512)
    info = raw[8:240]
    assert struct.unpack_from("=5Q4I", info) == (0,) * 8 + (0x1C,)
    assert info[56:120] == b"x" * 63 + b"\0"
    assert not any(info[120:]) and not any(raw[240:])


@pytest.mark.parametrize(
    ("drivers", "message"),
    [
        ("Block devices:\n  7 loop\n", "the kernel has loop devices, but this /dev"),
        ("Block devices:\n  8 sd\n", "CONFIG_BLK_DEV_LOOP"),
    ],
)
def test_no_loop_control_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drivers: str, message: str
) -> None:
    """A container has no nodes in /dev; a kernel may have no loop devices at all."""
    (tmp_path / "devices").write_text(drivers)
    monkeypatch.setattr(loop, "DRIVERS", tmp_path / "devices")
    monkeypatch.setattr(loop, "CONTROL", str(tmp_path / "loop-control"))
    with pytest.raises(errors.MissingToolError, match=message):
        loop.check_access()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    return image


def attached(image: Path) -> list[str]:
    """The loop devices over it. A number tells nothing: the next one who asks for a device gets it."""
    found = []
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):  # it is gone
            if file.read_text().strip() == str(image):
                found.append(file.parts[3])
    return found


def detached(image: Path) -> None:
    """Whoever looks at a new device, as udev does, may have it open for a moment longer."""
    until(lambda: not attached(image), "no loop device is left")


@NEEDS_LOOP
def test_attach_read_write_detach(image: Path) -> None:
    fd = os.open(image, os.O_RDWR)
    device = loop.LoopDevice(fd, name="test")
    os.close(fd)
    try:
        assert attached(image) == [device.name]
        assert Path(f"/sys/block/{device.name}/size").read_text().strip() == "2048"
        with Path(device.path).open("r+b") as disk:
            disk.seek(4096)
            disk.write(b"hello")
        KernelDisk(device.name).sync()
        assert image.read_bytes()[4096:4101] == b"hello"
    finally:
        device.close()
    device.close()
    detached(image)


@NEEDS_LOOP
def test_read_only(image: Path) -> None:
    fd = os.open(image, os.O_RDONLY)
    device = loop.LoopDevice(fd, name="test", read_only=True)
    os.close(fd)
    try:
        assert Path(f"/sys/block/{device.name}/ro").read_text().strip() == "1"
        assert Path(device.path).read_bytes() == bytes(1 << 20)
        with pytest.raises(OSError), Path(device.path).open("r+b", buffering=0) as disk:
            disk.write(bytes(512))
    finally:
        device.close()
    detached(image)


@NEEDS_LOOP
def test_detached_by_the_kernel_when_the_owner_dies(image: Path) -> None:
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            device = loop.LoopDevice(os.open(image, os.O_RDWR), name="test")
            os.write(theirs, device.name.encode())
        finally:
            os.kill(os.getpid(), 9)
    os.close(theirs)
    name = os.read(ours, 100).decode()
    os.close(ours)
    assert os.waitpid(pid, 0)[1] == 9
    assert name.startswith("loop")
    detached(image)


def test_no_right_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(errors.PermissionDeniedError, match=r"/dev/loop-control.*root or the group"):
        loop.check_access()


@NEEDS_LOOP
def test_a_claim_goes_with_the_device(image: Path) -> None:
    """It takes the place of the descriptor that keeps the device there."""
    fd = os.open(image, os.O_RDWR)
    device = loop.LoopDevice(fd, name="test")
    os.close(fd)
    disk = KernelDisk(device.name)
    try:
        disk.keep(disk.claim())
        assert attached(image) == [device.name]
        with pytest.raises(disks.InUseError):
            disk.claim()
        disk.sync()
    finally:
        device.close()
        disk.release()
    detached(image)
