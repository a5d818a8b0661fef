# SPDX-License-Identifier: MIT
"""Functions in sysfs, with a tree of our own in its place: what is told before anything is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from usrdrv import errors, functions, pci, usrpci, vfio
from usrdrv.pci import Function

ADDRESS = "0000:03:00.0"


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


def add_disk(bus: Path, number: str) -> Path:
    disk = bus / "devices" / ADDRESS / "ata1/host0/target0:0:0/0:0:0:0/block/sdz"
    (disk / "sdz1").mkdir(parents=True)
    (disk / "holders").mkdir()
    (disk / "dev").write_text("65:144\n")
    (disk / "sdz1/dev").write_text(f"{number}\n")
    return disk


def test_a_mounted_partition_and_a_holder_are_users(bus: Path) -> None:
    root = next(
        line.split()
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if line.split()[4] == "/"
    )
    disk = add_disk(bus, root[2])
    (disk / "holders/dm-0").touch()
    function = Function(ADDRESS, bus)
    # The file system of / may be mounted elsewhere too.
    assert {"/dev/sdz by dm-0", "/dev/sdz1 on /"} <= set(function.users())
    with pytest.raises(errors.DeviceBusyError, match=r"driver_of_0 has it.*/dev/sdz1 on /"):
        with function.bound():
            pass
    assert (function.path / "driver_override").read_text() == ""


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
    monkeypatch.setattr(pci.subprocess, "run", lambda *args, **kwargs: None)
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
    monkeypatch.setattr(vfio.claim, "held", lambda: {"0000:03:00.1": 4711})
    why = r"0000:03:00.1 of the same IOMMU group \(7\) is taken by process 4711"
    with pytest.raises(errors.DeviceBusyError, match=f"{ADDRESS}: {why}"):
        vfio._open_group(function)
