# SPDX-License-Identifier: MIT
"""What the driver does before there are frames: EEPROM, PHY and fibre in any state, the MAC in their mode."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.drivers.dp83820.nic_pair import Pair
from tests.waiting import until
from usrdrv.base import errors
from usrdrv.device import Device, open_device
from usrdrv.drivers.dp83820 import eeprom
from usrdrv.drivers.dp83820._dp83820 import lib
from usrdrv.drivers.dp83820.chip import Chip, Link
from usrdrv.drivers.dp83820.driver import Nic
from usrdrv.drivers.dp83820.phy import Phy

BMCR, ANAR, GBCR, LPAR = lib.MII_REG_BMCR, lib.MII_REG_ANAR, lib.MII_REG_GBCR, lib.MII_REG_LPAR
AUTO, FULL = lib.MII_BMCR_AUTO, lib.MII_BMCR_FULL


def passes(pair: Pair) -> None:
    """Frames pass both ways."""
    pair.a.send(pair.frame(100))
    assert pair.b.receive().frame == pair.frame(100)
    back = pair.a.mac + pair.b.mac + b"\x88\xb5" + bytes(100)
    pair.b.send(back)
    assert pair.a.receive().frame == back


@pytest.mark.parametrize(
    "control",
    [
        AUTO | lib.MII_BMCR_POWER_DOWN,
        lib.MII_BMCR_POWER_DOWN,
        AUTO | lib.MII_BMCR_ISOLATE,
        lib.MII_BMCR_SPEED0,
        FULL,
        lib.MII_BMCR_SPEED1 | FULL,
    ],
)
def test_a_phy_is_made_to_negotiate(control: int) -> None:
    """As another driver left it: powered down, isolated, forced to 100/half, 10/full, 1000/full."""

    def left(device: Device) -> None:
        phy = Phy(device, 1)
        phy.write(ANAR, 1 | lib.MII_AN_10)
        phy.write(GBCR, 0)
        phy.write(BMCR, control)

    with Pair(left=left) as pair:
        until(lambda: pair.a.nic.link == pair.b.nic.link == Link(1000, True))
        phy = Phy(pair.a.device, 1)
        assert phy.read(BMCR) == AUTO and phy.read(GBCR) == lib.MII_GB_FULL | lib.MII_GB_HALF
        assert phy.read(ANAR) == lib.MII_AN_ALL & ~lib.MII_AN_PAUSE_ASYM
        assert phy.read(LPAR) & lib.MII_AN_PAUSE
        passes(pair)


def test_a_phy_that_negotiates_keeps_its_link() -> None:
    """The next driver of a NIC does not take the link down."""
    with Pair() as pair:
        changes = pair.b.changes
        pair.a.nic.close()
        nic = Nic(pair.a.device)
        assert nic._chip.link() == Link(1000, True)
        nic.close()
        assert pair.b.changes == changes


@pytest.mark.parametrize(
    ("advertised", "link"),
    [
        (lib.MII_AN_100_FULL, Link(100, True)),
        (lib.MII_AN_100, Link(100, False)),
        (lib.MII_AN_10_FULL, Link(10, True)),
        (lib.MII_AN_10, Link(10, False)),
    ],
)
def test_a_slower_partner(advertised: int, link: Link) -> None:
    """The MAC follows its PHY: in another mode it would lose all frames."""
    with Pair() as pair:
        partner = Phy(pair.b.device, 1)
        with pair.b.nic._lock:
            partner.write(ANAR, 1 | advertised)
            partner.write(GBCR, 0)
            partner.write(BMCR, AUTO | lib.MII_BMCR_RESTART)
        until(lambda: pair.a.nic.link == pair.b.nic.link == link)
        passes(pair)
        mode = lib.DP83820_CFG_MODE_1000 | lib.DP83820_CFG_SB
        cfg = pair.a.device.read32(1, lib.DP83820_CFG)
        assert cfg & mode == (lib.DP83820_CFG_SB if link.full else 0)
        with pair.b.nic._lock:
            partner.negotiate()
        until(lambda: pair.a.nic.link == pair.b.nic.link == Link(1000, True))
        passes(pair)


def test_a_forced_partner() -> None:
    with Pair() as pair:
        with pair.b.nic._lock:
            Phy(pair.b.device, 1).write(BMCR, lib.MII_BMCR_SPEED0)
        until(lambda: pair.a.nic.link == pair.b.nic.link == Link(100, False))
        passes(pair)


def test_fibre() -> None:
    with Pair(model="&fibre=1") as pair:
        assert pair.a.nic.link == pair.b.nic.link == Link(1000, True)
        assert pair.a.nic._chip.fibre and pair.a.nic._chip.phy is None
        tbicr = pair.a.device.read32(1, lib.DP83820_TBICR)
        assert tbicr & lib.DP83820_TBICR_AN_ENABLE
        passes(pair)
        fault = pair.a.fault("link-down")
        until(lambda: not pair.b.nic.speed)
        pair.a.device.model.clear_fault(fault)
        until(lambda: pair.a.nic.speed and pair.b.nic.speed)
        passes(pair)


def test_a_phy_elsewhere_than_at_address_1() -> None:
    with Pair(model="&phy=17") as pair:
        assert pair.a.nic._chip.phy is not None and pair.a.nic._chip.phy.address == 17
        passes(pair)


def test_no_cable_no_link() -> None:
    with open_device("model:dp83820") as device, Nic(device) as nic:
        assert nic._chip.link() == Link()


MAC = bytes.fromhex("02005e100001")


def write_eeprom(device: Device, address: int, value: int) -> None:
    """As a maker's tool."""
    select, data, clock = (getattr(lib, f"DP83820_MEAR_EE{n}") for n in ("SEL", "DI", "CLK"))

    def shift(value: int, bits: int) -> None:
        for i in reversed(range(bits)):
            lines = select | (data if value >> i & 1 else 0)
            device.write32(1, lib.DP83820_MEAR, lines)
            device.write32(1, lib.DP83820_MEAR, lines | clock)

    shift(lib.DP83820_EE_EXTRA << 6 | 0b110000, 9)
    device.write32(1, lib.DP83820_MEAR, 0)
    shift(lib.DP83820_EE_WRITE << 6 | address, 9)
    shift(value, 16)
    device.write32(1, lib.DP83820_MEAR, 0)


