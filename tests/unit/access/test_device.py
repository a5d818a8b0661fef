# SPDX-License-Identifier: MIT
"""Names, claims, and the access layer over the in-process backend."""

import errno
import os
import subprocess
from pathlib import Path

import pytest

from usrdrv import names
from usrdrv.backends import _access
from usrdrv.base import errors
from usrdrv.claim import SERVED, Claim, Owner, held, name_owner, run_directory
from usrdrv.device import KINDS, Device, open_device
from usrdrv.devices import _models, models
from usrdrv.drivers.listing import list_devices


@pytest.fixture(autouse=True)
def own_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USRDRV_RUN_DIR", str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0000:03:00.0", names.PciName("0000:03:00.0")),
        ("0A:1f.7", names.PciName("0000:0a:1f.7")),
        ("10000:01:00.0", names.PciName("10000:01:00.0")),  # behind VMD
        ("0001ABCD:01:00.0", names.PciName("1abcd:01:00.0")),
        ("vfio-user:/run/x.sock", names.VfioUserName(Path("/run/x.sock"))),
        ("model:cmd680", names.ModelName("cmd680", "")),
        ("qemu:edu", names.QemuName("edu", "")),
        ("qemu:nvme?drive=d.img&serial=1", names.QemuName("nvme", "drive=d.img&serial=1")),
        ("model:cmd680?ram=1M&ram1=2M", names.ModelName("cmd680", "ram=1M&ram1=2M")),
    ],
)
def test_names(text: str, expected: names.Name) -> None:
    assert names.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "sda", "/dev/sda", "0000:03:00.8", "vfio-user:", "model:", "qemu:", "x:y"]
)
def test_bad_names_are_named(text: str) -> None:
    with pytest.raises(errors.UsageError, match="not a device name"):
        names.parse(text)


def test_a_socket_path_has_a_limit() -> None:
    assert names.parse("vfio-user:/" + "x" * 106)
    with pytest.raises(errors.UsageError, match="longer than 107"):
        names.parse("vfio-user:/" + "x" * 107)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("ffff:1f:1f.7", errors.NoSuchDeviceError),
        ("vfio-user:/nonexistent/socket", errors.NoSuchDeviceError),
        ("vfio-user:/nonexistent/\udcff", errors.NoSuchDeviceError),
        ("model:toaster", errors.UsageError),
        ("model:cmd680?image=/nonexistent", errors.UsrdrvError),
        ("model:cmd680?colour=red", errors.UsageError),
    ],
)
def test_opening_what_is_not_there(text: str, error: type[errors.UsrdrvError]) -> None:
    with pytest.raises(error):
        open_device(text)


def test_a_claim_is_exclusive_and_names_its_owner() -> None:
    claim = Claim("thing")
    with pytest.raises(errors.DeviceBusyError, match=f"process {os.getpid()}$"):
        Claim("thing")
    claim.release()
    claim.release()
    Claim("thing").release()


def test_a_claim_ends_with_its_process(tmp_path: Path) -> None:
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        claim = Claim("thing")
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        os._exit(0 if claim else 1)
    os.read(ready[0], 1)
    with pytest.raises(errors.DeviceBusyError, match=f"process {child}$"):
        Claim("thing")
    os.kill(child, 9)
    os.waitpid(child, 0)
    Claim("thing").release()
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("name", ["x:/" + "\u00e9" * 90, "x:/" + "/" * 104, "x:/\udcff", "a b\tc"])
def test_names_of_any_kind_can_be_claimed(name: str) -> None:
    with Claim(name):
        assert held() == {name: os.getpid()}
        with pytest.raises(errors.DeviceBusyError, match=f"process {os.getpid()}$"):
            Claim(name)
        Claim(name[:-1]).release()
    assert held() == {}


