# SPDX-License-Identifier: MIT
"""The CMD680 model with its drives, made and broken from Python."""

import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usrdrv.base.errors import NoSuchDeviceError, UsageError, UsrdrvError
from usrdrv.devices._models import ffi, lib
from usrdrv.devices.base.c_model import Model
from usrdrv.devices.base.images import check_size, open_image, parse_size
from usrdrv.devices.base.options import flag, number
from usrdrv.devices.cmd680.faults import Fault
from usrdrv.names import split_options

DRIVES: int = lib.CMD680_DRIVES
CFA = (0x848A, 0x844A, 0x044A, 0x0040)
"""Word 0 of cards: the CompactFlash specification's three, and 844Ah, which libata knows too."""
PUIS = (
    lib.ATA_PUIS_SET_FEATURES_SHORT,
    lib.ATA_PUIS_SET_FEATURES,
    lib.ATA_PUIS_ACCESS_SHORT,
    lib.ATA_PUIS_ACCESS,
)
CLASSES = (0x0101, 0x0104, 0x0180)


@dataclass(frozen=True)
class DriveSpec:
    """One disk: an image file or `ram` bytes of memory. `None` modes: the drive has none."""

    image: Path | None = None
    ram: int | None = None
    read_only: bool = False
    serial: str | None = None
    model: str = "USRDRV ATA DISK"
    firmware: str = "1.0"
    max_udma: int | None = 6
    max_mwdma: int | None = 2
    lba48: bool = True
    trim: bool = True
    rpm: int = 7200
    physical_4k: bool = False
    cfa: int = 0
    """Word 0 of IDENTIFY of a CompactFlash card, one of CFA; 0: a disk's."""
    flush: bool = True
    """It has the flush commands, and a cache."""
    puis: int = 0
    """It powers up in standby: word 2 of IDENTIFY, one of PUIS; 0: it does not."""
    spin_up: float = 0.0
    """Seconds."""

    def __post_init__(self) -> None:
        if (self.image is None) == (self.ram is None):
            raise UsageError("a drive needs either an image or a RAM size")
        if self.ram is not None:
            check_size(self.ram, "RAM drive")
        for name, text, length in (
            ("serial", self.serial or "", 20),
            ("model", self.model, 40),
            ("firmware", self.firmware, 8),
        ):
            if len(text) > length or not (text.isascii() and (text.isprintable() or not text)):
                raise UsageError(f"{name} {text!r}: at most {length} printable ASCII characters")
        if self.max_udma is not None and not 0 <= self.max_udma <= 6:
            raise UsageError(f"UDMA mode {self.max_udma} is not between 0 and 6")
        if self.max_mwdma is not None and not 0 <= self.max_mwdma <= 2:
            raise UsageError(f"MWDMA mode {self.max_mwdma} is not between 0 and 2")
        if self.rpm not in (0, 1) and not 0x401 <= self.rpm <= 0xFFFE:
            raise UsageError(f"rotation rate {self.rpm}: 0 (unknown), 1 (none) or 1025 to 65534")
        for name, word, words in (("cfa", self.cfa, CFA), ("puis", self.puis, PUIS)):
            if word and word not in words:
                known = ", ".join(f"{each:04x}" for each in words)
                raise UsageError(f"{name}={word:04x}: one of {known}")
        if not 0 <= self.spin_up <= 3600:
            raise UsageError(f"spinup={self.spin_up:g}: 0 to 3600 seconds")


class Cmd680Model(Model):
    """A controller with up to four drives (index = channel * 2 + device)."""

    kind = "cmd680"
    fault_type = Fault

    def __init__(
        self,
        drives: Sequence[DriveSpec | None],
        *,
        cable80: tuple[bool, bool] = (True, True),
        pci_class: int = 0x0180,
        bar5: bool = True,
        strict: bool = False,
    ) -> None:
        if len(drives) > DRIVES:
            raise UsageError(f"{len(drives)} drives: the controller has room for {DRIVES}")
        if pci_class not in CLASSES:
            raise UsageError(f"PCI class {pci_class:#06x}: one of 0x0101, 0x0104, 0x0180")
        self.drives = tuple(drives) + (None,) * (DRIVES - len(drives))
        config = ffi.new("struct cmd680_config *")
        config.pci_class = pci_class
        config.no_bar5 = not bar5
        config.strict = strict
        config.cable80 = [int(wires) for wires in cable80]
        fds: list[int] = []
        try:
            for index, spec in enumerate(self.drives):
                if spec is not None:
                    _fill(config.drive[index], spec, index, fds)
            out = ffi.new("struct usrdrv_model **")
            err = lib.cmd680_create(config, out)
        finally:
            for fd in fds:
                os.close(fd)
        if err:
            raise UsrdrvError(f"cannot make the CMD680 model: {os.strerror(-err)}")
        super().__init__(out[0])

    def add_fault(self, fault: Fault) -> int:
        """Break something; the id is for clear_fault. NoSuchDeviceError if there is no such drive."""
        if fault.drive is not None and self.drives[fault.drive] is None:
            raise NoSuchDeviceError(f"{fault.kind}: there is no drive {fault.drive}")
        return super().add_fault(fault)

    def counters(self) -> dict[str, Any]:
        """Controller counters by name, and under `drives` those of each drive (None: absent)."""
        c = self._counters()
        names = [name for name, _ in ffi.typeof("struct cmd680_drive_counters").fields]
        drives = [
            {name: int(getattr(c.drive[i], name)) for name in names} if spec else None
            for i, spec in enumerate(self.drives)
        ]
        return {**super().counters(), "drives": drives}

    def status(self) -> dict[str, Any]:
        """What the model is made of."""
        return {
            "model": self.kind,
            "drives": [
                None
                if spec is None
                else {
                    "image": str(spec.image) if spec.image else None,
                    "ram": spec.ram,
                    "read_only": spec.read_only,
                }
                for spec in self.drives
            ],
        }


