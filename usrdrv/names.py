# SPDX-License-Identifier: MIT
"""Names of devices: `0000:03:00.0`, `vfio-user:/path`, `model:cmd680?image=FILE`, `qemu:edu`, `null:size=1G`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from usrdrv.base.errors import UsageError
from usrdrv.base.sockets import check_socket_path

_PCI = re.compile(r"^(?:([0-9a-fA-F]{4,8}):)?([0-9a-fA-F]{2}):([0-9a-fA-F]{2})\.([0-7])$")


@dataclass(frozen=True)
class PciName:
    """A function of this machine's PCI bus; `address` is as sysfs has it: 0000:03:00.0, 10000:01:00.0."""

    address: str


@dataclass(frozen=True)
class VfioUserName:
    """A device model or emulator on a Unix socket."""

    path: Path


@dataclass(frozen=True)
class ModelName:
    """A device model in this process; `options` as in a query string."""

    kind: str
    options: str


@dataclass(frozen=True)
class QemuName:
    """A PCI device of QEMU's in a machine of its own; `options` as in a query string."""

    device: str
    options: str


@dataclass(frozen=True)
class NullName:
    """A disk in the memory of its driver's process; `options` as in a query string."""

    options: str


Name = PciName | VfioUserName | ModelName | QemuName | NullName


def parse(text: str) -> Name:
    """Return what `text` names; UsageError says what names look like."""
    if match := _PCI.match(text):
        domain, bus, slot, function = match.groups()
        # Behind VMD, and where a hypervisor passes functions through, domains have more than four digits.
        return PciName(f"{int(domain or '0', 16):04x}:{bus}:{slot}.{function}".lower())
    scheme, colon, rest = text.partition(":")
    if colon and rest and scheme == "vfio-user":
        check_socket_path(Path(rest))
        return VfioUserName(Path(rest).absolute())
    if colon and rest and scheme == "model":
        kind, _, options = rest.partition("?")
        return ModelName(kind, options)
    if colon and rest and scheme == "qemu":
        device, _, options = rest.partition("?")
        return QemuName(device, options)
    if colon and scheme == "null":
        return NullName(rest)
    raise UsageError(
        f"{text}: not a device name "
        "(0000:03:00.0, vfio-user:/path, model:cmd680?image=FILE, qemu:nvme?drive=FILE or null:size=1G)"
    )


def split_options(options: Any) -> dict[str, str]:
    """Options of a name, or a mapping with lists of values, each given once."""
    if isinstance(options, str):
        try:
            # A plus sign is itself: these are names of files.
            query = options.replace("+", "%2B")
            options = parse_qs(query, keep_blank_values=True, strict_parsing=bool(query))
        except ValueError:
            raise UsageError(f"bad options {options!r}: expected name=value&name=value") from None
    for key, texts in options.items():
        if len(texts) != 1:
            raise UsageError(f"option {key} is given {len(texts)} times")
    return {key: texts[0] for key, texts in options.items()}