def test_a_run_directory_of_somebody_else_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("USRDRV_RUN_DIR", str(tmp_path / "file"))
    with pytest.raises(errors.PermissionDeniedError, match="file"):
        Claim("thing")
    if os.geteuid() == 0:
        (tmp_path / "theirs").mkdir()
        os.chown(tmp_path / "theirs", 12345, -1)
        monkeypatch.setenv("USRDRV_RUN_DIR", str(tmp_path / "theirs"))
        with pytest.raises(errors.PermissionDeniedError, match="another user"):
            Claim("thing")


@pytest.mark.parametrize("mode", [0o1777, 0o770, 0o702])
def test_a_run_directory_that_others_can_write_to_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(mode)
    (tmp_path / "link").symlink_to(folder)
    for path in (folder, tmp_path / "link"):
        monkeypatch.setenv("USRDRV_RUN_DIR", str(path))
        with pytest.raises(errors.PermissionDeniedError, match=f"write there .mode {mode:04o}"):
            Claim("thing")
    assert list(folder.iterdir()) == []


def test_a_claim_does_not_follow_a_link(tmp_path: Path) -> None:
    with Claim("thing"):
        (claimed,) = (tmp_path / "run").iterdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    claimed.symlink_to(victim)
    with pytest.raises(errors.PermissionDeniedError, match="symbolic links"):
        Claim("thing")
    assert victim.read_text() == "precious"


def test_a_claim_names_whom_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usrdrv.claim._owner", None)
    name_owner(1)
    with Claim("thing"):
        assert held() == {"thing": 1}
        with pytest.raises(errors.DeviceBusyError, match="process 1$"):
            Claim("thing")


def test_a_later_process_of_that_pid_is_not_the_owner() -> None:
    with Claim("thing"):
        assert held() == {"thing": os.getpid()}
        started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        (path,) = run_directory().iterdir()
        path.write_text(path.read_text().replace(f" {started} ", f" {int(started) - 1} "))
        assert held() == {}


def test_an_owner_that_has_ended_does_not_live() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert not Owner.of(child).lives and Owner.of(os.getpid()).lives


def test_who_inherits_a_claim_has_it_until_its_end() -> None:
    claim = Claim("thing")
    heir = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[claim.fileno()])
    claim.bequeath()
    claim.bequeath()
    assert held() == {}
    with pytest.raises(errors.DeviceBusyError, match="taken by an unknown process$"):
        Claim("thing")
    heir.communicate()
    Claim("thing").release()


def test_an_image_has_one_user(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(65536))
    with open_device(f"model:cmd680?image={image}"):
        with pytest.raises(errors.DeviceBusyError, match=str(os.getpid())):
            open_device(f"model:cmd680?image={image}")
    open_device(f"model:cmd680?image={image}").close()


def test_config_space_bars_and_dma() -> None:
    with open_device("model:cmd680?ram=1M") as device:
        assert device.config_read(0, 4) == 0x0680_1095
        assert [bar.size for bar in device.bars] == [8, 4, 8, 4, 16, 256]
        assert [bar.io for bar in device.bars] == [True] * 5 + [False]
        device.config_write(4, 2, 7)
        device.write32(5, 0x4C, 0x12345678)
        assert device.read32(5, 0x4C) == 0x12345678
        assert (device.read8(5, 0x4D), device.read16(5, 0x4E)) == (0x56, 0x1234)
        assert device.config_read(0x8C, 4) == 0x12345678
        first = device.dma_alloc(100, align=65536)
        second = device.dma_alloc(8192)
        assert first.bus % 65536 == 0
        assert first.bus + first.size <= second.bus or second.bus + 8192 <= first.bus
        assert bytes(first.buffer) == bytes(100)
        second.buffer[:4] = b"abcd"
        first.free()
        first.free()
        assert device.dma_alloc(100, align=65536).bus % 65536 == 0


def test_dma_memory_below_an_impossible_limit() -> None:
    with open_device("model:cmd680?ram=1M") as device:
        with pytest.raises(errors.DeviceError) as caught:
            device.dma_alloc(4096, limit=0xFFF)
        assert caught.value.errno == errno.ENOSPC


