# SPDX-License-Identifier: MIT
"""Functions in sysfs, with a tree of our own in its place: what is told before anything is touched."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.unit.access.recorded_proc import Proc
from tests.waiting import until
from usrdrv import claim, disks, functions, interfaces, modules, mounts, pci, usrpci, vfio
from usrdrv.base import errors
from usrdrv.claim import Owner
from usrdrv.pci import Function

ADDRESS = "0000:03:00.0"


@pytest.fixture(autouse=True)
def own_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USRDRV_RUN_DIR", str(tmp_path / "run"))


@pytest.fixture
def bus(tmp_path: Path) -> Path:
    """One function, which a driver has, with a neighbour in its group."""
    for address in (ADDRESS, "0000:03:00.1"):
        device = tmp_path / "devices" / address
        device.mkdir(parents=True)
        driver = tmp_path / "drivers" / f"driver_of_{address[-1]}"
        driver.mkdir(parents=True)
        (device / "driver").symlink_to(driver)
        (device / "driver_override").touch()
        group = tmp_path / "groups/7"
        (group / "devices").mkdir(parents=True, exist_ok=True)
        (group / "devices" / address).symlink_to(device)
        (device / "iommu_group").symlink_to(group)
    (tmp_path / "drivers/vfio-pci").mkdir()
    return tmp_path


def test_what_sysfs_says(bus: Path) -> None:
    function = Function(ADDRESS, bus)
    assert function.exists and not Function("0000:04:00.0", bus).exists
    assert (function.driver, function.group) == ("driver_of_0", 7)
    assert [(f.address, f.driver) for f in function.neighbours] == [("0000:03:00.1", "driver_of_1")]
    (function.path / "driver").unlink()
    (function.path / "iommu_group").unlink()
    assert (function.driver, function.group, function.neighbours) == (None, None, [])


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proc:
    return Proc(tmp_path / "proc", monkeypatch)


@pytest.fixture
def disk(bus: Path, proc: Proc) -> Path:
    """A disk with a partition on the function, as libata and sd make it."""
    disk = bus / "devices" / ADDRESS / "ata1/host0/target0:0:0/0:0:0:0/block/sdz"
    (disk / "sdz1").mkdir(parents=True)
    (bus / "class/block").mkdir(parents=True)
    for folder, number in ((disk, "65:144"), (disk / "sdz1", "65:145")):
        (folder / "dev").write_text(f"{number}\n")
        (folder / "subsystem").symlink_to(bus / "class/block")
    (disk / "sdz1/partition").write_text("1\n")
    generic = disk.parents[1] / "scsi_generic/sg9"
    generic.mkdir(parents=True)
    (generic / "dev").write_text("21:9\n")
    (generic / "subsystem").symlink_to(bus / "class")
    return disk


class Kernel:
    """What exclusive opens of disks say; `held` are those that are held now."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: OSError | None = None
        self.held: set[int] = set()
        self.opened: list[str] = []
        monkeypatch.setattr(disks, "_open", self.open)
        monkeypatch.setattr(disks, "MOMENT", 0)
        monkeypatch.setattr(disks, "BLOCK", Path("/nothing"))  # not this machine's loop devices

    def open(self, disk: Path, flags: int) -> int:
        assert flags == os.O_RDONLY | os.O_EXCL
        self.opened.append(disk.name)
        if self.error:
            raise self.error
        fd = os.open(os.devnull, os.O_RDONLY)
        self.held.add(fd)
        return fd

    def holds(self) -> bool:
        return any(Path(f"/proc/self/fd/{fd}").exists() for fd in self.held)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


def untouched(bus: Path) -> bool:
    function = Function(ADDRESS, bus)
    unbind = (bus / "drivers/driver_of_0/unbind").exists()
    return not unbind and (function.path / "driver_override").read_text() == ""


