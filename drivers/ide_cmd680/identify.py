# SPDX-License-Identifier: MIT
"""What a drive says of itself: IDENTIFY DEVICE and SMART (docs/hardware/cmd680.md section 7.5)."""

import struct
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from usrdrv.drivers.ide_cmd680._cmd680 import lib

CFA_SIGNATURES: Final = (0x848A, 0x844A)
"""Word 0 of a CompactFlash card that does not look like a disk (CF+ and CompactFlash Specification; libata).

The others that it may have, 044Ah and 0040h, do.
"""

PACKET_KINDS: Final = {0x00: "disk", 0x01: "tape", 0x05: "CD-ROM", 0x07: "optical disk"}
"""By bits 12:8 of word 0 of IDENTIFY PACKET DEVICE."""


class SpinUp(Enum):
    """What a drive that powers up in standby waits for (word 2, section 7.5)."""

    NOTHING = auto()
    SET_FEATURES = auto()
    ANY_ACCESS = auto()
    """Of its medium; until then it says little of itself."""


_SPIN_UP: Final = {
    lib.ATA_PUIS_SET_FEATURES_SHORT: SpinUp.SET_FEATURES,
    lib.ATA_PUIS_SET_FEATURES: SpinUp.SET_FEATURES,
    lib.ATA_PUIS_ACCESS_SHORT: SpinUp.ANY_ACCESS,
}


@dataclass(frozen=True)
class Identity:
    """IDENTIFY DEVICE, decoded. Sizes in sectors of 512 bytes unless the name says otherwise."""

    model: str
    serial: str
    firmware: str
    sectors: int
    cylinders: int
    heads: int
    sectors_per_track: int
    lba48: bool
    dma: bool
    pio_highest: int
    mwdma_mask: int
    udma_mask: int
    selected: str
    iordy: bool
    major_version: int
    physical_block: int
    """bytes"""
    rpm: int
    """0: not said; 1: no rotating medium"""
    smart: bool
    write_cache: bool
    write_cache_enabled: bool
    flush: bool
    fua: bool
    trim: bool
    sees_80_wires: bool
    cfa: bool
    """A CompactFlash card."""

    @property
    def size(self) -> int:
        """Capacity in bytes."""
        return self.sectors * 512


def _text(words: tuple[int, ...], first: int, last: int) -> str:
    """Return an ATA string: two characters a word, the first in the high byte."""
    raw = b"".join(word.to_bytes(2, "big") for word in words[first : last + 1])
    return raw.decode("ascii", "replace").replace("\0", " ").strip()


def _valid(word: int) -> bool:
    """Words 83, 84, 87, 93, 106 count only with bits 15:14 = 01."""
    return word >> 14 == 1


def _selected(mwdma: int, udma: int) -> str:
    for name, mask in (("UDMA", udma >> 8 & 0x7F), ("MWDMA", mwdma >> 8 & 0x07)):
        if mask:
            return f"{name}{mask.bit_length() - 1}"
    return "PIO"


def spin_up(data: bytes) -> SpinUp:
    """Tell what a drive wants before the rest of its IDENTIFY DEVICE data counts."""
    return _SPIN_UP.get(int.from_bytes(data[4:6], "little"), SpinUp.NOTHING)


def _is_cfa(w: tuple[int, ...]) -> bool:
    """By its signature, or by its feature set (word 83), as libata tells."""
    return w[0] in CFA_SIGNATURES or (_valid(w[83]) and bool(w[83] >> 2 & 1))


def _refuse_other_kinds(w: tuple[int, ...]) -> None:
    """ValueError unless word 0 is a disk's or a CompactFlash card's."""
    if not w[0] & 0x8000 or _is_cfa(w):
        return
    if w[0] >> 14 == 0b10:
        kind = PACKET_KINDS.get(w[0] >> 8 & 0x1F, "of another kind")
        raise ValueError(f"a packet device ({kind}), not a disk (word 0 is {w[0]:04x}h)")
    raise ValueError(f"not an ATA disk (word 0 is {w[0]:04x}h)")


