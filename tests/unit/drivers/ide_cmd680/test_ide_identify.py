# SPDX-License-Identifier: MIT
"""IDENTIFY DEVICE as drives of all kinds answer it (docs/hardware/cmd680.md section 7.5)."""

import struct

import pytest

from usrdrv.drivers.ide_cmd680 import describe, identify
from usrdrv.drivers.ide_cmd680.identify import SpinUp

CARD = {
    1: 993, 3: 16, 6: 63, 49: 0x0300, 51: 0x0200, 53: 0x0003, 60: 0x45F0, 61: 0x000F, 63: 0x0007, 64: 0x0003
}  # fmt: skip
"""A card of 512 MB without words 80 to 87, as many are."""
FEATURE_SETS = {80: 0x0010, 82: 0x7028, 83: 0x4004, 84: 0x4000, 85: 0x0028, 86: 0x0004, 87: 0x4000}


def data(*changes: dict[int, int]) -> bytes:
    words = {word: value for each in (CARD, *changes) for word, value in each.items()}
    return struct.pack("<256H", *(words.get(word, 0) for word in range(256)))


@pytest.mark.parametrize("word", [0x848A, 0x844A])
def test_a_card_by_its_signature(word: int) -> None:
    """CF+ and CompactFlash specification: the default of word 0, in each mode."""
    card = identify.parse(data({0: word}))
    assert card.cfa and card.sectors == 0x000F45F0
    assert (card.dma, card.mwdma_mask, card.pio_highest, card.flush) == (True, 7, 4, False)


@pytest.mark.parametrize("word", [0x044A, 0x0040, 0x0004 | 0x8000])
def test_a_card_by_its_feature_set(word: int) -> None:
    """The alternatives of the specification for True IDE mode, and what libata takes besides: word 83 bit 2."""
    assert identify.parse(data(FEATURE_SETS, {0: word})).cfa


@pytest.mark.parametrize("word", [0x044A, 0x0040])
def test_a_card_that_looks_like_a_disk_is_one(word: int) -> None:
    card = identify.parse(data({0: word}))
    assert not card.cfa and card.sectors == 0x000F45F0


def test_a_card_without_dma() -> None:
    card = identify.parse(data({0: 0x848A, 49: 0x0200, 53: 0, 63: 0}))
    assert not card.dma and card.mwdma_mask == card.udma_mask == 0
    assert card.pio_highest == 2


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        (0x85C0, "CD-ROM"),
        (0x8580, "CD-ROM"),
        (0x8180, "tape"),
        (0x8000, "disk"),
        (0x8780, "optical"),
        (0x9F00, "another kind"),
    ],
)
def test_a_packet_device_is_no_disk(word: int, kind: str) -> None:
    with pytest.raises(
        ValueError, match=rf"packet device \(.*{kind}.*\), not a disk .*{word:04x}h"
    ):
        identify.parse(data({0: word}))


def test_what_is_neither() -> None:
    with pytest.raises(ValueError, match=r"not an ATA disk \(word 0 is c000h\)"):
        identify.parse(data({0: 0xC000}))


@pytest.mark.parametrize(
    ("word", "wants"),
    [
        (0x37C8, SpinUp.SET_FEATURES),
        (0x738C, SpinUp.SET_FEATURES),
        (0x8C73, SpinUp.ANY_ACCESS),
        (0xC837, SpinUp.NOTHING),
        (0, SpinUp.NOTHING),
    ],
)
def test_power_up_in_standby(word: int, wants: SpinUp) -> None:
    assert identify.spin_up(data({2: word})) is wants


def test_a_drive_that_has_said_too_little() -> None:
    with pytest.raises(ValueError, match="does not spin up"):
        identify.parse(struct.pack("<256H", 0x0044, 0, 0x37C8, *([0] * 253)))


def test_sizes_for_people() -> None:
    assert describe.human_size(512) == "512 B"
    assert describe.human_size(64 << 20) == "64 MiB"
    assert describe.human_size(1536 << 20) == "1.5 GiB"
    assert describe.human_size(5000 << 40) == "5000 TiB"