def test_a_disk_that_the_kernel_does_not_give_is_in_use(
    bus: Path, disk: Path, kernel: Kernel
) -> None:
    """Also where nothing in /proc says who uses it."""
    kernel.error = OSError(errno.EBUSY, "busy")
    with pytest.raises(errors.DeviceBusyError, match=r"driver_of_0 has it: /dev/sdz is in use"):
        with Function(ADDRESS, bus).bound():
            pass
    assert untouched(bus) and set(kernel.opened) == {"sdz"}


def test_who_uses_a_disk_is_named(bus: Path, disk: Path, proc: Proc, kernel: Kernel) -> None:
    proc.process("self", 1, "67 29 65:145 / /srv rw,relatime shared:35 - ext4 /dev/sdz1 rw")
    (disk / "holders/dm-0").mkdir(parents=True)
    kernel.error = OSError(errno.EBUSY, "busy")
    with pytest.raises(errors.DeviceBusyError, match=r"/dev/sdz is in use \(/dev/dm-0, /srv\)$"):
        with Function(ADDRESS, bus).bound():
            pass


def test_a_loop_device_over_a_partition_is_a_user(
    bus: Path, disk: Path, kernel: Kernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    backing = tmp_path / "block/loop7/loop/backing_file"
    backing.parent.mkdir(parents=True)
    backing.write_text("/dev/sdz1\n")
    monkeypatch.setattr(disks, "BLOCK", tmp_path / "block")
    monkeypatch.setattr(disks, "_below", lambda loop: "65:145")
    with pytest.raises(errors.DeviceBusyError, match=r"/dev/sdz is in use \(/dev/loop7\)"):
        with Function(ADDRESS, bus).bound():
            pass
    assert untouched(bus) and not kernel.holds()

    def refuse(loop: Path) -> str:
        raise PermissionError(errno.EPERM, "no right to open it")

    monkeypatch.setattr(disks, "_below", refuse)
    with pytest.raises(errors.DeviceBusyError, match=r"/dev/sdz is in use \(/dev/loop7\)"):
        with Function(ADDRESS, bus).bound():
            pass


def test_loop_devices_over_files_are_not_asked(
    bus: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The server of such a file may not answer."""
    for number, text in enumerate(("/images/sdz1", "/sdz1", "/dev/xvda")):
        backing = tmp_path / f"block/loop{number}/loop/backing_file"
        backing.parent.mkdir(parents=True)
        backing.write_text(f"{text}\n")
    asked = []

    def below(loop: Path) -> str:
        asked.append(loop.name)
        return "65:144"

    monkeypatch.setattr(disks, "BLOCK", tmp_path / "block")
    monkeypatch.setattr(disks, "_below", below)
    assert disks.loops_over(disk) == ["loop1", "loop2"] == asked


def test_disks_are_held_until_the_function_is_unbound(
    bus: Path, disk: Path, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bus / "drivers/usrdrv").mkdir()
    write, held = Function._write, {}

    def watch(self: Function, path: Path, text: str) -> None:
        held[path.name] = kernel.holds()
        write(self, path, text)

    monkeypatch.setattr(Function, "_write", watch)
    with Function(ADDRESS, bus).bound(pci.USRDRV):
        assert held == {"driver_override": True, "unbind": True}
        assert not kernel.holds()


def test_a_drive_without_a_medium_has_no_user(bus: Path, disk: Path, kernel: Kernel) -> None:
    (bus / "drivers/usrdrv").mkdir()
    kernel.error = OSError(errno.ENOMEDIUM, "no medium")
    with Function(ADDRESS, bus).bound(pci.USRDRV):
        pass


def test_a_disk_that_cannot_be_asked_for_is_left_alone(
    bus: Path, disk: Path, kernel: Kernel
) -> None:
    kernel.error = OSError(errno.EIO, "I/O error")
    with pytest.raises(errors.DeviceError, match="sdz: .*I/O error"):
        with Function(ADDRESS, bus).bound():
            pass
    kernel.error = PermissionError(errno.EACCES, "no")
    with pytest.raises(errors.PermissionDeniedError, match="no right to take it from driver_of_0"):
        with Function(ADDRESS, bus).bound():
            pass
    assert untouched(bus)


def test_a_disk_without_a_node_is_left_alone_where_none_can_be_made(
    bus: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "mknod", refuse)
    with pytest.raises(errors.PermissionDeniedError, match="/dev has no node of sdz"):
        with Function(ADDRESS, bus).bound():
            pass
    assert untouched(bus)


def test_users_of_a_disk_in_words(bus: Path, disk: Path) -> None:
    assert [part.name for part in mounts.partitions(disk)] == ["sdz1"]
    (disk / "holders/md7").mkdir(parents=True)
    (disk / "sdz1/holders/dm-8").mkdir(parents=True)
    assert mounts.users(disk) == ["/dev/md7", "/dev/dm-8"]


def add_interface(bus: Path, flags: int) -> None:
    interface = bus / "devices" / ADDRESS / "net/eth9"
    interface.mkdir(parents=True)
    (interface / "flags").write_text(f"{flags:#x}\n")


def test_an_interface_that_is_up_is_taken_only_by_force(
    bus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bus / "drivers/usrdrv").mkdir()
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.7 4711 192.0.2.1 22")
    asked = {("-4", "show", "default"): ["eth9"], ("-4", "get", "192.0.2.7"): ["eth9"]}
    monkeypatch.setattr(interfaces, "_devices", lambda *words: asked.get(words, []))
    add_interface(bus, 0x1003)
    function = Function(ADDRESS, bus)
    why = "interface eth9 is up, with the default route and your SSH session; --force"
    with pytest.raises(errors.DeviceBusyError, match=why):
        with function.bound(pci.USRDRV):
            pass
    assert untouched(bus)
    with function.bound(pci.USRDRV, force=True):
        assert (function.path / "driver_override").read_text() == "usrdrv"


def test_an_interface_that_is_down_is_taken(bus: Path) -> None:
    (bus / "drivers/usrdrv").mkdir()
    add_interface(bus, 0x1002)
    with Function(ADDRESS, bus).bound(pci.USRDRV):
        pass


def test_an_interface_in_another_namespace_is_in_use(bus: Path) -> None:
    """sysfs shows an empty folder then; without a network driver there is none at all."""
    (bus / "devices" / ADDRESS / "net").mkdir()
    with pytest.raises(errors.DeviceBusyError, match="in another network namespace"):
        with Function(ADDRESS, bus).bound():
            pass
    assert untouched(bus)


def test_one_that_is_bound_already_is_left_alone(bus: Path) -> None:
    function = Function(ADDRESS, bus)
    (function.path / "driver").unlink()
    (function.path / "driver").symlink_to(bus / "drivers/vfio-pci")
    with function.bound():
        assert function.driver == pci.VFIO
    assert (function.path / "driver_override").read_text() == ""


@pytest.mark.parametrize(
    ("driver", "missing"),
    [
        (pci.VFIO, "vfio-pci.*CONFIG_VFIO_PCI"),
        (pci.USRDRV, "usrdrv.*CONFIG_USRDRV, .*usrdrv-patch"),
    ],
)
def test_what_a_kernel_lacks_is_named(
    bus: Path, monkeypatch: pytest.MonkeyPatch, driver: str, missing: str
) -> None:
    monkeypatch.setattr(modules, "load", lambda name: None)
    (bus / "drivers/vfio-pci").rmdir()
    with pytest.raises(errors.MissingToolError, match=missing) as caught:
        with Function(ADDRESS, bus).bound(driver):
            pass
    assert ("VFIO" in str(caught.value)) == (driver == pci.VFIO)


def test_a_driver_that_does_not_take_it_is_an_error_and_undone(
    bus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pci, "PATIENCE", 0.5)
    function = Function(ADDRESS, bus)
    with pytest.raises(errors.DeviceError, match="vfio-pci did not take it"):
        with function.bound():
            pass
    assert (function.path / "driver_override").read_text() == "\n"
    assert (bus / "drivers/vfio-pci/unbind").read_text() == f"{ADDRESS}\n"
    assert (bus / "drivers_probe").read_text() == f"{ADDRESS}\n"


def test_reserved_for_usrdrv_it_is_left_unbound(bus: Path) -> None:
    function = Function(ADDRESS, bus)
    (bus / "drivers/usrdrv").mkdir()
    with function.bound(pci.USRDRV):
        assert (function.path / "driver_override").read_text() == "usrdrv"
        assert (bus / "drivers/driver_of_0/unbind").read_text() == ADDRESS
        assert not (bus / "drivers_probe").exists()
        with Function(ADDRESS, bus).bound(pci.USRDRV):
            pass  # somebody keeps it for us
        assert (function.path / "driver_override").read_text() == "usrdrv"
    assert (function.path / "driver_override").read_text() == "\n"
    # Whoever died with it open may still be dying.
    assert (bus / "drivers/usrdrv/unbind").read_text() == f"{ADDRESS}\n"
    assert (bus / "drivers_probe").read_text() == f"{ADDRESS}\n"


TAKER = """
import os, signal, sys
from pathlib import Path
from usrdrv import pci
pci.Function._await = lambda *parts: None
with pci.Function(sys.argv[1], Path(sys.argv[2])).bound():
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(function: Function, monkeypatch: pytest.MonkeyPatch) -> None:
    taker: list[str | Path] = [sys.executable, "-c", TAKER, function.address, function.bus]
    assert subprocess.run(taker).returncode == -signal.SIGKILL


def waited_in_vain(function: Function, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(pci, "PATIENCE", 0.1)
        with pytest.raises(errors.DeviceBusyError, match="vfio-pci does not let it go"):
            with function.bound():
                pass


def told_twice_to_end(function: Function, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*parts: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(subprocess.Popen, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt), function.bound():
            pass


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
@pytest.mark.parametrize("end", [killed, waited_in_vain, told_twice_to_end])
def test_who_comes_while_it_is_given_back_takes_it_anew(
    bus: Path,
    monkeypatch: pytest.MonkeyPatch,
    end: Callable[[Function, pytest.MonkeyPatch], None],
) -> None:
    """Its last owner has ended, and the guard is about to unbind it: it is not free for vfio-pci's users."""
    unbind = bus / "drivers/vfio-pci/unbind"
    os.mkfifo(unbind)  # which holds the guard until it is read
    monkeypatch.setattr(Function, "_await", lambda *parts: None)
    function = Function(ADDRESS, bus)
    end(function, monkeypatch)
    override, driver = function.path / "driver_override", function.path / "driver"
    until(lambda: override.read_text() == "\n", "the guard at its work")

    def bind(name: str) -> None:
        driver.unlink()
        driver.symlink_to(bus / "drivers" / name)

    bind(pci.VFIO)
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        """Waits for the guard, which goes on when it has been waited for."""
        naps.append(seconds)
        if len(naps) == 1:
            assert unbind.read_text() == f"{ADDRESS}\n"
            unbind.unlink()
            bind("driver_of_0")

    clock = SimpleNamespace(monotonic=time.monotonic, sleep=sleep)
    monkeypatch.setattr(pci, "time", clock)
    with function.bound():
        assert naps, "the guard was waited for"
        assert override.read_text() == pci.VFIO
    assert override.read_text() == "\n", "given back again"


def test_one_that_somebody_else_gives_back_is_taken(
    bus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it is our supervisor."""
    (bus / "drivers/usrdrv").mkdir()
    function = Function(ADDRESS, bus)
    monkeypatch.setattr("usrdrv.claim._owner", Owner.of(1))
    with function.bound(pci.USRDRV):
        with function.bound(pci.USRDRV):
            pass
        monkeypatch.setattr("usrdrv.claim._owner", None)
        with pytest.raises(errors.DeviceBusyError, match=f"{ADDRESS}: taken by process 1$"):
            with function.bound(pci.USRDRV):
                pass
        assert (function.path / "driver_override").read_text() == "usrdrv"


def test_our_pid_in_another_container_is_somebody_else(
    bus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each one's supervisor is process 1; whether the other one lives cannot be seen, nor is it waited for."""
    (bus / "drivers/usrdrv").mkdir()
    function = Function(ADDRESS, bus)

    def wait(seconds: float) -> None:
        raise AssertionError("it may live as long as it likes")

    monkeypatch.setattr(pci, "time", SimpleNamespace(monotonic=time.monotonic, sleep=wait))
    monkeypatch.setattr("usrdrv.claim._namespace", lambda: 4711, raising=False)
    with function.bound(pci.USRDRV):
        monkeypatch.setattr("usrdrv.claim._namespace", lambda: 4712, raising=False)
        why = f"{ADDRESS}: taken by process {os.getpid()} of another pid namespace$"
        with pytest.raises(errors.DeviceBusyError, match=why) as caught:
            with function.bound(pci.USRDRV):
                pass
        assert caught.value.owner is None, "none that could be asked here"
        assert (function.path / "driver_override").read_text() == "usrdrv"


@pytest.mark.parametrize(
    ("variable", "available", "may", "driver", "through"),
    [
        ("auto", True, True, None, pci.USRDRV),
        ("auto", True, False, None, pci.VFIO),
        ("auto", False, True, None, pci.VFIO),
        ("auto", True, True, pci.VFIO, pci.VFIO),
        ("usrdrv", True, True, pci.VFIO, pci.USRDRV),
        ("vfio", True, True, None, pci.VFIO),
    ],
)
def test_the_way_to_a_function(
    bus: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    available: bool,
    may: bool,
    driver: str | None,
    through: str,
) -> None:
    monkeypatch.setenv(functions.VARIABLE, variable)
    monkeypatch.setattr(usrpci, "available", lambda: available)
    monkeypatch.setattr(functions, "_may_claim", lambda: may)
    function = Function(ADDRESS, bus)
    (function.path / "driver").unlink()
    if driver:
        (function.path / "driver").symlink_to(bus / "drivers" / driver)
    assert functions.way(function) == through


def test_a_way_that_is_none(bus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(functions.VARIABLE, "uio")
    with pytest.raises(errors.UsageError, match="USRDRV_PCI=uio: must be auto, usrdrv or vfio"):
        functions.way(Function(ADDRESS, bus))
    monkeypatch.setenv(functions.VARIABLE, "usrdrv")
    monkeypatch.setattr(usrpci, "available", lambda: False)
    with pytest.raises(errors.MissingToolError, match="no usrdrv system calls"):
        functions.way(Function(ADDRESS, bus))


def test_a_group_that_serves_another_function_is_told_at_once(
    bus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(path: str) -> int:
        raise errors.DeviceBusyError(f"{path}: another process has it open")

    monkeypatch.setattr(vfio, "_open", busy)
    monkeypatch.setattr(vfio, "PATIENCE", 0)
    function = Function(ADDRESS, bus)
    with pytest.raises(errors.DeviceBusyError, match=r"/dev/vfio/7: another process"):
        vfio._open_group(function)
    monkeypatch.setattr(vfio, "PATIENCE", 1e9)
    monkeypatch.setattr(claim, "held", lambda: {"0000:03:00.1": 4711})
    why = r"0000:03:00.1 of the same IOMMU group \(7\) is taken by process 4711"
    with pytest.raises(errors.DeviceBusyError, match=f"{ADDRESS}: {why}"):
        vfio._open_group(function)
