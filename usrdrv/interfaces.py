# SPDX-License-Identifier: MIT
"""Whether the network interfaces of a PCI function are in use, and what goes over them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Final

IFF_UP: Final = 1
_DEV = re.compile(r"\bdev (\S+)")


def in_use(function: Path) -> list[str]:
    """Which interfaces of a function are in use, in words. function: its folder in sysfs."""
    # Links are not followed: other functions are behind them.
    folders = sorted(path for path in function.rglob("net") if path.is_dir())
    return [text for folder in folders for text in _in_use(folder)]


def _in_use(folder: Path) -> list[str]:
    # sysfs lists the interfaces of the reader's namespace only, but the folder's link count has them all.
    try:
        visible = sorted(folder.iterdir())
        links = folder.stat().st_nlink - 2
    except FileNotFoundError:  # the function has just gone
        return []
    found = [_describe(link.name) for link in visible if _is_up(link)]
    if not visible or links > len(visible):
        found.append("an interface of it is in another network namespace")
    return found


def _is_up(interface: Path) -> bool:
    try:
        return bool(int((interface / "flags").read_text(), 16) & IFF_UP)
    except FileNotFoundError:  # it was renamed this moment; whoever does that has a use for it
        return True


def _describe(name: str) -> str:
    """Say that it is up, and who would miss it most."""
    uses = []
    if any(name in _devices(family, "show", "default") for family in ("-4", "-6")):
        uses.append("the default route")
    client = os.environ.get("SSH_CONNECTION", "").partition(" ")[0]
    if client and name in _devices("-6" if ":" in client else "-4", "get", client):
        uses.append("your SSH session")
    return f"interface {name} is up" + (f", with {' and '.join(uses)}" if uses else "")


def _devices(family: str, *words: str) -> list[str]:
    """The interfaces in what `ip route` says; none where it fails."""
    try:
        done = subprocess.run(
            ["ip", family, "route", *words], capture_output=True, text=True, check=False
        )
    except OSError:
        return []
    return _DEV.findall(done.stdout)
