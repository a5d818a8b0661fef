# SPDX-License-Identifier: MIT
"""The 93C46 EEPROM behind MEAR, bit by bit (sections 3.3 and 12 of docs/hardware/dp83820.md)."""

from typing import Final

from usrdrv.device import Device
from usrdrv.drivers.dp83820._dp83820 import lib

BAR: Final = 1
COMMAND_BITS: Final = 9


def _lines(device: Device, value: int) -> None:
    device.write32(BAR, lib.DP83820_MEAR, value)


def _clock(device: Device, bit: int) -> int:
    """One clock with `bit` on the input. Return the output after its rising edge."""
    lines = lib.DP83820_MEAR_EESEL | (lib.DP83820_MEAR_EEDI if bit else 0)
    _lines(device, lines)
    _lines(device, lines | lib.DP83820_MEAR_EECLK)
    out = device.read32(BAR, lib.DP83820_MEAR) & lib.DP83820_MEAR_EEDO
    _lines(device, lines)
    return int(out != 0)


def read_word(device: Device, address: int) -> int:
    """Read one of the 64 words."""
    _lines(device, 0)
    command = lib.DP83820_EE_READ << 6 | address
    for shift in reversed(range(COMMAND_BITS)):
        _clock(device, command >> shift & 1)
    value = 0
    for _ in range(16):
        value = value << 1 | _clock(device, 0)
    _lines(device, 0)
    return value


def read(device: Device) -> list[int]:
    """Read the words that the chip loads, up to the checksum."""
    return [read_word(device, address) for address in range(lib.DP83820_EE_CHECKSUM + 1)]


def checksum_ok(words: list[int]) -> bool:
    """Whether bytes 0 to 25, 0x55 and the checksum add up to nothing."""
    total = 0x55 + (words[lib.DP83820_EE_CHECKSUM] >> 8)
    for word in words[: lib.DP83820_EE_CHECKSUM]:
        total += (word & 0xFF) + (word >> 8)
    return bool(total & 0xFF == 0)


def mac(words: list[int]) -> bytes:
    """Return the station address: the low byte of the last PMATCH word is its first octet."""
    base = lib.DP83820_EE_PMATCH
    return b"".join(words[base + 2 - i].to_bytes(2, "little") for i in range(3))
