# SPDX-License-Identifier: MIT
"""The CMD680 model with its drives, made and broken from Python."""

import errno
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from usrdrv.closing import Closing
from usrdrv.devices._models import ffi, lib
from usrdrv.devices.faults import Fault
from usrdrv.devices.images import check_size, open_image, parse_size
from usrdrv.errors import NoSuchDeviceError, UsageError, UsrdrvError

DRIVES: int = lib.CMD680_DRIVES
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


class Cmd680Model(Closing):
    """A controller with up to four drives (index = channel * 2 + device)."""

    kind = "cmd680"

    def __init__(
        self,
        drives: Sequence[DriveSpec | None],
        *,
        cable80: tuple[bool, bool] = (True, True),
        pci_class: int = 0x0180,
    ) -> None:
        if len(drives) > DRIVES:
            raise UsageError(f"{len(drives)} drives: the controller has room for {DRIVES}")
        if pci_class not in CLASSES:
            raise UsageError(f"PCI class {pci_class:#06x}: one of 0x0101, 0x0104, 0x0180")
        self.drives = tuple(drives) + (None,) * (DRIVES - len(drives))
        config = ffi.new("struct cmd680_config *")
        config.pci_class = pci_class
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
        self._model = out[0]

    @property
    def pointer(self) -> int:
        """`struct usrdrv_model *` for the shell that runs it; valid until close()."""
        return int(ffi.cast("uintptr_t", self._open()))

    def _open(self) -> Any:
        if self._model is None:
            raise UsrdrvError("the model is closed")
        return self._model

    def add_fault(self, fault: Fault) -> int:
        """Break something; the id is for clear_fault."""
        result = int(lib.cmd680_fault_add(self._open(), fault.to_c()))
        if result == -errno.ENODEV:
            raise NoSuchDeviceError(f"{fault.kind}: there is no drive {fault.drive}")
        if result == -errno.ENOSPC:
            raise UsageError("too many faults at once")
        if result < 0:
            raise UsageError(f"{fault.kind}: {os.strerror(-result)}")
        return result

    def clear_fault(self, fault_id: int | None = None) -> int:
        """Mend one fault, or all of them; returns how many."""
        if fault_id is not None and not 0 < fault_id < 1 << 32:
            raise UsageError(f"there is no fault {fault_id}")
        result = int(lib.cmd680_fault_clear(self._open(), fault_id or 0))
        if result < 0:
            raise UsageError(f"there is no fault {fault_id}")
        return result

    def faults(self) -> list[Fault]:
        """The faults that are active now."""
        room = 64
        array = ffi.new("struct cmd680_fault[]", room)
        n = lib.cmd680_fault_list(self._open(), array, room)
        return [Fault.from_c(array[i]) for i in range(min(n, room))]

    def counters(self) -> dict[str, Any]:
        """Controller counters by name, and under `drives` those of each drive (None: absent)."""
        c = ffi.new("struct cmd680_counters *")
        lib.cmd680_counters(self._open(), c)
        result = {
            name: int(getattr(c, name))
            for name, _ in ffi.typeof("struct cmd680_counters").fields
            if name != "drive"
        }
        names = [name for name, _ in ffi.typeof("struct cmd680_drive_counters").fields]
        drives = [
            {name: int(getattr(c.drive[i], name)) for name in names} if spec else None
            for i, spec in enumerate(self.drives)
        ]
        return {**result, "drives": drives}

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

    def close(self) -> None:
        """Free the model; whoever ran it has stopped. Waits for a flush in progress."""
        if self._model is not None:
            model, self._model = self._model, None
            model.ops.destroy(model)


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


def _flag(key: str, text: str) -> bool:
    if text.lower() in ("1", "yes", "true", "on"):
        return True
    if text.lower() in ("0", "no", "false", "off"):
        return False
    raise UsageError(f"{key}={text}: expected 1 or 0")


def _mode(key: str, text: str) -> int | None:
    if text.lower() == "none":
        return None
    return _int(key, text)


def _int(key: str, text: str, base: int = 0) -> int:
    try:
        return int(text, base)
    except ValueError:
        raise UsageError(f"{key}={text}: not a number") from None


# option name without its drive number -> (DriveSpec field, how to read it)
_DRIVE_OPTIONS: dict[str, tuple[str, Any]] = {
    "image": ("image", lambda key, text: Path(text)),
    "ram": ("ram", lambda key, text: parse_size(text)),
    "ro": ("read_only", _flag),
    "read_only": ("read_only", _flag),
    "serial": ("serial", lambda key, text: text),
    "model": ("model", lambda key, text: text),
    "firmware": ("firmware", lambda key, text: text),
    "udma": ("max_udma", _mode),
    "mwdma": ("max_mwdma", _mode),
    "lba48": ("lba48", _flag),
    "trim": ("trim", _flag),
    "rpm": ("rpm", _int),
    "4k": ("physical_4k", _flag),
}


def _split(key: str) -> tuple[str, int]:
    """`image1` -> ("image", 1); a name without a number means drive 0."""
    if key in _DRIVE_OPTIONS:
        return key, 0
    if key[:-1] in _DRIVE_OPTIONS and key[-1:] in ("0", "1", "2", "3"):
        return key[:-1], int(key[-1])
    known = ", ".join([*_DRIVE_OPTIONS, "cable0", "cable1", "class"])
    raise UsageError(f"unknown option {key!r} for cmd680: known are {known}")


def from_options(options: str | Mapping[str, Sequence[str]]) -> Cmd680Model:
    """Make a model from `image=a.img&image1=b.img&ram2=64M&cable0=40`.

    Drive options take the drive's number (0-3; none means 0). `cableN` is 40 or 80 wires of
    channel N, `class` the PCI class code in hexadecimal.
    """
    if isinstance(options, str):
        try:
            options = parse_qs(options, keep_blank_values=True, strict_parsing=bool(options))
        except ValueError:
            raise UsageError(
                f"bad model options {options!r}: expected name=value&name=value"
            ) from None
    specs: list[dict[str, Any]] = [{} for _ in range(DRIVES)]
    cables = [True, True]
    pci_class = 0x0180
    for key, texts in options.items():
        if len(texts) != 1:
            raise UsageError(f"option {key} is given {len(texts)} times")
        text = texts[0]
        if key in ("cable0", "cable1"):
            if text not in ("40", "80"):
                raise UsageError(f"{key}={text}: 40 or 80 wires")
            cables[int(key[-1])] = text == "80"
        elif key == "class":
            pci_class = _int(key, text, 16)
        else:
            name, drive = _split(key)
            field, read = _DRIVE_OPTIONS[name]
            if field in specs[drive]:
                raise UsageError(f"option {key} is given twice")
            specs[drive][field] = read(key, text)
    drives: list[DriveSpec | None] = []
    for index, spec in enumerate(specs):
        if spec and not {"image", "ram"} & set(spec):
            raise UsageError(f"drive {index} has options ({', '.join(spec)}) but no image or ram")
        drives.append(DriveSpec(**spec) if spec else None)
    return Cmd680Model(drives, cable80=(cables[0], cables[1]), pci_class=pci_class)