def parse(data: bytes) -> Identity:
    """Decode the 512 bytes of IDENTIFY DEVICE; ValueError if this is no ATA disk that can be used."""
    if len(data) != 512:
        raise ValueError(f"IDENTIFY data of {len(data)} bytes")
    w = struct.unpack("<256H", data)
    _refuse_other_kinds(w)
    if data[510] == 0xA5 and sum(data) & 0xFF:
        raise ValueError("IDENTIFY data with a bad checksum")
    if w[0] & 0x8004 == 0x0004 and not w[49]:
        raise ValueError("drive that does not spin up")
    if not w[49] >> 9 & 1:
        raise ValueError("drive without LBA")
    commands = w[83] if _valid(w[83]) else 0
    enabled = _valid(w[87])
    lba48 = bool(commands >> 10 & 1) and any(w[100:104])
    sectors = int.from_bytes(data[200:208], "little") if lba48 else w[60] | w[61] << 16
    extra = w[84] if _valid(w[84]) else 0
    fields_88 = bool(w[53] >> 2 & 1)
    fields_64 = bool(w[53] >> 1 & 1)
    pio = 2 + (w[64] & 3).bit_length() if fields_64 and w[64] & 3 else min(w[51] >> 8, 2)
    logical_per_physical = 1 << (w[106] & 0xF) if _valid(w[106]) and w[106] >> 13 & 1 else 1
    major = 0 if w[80] in (0, 0xFFFF) else w[80].bit_length() - 1
    return Identity(
        model=_text(w, 27, 46),
        serial=_text(w, 10, 19),
        firmware=_text(w, 23, 26),
        sectors=sectors,
        cylinders=w[1],
        heads=w[3],
        sectors_per_track=w[6],
        lba48=lba48,
        dma=bool(w[49] >> 8 & 1),
        pio_highest=pio,
        mwdma_mask=w[63] & 0x07 if w[49] >> 8 & 1 else 0,
        udma_mask=w[88] & 0x7F if fields_88 else 0,
        selected=_selected(w[63], w[88] if fields_88 else 0),
        iordy=bool(w[49] >> 11 & 1),
        major_version=major,
        physical_block=512 * logical_per_physical,
        rpm=w[217] if major >= 7 and (w[217] == 1 or 0x401 <= w[217] < 0xFFFF) else 0,
        smart=bool(w[82] & 1) and _valid(w[83]),
        write_cache=bool(w[82] >> 5 & 1) and _valid(w[83]),
        write_cache_enabled=bool(w[85] >> 5 & 1) and enabled,
        flush=bool(commands >> 12 & 1 or commands >> 13 & 1),
        fua=lba48 and bool(extra >> 6 & 1),
        trim=bool(w[169] & 1) and major >= 7 and lba48,
        sees_80_wires=_valid(w[93]) and bool(w[93] >> 13 & 1),
        cfa=_is_cfa(w),
    )


@dataclass(frozen=True)
class SmartAttribute:
    """One attribute of SMART READ DATA with its threshold."""

    id: int
    value: int
    worst: int
    threshold: int
    raw: int


def parse_smart(data: bytes, thresholds: bytes) -> list[SmartAttribute]:
    """Decode SMART READ DATA and READ THRESHOLDS, 512 bytes each; ValueError on a bad checksum."""
    for name, block in (("data", data), ("thresholds", thresholds)):
        if len(block) != 512 or sum(block) & 0xFF:
            raise ValueError(f"SMART {name} with a bad checksum")
    limits = {thresholds[at]: thresholds[at + 1] for at in range(2, 362, 12)}
    return [
        SmartAttribute(
            id=data[at],
            value=data[at + 3],
            worst=data[at + 4],
            threshold=limits.get(data[at], 0),
            raw=int.from_bytes(data[at + 5 : at + 11], "little"),
        )
        for at in range(2, 362, 12)
        if data[at]
    ]
