# SPDX-License-Identifier: MIT
"""The devices that there are here and a driver for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from usrdrv import claim, pci
from usrdrv.base.sockets import has_client
from usrdrv.drivers import supported


@dataclass(frozen=True)
class Found:
    """A device that could be opened.

    `owner`: pid of the process that has it, None if there is none or it is not known. `used`: whether
    somebody has it; None: cannot be told from here.
    """

    name: str
    vendor: int
    device: int
    driver: str
    owner: int | None
    used: bool | None


def list_devices() -> list[Found]:
    """Return what can be opened here: running models, and PCI functions that there is a driver for."""
    chips = supported.chips()
    modelled = {chip.model: (ids, chip.driver) for ids, chip in chips.items()}
    claims = claim.held()
    found = []
    for claimed in sorted(claims):
        if claimed.startswith(claim.SERVED):
            kind, _, name = claimed.removeprefix(claim.SERVED).partition(" ")
            ids, driver = modelled[kind]
            owner = claims.get(name)
            path = Path(name.removeprefix("vfio-user:"))
            found.append(Found(name, *ids, driver, owner, owner is not None or has_client(path)))
    for entry in sorted(Path("/sys/bus/pci/devices").glob("*")):
        try:
            ids = pci.Function(entry.name).ids
        except (OSError, ValueError):
            continue
        if chip := chips.get(ids):
            owner = claims.get(entry.name)
            found.append(Found(entry.name, *ids, chip.driver, owner, owner is not None))
    return found