def test_an_interrupt_is_masked_until_it_is_unmasked() -> None:
    """NOP ends with an error and an interrupt; the level stays until status is read."""
    with open_device("model:cmd680?ram=1M") as device:
        device.config_write(4, 2, 7)
        assert not device.irq_wait(0)
        device.write8(5, 0x86, 0xE0)
        device.write8(5, 0x87, 0x00)
        assert device.irq_wait(60)
        assert not device.irq_wait(0.05)
        device.irq_unmask()  # still raised: comes again
        assert device.irq_wait(60)
        device.read8(5, 0x87)
        device.write8(5, 0x02, 0x04)
        device.irq_unmask()
        assert not device.irq_wait(0.05)


def test_interrupts_that_are_asked_for() -> None:
    """None, and then the one that there is: the level that was raised meanwhile is told of."""
    with open_device("model:cmd680?ram=1M") as device:
        device.config_write(4, 2, 7)
        assert (device.vectors, device.irq_kind) == ({"msix": 0, "msi": 0, "intx": 1}, "intx")
        with pytest.raises(errors.UsageError, match="2 interrupts asked for; there are: intx 1$"):
            device.irqs(2)
        with pytest.raises(errors.UsageError, match="1 msi asked for; there are: intx 1$"):
            device.irqs(1, "msi")
        assert device.c.ops.irq_connect(device.c, KINDS["intx"], _access.ffi.NULL, 0) == 0
        assert device.irq_kind is None
        device.write8(5, 0x86, 0xE0)
        device.write8(5, 0x87, 0x00)
        assert not device.irq_wait(0)
        (irq,) = device.irqs()
        assert device.irq_kind == "intx" and irq.wait(60)


def test_an_interrupt_while_held_is_for_the_last_holder() -> None:
    """The register accesses of a holder raise it; nobody is woken."""
    with open_device("model:cmd680?ram=1M") as device:
        c = device.c
        device.config_write(4, 2, 7)
        c.ops.irq_hold(c)
        c.ops.irq_hold(c)
        device.write8(5, 0x86, 0xE0)
        device.write8(5, 0x87, 0x00)
        assert c.ops.irq_release(c) == 0
        assert c.ops.irq_release(c) == 1
        assert not device.irq_wait(0.05)  # masked, until
        device.irq_unmask()
        assert device.irq_wait(60)
        c.ops.irq_hold(c)
        assert c.ops.irq_release(c) == 0


def test_close_takes_bus_mastering_away() -> None:
    """The model outlives its device here, to be asked."""
    with models.create("cmd680", "ram=1M") as model:
        m = _models.ffi.cast("struct usrdrv_model *", model.pointer)
        out = _access.ffi.new("struct usrdrv_dev **")
        pointer = _access.ffi.cast("struct usrdrv_model *", model.pointer)
        assert _access.lib.usrdrv_inproc_open(pointer, out) == 0
        device = Device("model", out[0])
        device.config_write(4, 2, 7)
        device.close()
        assert m.ops.read(m, 7, 4, 2) == 0
        assert m.host.irq == _models.ffi.NULL


@pytest.mark.parametrize(("size", "align"), [(0, 4096), (2**63, 4096), (4096, 3)])
def test_dma_memory_that_makes_no_sense(size: int, align: int) -> None:
    with open_device("model:cmd680?ram=1M") as device:
        with pytest.raises(errors.DeviceError) as caught:
            device.dma_alloc(size, align)
        assert caught.value.errno == errno.EINVAL


def test_running_models_are_listed() -> None:
    with Claim(f"{SERVED}cmd680 vfio-user:/run/a b.sock"):
        [found] = [found for found in list_devices() if found.name.startswith("vfio-user:")]
        assert (found.name, found.owner) == ("vfio-user:/run/a b.sock", None)
        assert found.used is None, "nobody here listens there: its server is elsewhere"
        with Claim("vfio-user:/run/a b.sock"):
            [found] = [found for found in list_devices() if found.name.startswith("vfio-user:")]
            assert (found.owner, found.used) == (os.getpid(), True)
    assert [found for found in list_devices() if found.name.startswith("vfio-user:")] == []
