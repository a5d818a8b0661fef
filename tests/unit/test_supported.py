# SPDX-License-Identifier: MIT
"""Which devices a command takes: told by their ids, before anybody loses them."""

from functools import partial
from pathlib import Path

import pytest

from usrdrv.base import errors
from usrdrv.device import open_device
from usrdrv.drivers import open_driver, supported
from usrdrv.drivers.supported import DISKS, NETWORK
from usrdrv.pci import Function


@pytest.fixture(autouse=True)
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A controller, a NIC, and an e1000e."""
    for slot, (vendor, device) in enumerate(((0x1095, 0x0680), (0x100B, 0x0022), (0x8086, 0x10D3))):
        function = tmp_path / f"devices/0000:03:0{slot}.0"
        function.mkdir(parents=True)
        (function / "vendor").write_text(f"{vendor:#06x}\n")
        (function / "device").write_text(f"{device:#06x}\n")
    monkeypatch.setattr(supported, "Function", partial(Function, bus=tmp_path))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("03:00.0", DISKS),
        ("03:01.0", NETWORK),
        ("model:cmd680?ram=1M", DISKS),
        ("model:dp83820?wire=loop", NETWORK),
        ("vfio-user:/of/whom/nothing/is/known", DISKS),
        ("vfio-user:/of/whom/nothing/is/known", NETWORK),
    ],
)
def test_what_fits_passes(name: str, kind: str) -> None:
    supported.check(name, kind)


@pytest.mark.parametrize(
    ("name", "kind", "error", "message"),
    [
        ("03:00.0", NETWORK, errors.UsageError, "0000:03:00.0 is not a network interface"),
        ("03:01.0", DISKS, errors.UsageError, "0000:03:01.0 is not a disk controller"),
        ("03:02.0", DISKS, errors.NoSuchDeviceError, "no driver for PCI 8086:10d3"),
        ("03:02.0", NETWORK, errors.NoSuchDeviceError, "no driver for PCI 8086:10d3"),
        ("03:03.0", DISKS, errors.NoSuchDeviceError, "0000:03:03.0: no such PCI device"),
        ("model:dp83820", DISKS, errors.UsageError, "model:dp83820 is not a disk controller"),
        ("model:cmd680", NETWORK, errors.UsageError, "model:cmd680 is not a network interface"),
    ],
)
def test_what_does_not_fit_is_refused(
    name: str, kind: str, error: type[errors.UsrdrvError], message: str
) -> None:
    with pytest.raises(error, match=message):
        supported.check(name, kind)


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [("model:dp83820", DISKS, {"read_only": True}), ("model:cmd680", NETWORK, {"mtu": 1500})],
)
def test_an_open_device_of_another_kind_is_refused(
    name: str, kind: str, options: dict[str, int]
) -> None:
    """Of one on a socket that is known only then; before the driver's options are looked at."""
    with open_device(name) as device, pytest.raises(errors.UsageError, match=f"is not {kind}"):
        open_driver(device, kind, **options)


def test_all_drivers_that_there_are_are_listed() -> None:
    folders = Path(supported.__file__).parent.glob("*/driver.py")
    assert {chip.driver for chip in supported.DRIVERS} == {path.parent.name for path in folders}