@pytest.fixture
def board() -> Iterator[Device]:
    """A chip that nobody drives yet."""
    with open_device(f"model:dp83820?mac={MAC.hex(':')}") as device:
        device.config_write(0x04, 2, 2)
        yield device


def test_a_good_eeprom_is_not_worth_a_word(board: Device, caplog: pytest.LogCaptureFixture) -> None:
    assert eeprom.checksum_ok(eeprom.read(board)) and eeprom.mac(eeprom.read(board)) == MAC
    with Nic(board) as nic:
        assert nic.mac == MAC
    assert not caplog.records


def test_no_bus_before_the_chip_is_reset(board: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim of a function that cannot be reset may find it receiving for the last driver."""
    board.write32(1, lib.DP83820_CR, lib.DP83820_CR_RXE)
    assert board.read32(1, lib.DP83820_CR) & lib.DP83820_CR_RXE
    receiving, write = [], board.config_write

    def spy(at: int, width: int, value: int) -> None:
        if at == 4 and value & 4:
            receiving.append(board.read32(1, lib.DP83820_CR) & lib.DP83820_CR_RXE)
        write(at, width, value)

    monkeypatch.setattr(board, "config_write", spy)
    with Nic(board):
        assert receiving == [0]


def test_a_wrong_checksum_is_logged(board: Device, caplog: pytest.LogCaptureFixture) -> None:
    """And the address is used."""
    write_eeprom(board, lib.DP83820_EE_CHECKSUM, 0x1234)
    with Nic(board) as nic:
        assert nic.mac == MAC
    assert [record.getMessage() for record in caplog.records] == [
        f"{board.name}: the checksum of the EEPROM is wrong"
    ]


def test_an_eeprom_without_an_address_is_refused(board: Device) -> None:
    for i in range(3):
        write_eeprom(board, lib.DP83820_EE_PMATCH + i, 0)
    with pytest.raises(errors.DeviceError, match="no MAC address in the EEPROM"):
        Nic(board)


def forget_address(chip: Chip) -> None:
    """As a chip that did not load it."""
    for address in (0, 2, 4):
        chip.write(lib.DP83820_RFCR, lib.DP83820_RF_PMATCH + address)
        chip.write(lib.DP83820_RFDR, 0)


def test_an_address_that_was_not_loaded_is_read(board: Device) -> None:
    chip = Chip(board)
    chip.bring_up()
    forget_address(chip)
    assert chip._read_mac() == MAC


def test_and_only_if_the_checksum_is_right(board: Device) -> None:
    chip = Chip(board)
    chip.bring_up()
    write_eeprom(board, lib.DP83820_EE_SUBDEVICE, 0x4901)
    forget_address(chip)
    with pytest.raises(errors.DeviceError, match="no MAC address in the EEPROM"):
        chip._read_mac()
