# SPDX-License-Identifier: MIT
"""Who uses a block device: mounts in any mount namespace, swap, and devices stacked on it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MOMENT: Final = 0.1
"""Seconds."""
TRIES: Final = 5
"""To see the same users twice."""

_OCTAL = re.compile(r"\\([0-7]{3})")


def unescape(field: str) -> str:
    """Undo the octal escapes of mountinfo."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)


def _mount_tables() -> Iterator[Path]:
    """One mountinfo for each mount namespace, ours first."""
    seen = set()
    for process in (Path("/proc/self"), *Path("/proc").glob("[0-9]*")):
        try:
            namespace = (process / "ns/mnt").readlink()
        except OSError:
            continue
        if namespace not in seen:
            seen.add(namespace)
            yield process / "mountinfo"


def users(name: str, sysfs: Path = Path("/sys/block")) -> list[str]:
    """Where the disk `name` (such as loop0) or a partition of it is in use, in words.

    Who makes a mount namespace (a container that starts) has all mounts in it for a moment: no user.
    """
    found = _users(name, sysfs)
    for _ in range(TRIES):
        if not found:
            break
        time.sleep(MOMENT)
        before, found = found, _users(name, sysfs)
        if found == before:
            break
    return found


def _users(name: str, sysfs: Path) -> list[str]:
    disks = [sysfs / name, *(p.parent for p in (sysfs / name).glob(f"{name}p*/partition"))]
    numbers, nodes = set(), {f"/dev/{disk.name}" for disk in disks}
    found: list[str] = []
    for disk in disks:
        try:
            numbers.add((disk / "dev").read_text().strip())
            found += (f"/dev/{holder.name}" for holder in (disk / "holders").iterdir())
        except OSError:
            continue
    for table in _mount_tables():
        try:
            lines = table.read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            fields, _, rest = line.partition(" - ")
            _, _, number, _, where, *_ = fields.split()
            if number in numbers or unescape(rest.split()[1]) in nodes:
                found.append(unescape(where))
    try:
        swaps = Path("/proc/swaps").read_text().splitlines()[1:]
    except OSError:
        swaps = []
    found += ("swap" for swap in swaps if swap.split()[0] in nodes)
    return list(dict.fromkeys(found))
