# SPDX-License-Identifier: MIT
"""Who uses a block device, as far as /proc and sysfs show it: mounts, swap, and devices stacked on it.

For messages. What it does not show (mounts of a namespace without a process, what was unmounted lazily,
programs) the kernel knows all the same: whether a disk is in use is asked in usrdrv.disks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """A mount point, and the same as a path from here: through the root folder of a process that sees it."""

    where: str
    path: Path


def unescape(field: str) -> str:
    """Undo the octal escapes of mountinfo."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)


def _processes() -> Iterator[Path]:
    """One process for each mount namespace, ourselves first."""
    seen = set()
    for process in (PROC / "self", *PROC.glob("[0-9]*")):
        try:
            namespace = (process / "ns/mnt").readlink()
        except OSError:
            continue
        if namespace not in seen:
            seen.add(namespace)
            yield process


def partitions(disk: Path) -> list[Path]:
    """The folders in sysfs of a disk's partitions. disk: the disk's own folder."""
    return [p.parent for p in sorted(disk.glob(f"{disk.name}*/partition"))]


def number(disk: Path) -> str:
    """The device number, such as 8:0; empty once the device is gone."""
    try:
        return (disk / "dev").read_text().strip()
    except OSError:
        return ""


def node(disk: Path) -> Path:
    """Where its node in /dev is: sysfs has ! where the name has /."""
    return Path("/dev") / disk.name.replace("!", "/")


def table(process: Path) -> list[str]:
    """The lines of a process's mountinfo. A path in it may have any byte but a newline."""
    return os.fsdecode((process / "mountinfo").read_bytes()).rstrip("\n").split("\n")


def mounts(disk: Path) -> Iterator[Mount]:
    """Mounts of a disk and its partitions, in every mount namespace that a process has."""
    parts = [disk, *partitions(disk)]
    numbers = {number(part) for part in parts}
    nodes = {str(node(part)) for part in parts}
    for process in _processes():
        try:
            lines = table(process)
        except OSError:
            continue
        for line in lines:
            fields, _, rest = line.partition(" - ")
            _, _, device, _, where, *_ = fields.split()
            # btrfs has device numbers of its own: there the source tells.
            if device in numbers or unescape(rest.split()[1]) in nodes:
                path = unescape(where)
                yield Mount(path, process / "root" / path.lstrip("/"))


def holders(disk: Path) -> list[str]:
    """Names of the devices that are made of a disk or its partitions: md, dm."""
    return [
        holder.name
        for part in (disk, *partitions(disk))
        for holder in sorted((part / "holders").glob("*"))
    ]


def users(disk: Path) -> list[str]:
    """Where the disk or a partition of it is in use, in words. disk: its folder in sysfs."""
    found = [f"/dev/{name}" for name in holders(disk)]
    found += (mount.where for mount in mounts(disk))
    try:
        swaps = {line.split()[0] for line in (PROC / "swaps").read_text().splitlines()}
    except OSError:
        swaps = set()
    if swaps & {str(node(part)) for part in (disk, *partitions(disk))}:
        found.append("swap")
    return list(dict.fromkeys(found))
