# SPDX-License-Identifier: MIT
"""Which devices a command takes: told by their ids, before anybody loses them."""

import subprocess
import sys
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest

from usrdrv.base import errors
from usrdrv.chips import DISKS, NETWORK
from usrdrv.device import open_device
from usrdrv.drivers import open_driver, supported
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


def test_no_two_drivers_have_one_device() -> None:
    claimed = [chip.ids for name in supported.PACKAGES for chip in import_module(name).CHIPS]
    assert len(claimed) == len(set(claimed)) == len(supported.chips()) > 1


ANOTHER = """
import importlib, sys
from usrdrv import drivers
drivers.__path__.append(sys.argv.pop(1))
importlib.reload(drivers.supported)
from usrdrv.bridge.cli.main import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a driver without CHIPS in __init__.py"),
        (
            "from usrdrv.chips import DISKS, Chip\n"
            "CHIPS = (Chip(__name__, (0x1095, 0x0680), DISKS, 'Third'),)\n",
            "usrdrv.drivers.ide_cmd680 has PCI 1095:0680 too",
        ),
    ],
)
def test_a_folder_that_cannot_be_a_driver_is_named(tmp_path: Path, text: str, message: str) -> None:
    """By what needs the drivers, in one line."""
    folder = tmp_path / "third"
    folder.mkdir()
    (folder / "__init__.py").write_text(text)
    (folder / "driver.py").touch()

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-c", ANOTHER, str(tmp_path), *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    assert run("--version").returncode == 0
    for words in (("list",), ("identify", "model:cmd680"), ("net", "model:dp83820")):
        done = run(*words)
        assert (done.returncode, done.stderr) == (1, f"usrdrv: error: {folder}: {message}\n")


THIRD = """
import importlib, sys
from usrdrv import drivers
drivers.__path__.append(sys.argv[1])
importlib.reload(drivers.supported)

class Device:
    name = "a card"

    def config_read(self, offset, size):
        return {0: 0x1234, 2: 0x5678}[offset]

print(drivers.open_driver(Device(), drivers.supported.DISKS, poll_us=7))
drivers.preload()
print("usrdrv.drivers.null.driver" in sys.modules)
"""


def test_a_driver_is_a_folder_and_nothing_else(tmp_path: Path) -> None:
    """Its ids, kind and options are told by itself; no file that is there is changed for it."""
    folder = tmp_path / "third"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from usrdrv.chips import DISKS, Chip\n"
        "CHIPS = (Chip(__name__, (0x1234, 0x5678), DISKS, 'Third'),)\n"
    )
    (folder / "driver.py").write_text(
        "def Options(**options):\n    return options\n"
        "def Third(device, options):\n    return f'{device.name} with {options}'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", THIRD, tmp_path], capture_output=True, text=True, check=True
    )
    assert done.stdout == "a card with {'poll_us': 7}\nTrue\n"