MODEL = Cmd680Model


def _fill(c: Any, spec: DriveSpec, index: int, fds: list[int]) -> None:
    serial = spec.serial
    if spec.image is not None:
        fd, size = open_image(spec.image, read_only=spec.read_only)
        fds.append(fd)
        identity = str(spec.image.resolve())
    else:
        assert spec.ram is not None
        fd, size = -1, spec.ram
        identity = f"ram{index}:{size}"
    if serial is None:
        # Stable over restarts: an initiator recognises its disk by it.
        serial = f"USRDRV{zlib.crc32(os.fsencode(identity)):08X}"
    if not spec.lba48 and size // 512 > lib.ATA_LBA28_MAX:
        raise UsageError(f"drive {index}: {size} bytes need 48-bit addressing")
    c.present = 1
    c.fd = fd
    c.size = size
    c.read_only = spec.read_only
    c.serial = serial.encode("ascii")
    c.model = spec.model.encode("ascii")
    c.firmware = spec.firmware.encode("ascii")
    c.max_udma = -1 if spec.max_udma is None else spec.max_udma
    c.max_mwdma = -1 if spec.max_mwdma is None else spec.max_mwdma
    c.lba48 = spec.lba48
    c.trim = spec.trim
    c.rpm = spec.rpm
    c.physical_4k = spec.physical_4k
    c.general = spec.cfa
    c.no_flush = not spec.flush
    c.puis = spec.puis
    c.spin_up_ms = round(spec.spin_up * 1000)


def _mode(key: str, text: str) -> int | None:
    if text.lower() == "none":
        return None
    return number(key, text)


def _word(key: str, text: str) -> int:
    """A word of IDENTIFY in hexadecimal; 1 is the usual one, 0 none."""
    usual = {"cfa": CFA[0], "puis": PUIS[0]}[key.rstrip("0123")]
    return {"0": 0, "1": int(usual)}.get(text) or number(key, text, 16)


def _seconds(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{key}={text}: not a number of seconds") from None


# option name without its drive number -> (DriveSpec field, how to read it)
DRIVE_OPTIONS: dict[str, tuple[str, Any]] = {
    "image": ("image", lambda key, text: Path(text)),
    "ram": ("ram", lambda key, text: parse_size(text)),
    "ro": ("read_only", flag),
    "read_only": ("read_only", flag),
    "serial": ("serial", lambda key, text: text),
    "model": ("model", lambda key, text: text),
    "firmware": ("firmware", lambda key, text: text),
    "udma": ("max_udma", _mode),
    "mwdma": ("max_mwdma", _mode),
    "lba48": ("lba48", flag),
    "trim": ("trim", flag),
    "rpm": ("rpm", number),
    "4k": ("physical_4k", flag),
    "cfa": ("cfa", _word),
    "flush": ("flush", flag),
    "puis": ("puis", _word),
    "spinup": ("spin_up", _seconds),
}


def _split(key: str) -> tuple[str, int]:
    """`image1` -> ("image", 1); a name without a number means drive 0."""
    if key in DRIVE_OPTIONS:
        return key, 0
    if key[:-1] in DRIVE_OPTIONS and key[-1:] in ("0", "1", "2", "3"):
        return key[:-1], int(key[-1])
    known = ", ".join([*DRIVE_OPTIONS, "cable0", "cable1", "class", "bar5", "strict"])
    raise UsageError(f"unknown option {key!r} for cmd680: known are {known}")


def from_options(options: str | Mapping[str, Sequence[str]]) -> Cmd680Model:
    """Make a model from `image=a.img&image1=b.img&ram2=64M&cable0=40`.

    Drive options take the drive's number (0-3; none means 0). `cableN` is 40 or 80 wires of
    channel N, `class` the PCI class code in hexadecimal, `bar5` whether it has one, `strict` whether it refuses
    what a card would not do.
    """
    specs: list[dict[str, Any]] = [{} for _ in range(DRIVES)]
    cables = [True, True]
    pci_class, bar5, strict = 0x0180, True, False
    for key, text in split_options(options).items():
        if key in ("cable0", "cable1"):
            if text not in ("40", "80"):
                raise UsageError(f"{key}={text}: 40 or 80 wires")
            cables[int(key[-1])] = text == "80"
        elif key == "class":
            pci_class = number(key, text, 16)
        elif key == "bar5":
            bar5 = flag(key, text)
        elif key == "strict":
            strict = flag(key, text)
        else:
            name, drive = _split(key)
            field, read = DRIVE_OPTIONS[name]
            if field in specs[drive]:
                raise UsageError(f"option {key} is given twice")
            specs[drive][field] = read(key, text)
    drives: list[DriveSpec | None] = []
    for index, spec in enumerate(specs):
        if spec and not {"image", "ram"} & set(spec):
            raise UsageError(f"drive {index} has options ({', '.join(spec)}) but no image or ram")
        drives.append(DriveSpec(**spec) if spec else None)
    return Cmd680Model(
        drives, cable80=(cables[0], cables[1]), pci_class=pci_class, bar5=bar5, strict=strict
    )
