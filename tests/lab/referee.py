# SPDX-License-Identifier: MIT
"""A guest whose own kernel drives our controllers: what the tests of the models ask it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from usrdrv.devices import control
from usrdrv.devices.faults import parse_fault
from usrdrv.lab.guest import Guest, Result
from usrdrv.lab.models import Model
from usrdrv.lab.qemu import address


@dataclass(frozen=True)
class Disk:
    """One of our drives, as the guest's kernel sees it."""

    path: str
    """Such as /dev/sda."""
    ata: str
    """libata's name, such as ata1.00."""
    timing: str
    """The mode that libata set, such as XFER_UDMA_6."""

    @property
    def name(self) -> str:
        return self.path.removeprefix("/dev/")


@dataclass
class Referee:
    """A guest with controllers. A drive is (controller, channel * 2 + device)."""

    guest: Guest
    models: list[Model]
    disks: dict[tuple[int, int], Disk] = field(default_factory=dict)

    def find_disks(self) -> None:
        """Ask sysfs which disk is which drive."""
        for number in range(len(self.models)):
            where = f"/sys/bus/pci/devices/{address(number)}"
            listing = self.run(
                f"cd {where}; ls -d ata*; ls -d ata*/host*/target*/*/block/*; "
                "grep -H . ata*/link*/dev*/ata_device/*/dma_mode"
            ).out.split()
            ports = sorted(int(word[3:]) for word in listing if re.fullmatch(r"ata\d+", word))
            for word in listing:
                found = re.match(r"ata(\d+)/host\d+/target\d+:0:(\d)/.*/block/(\w+)$", word)
                if not found:
                    continue
                port, device, name = int(found[1]), int(found[2]), found[3]
                mode = next(
                    other.partition(":")[2]
                    for other in listing
                    if f"/ata_device/dev{port}.{device}/dma_mode:" in other
                )
                self.disks[number, ports.index(port) * 2 + device] = Disk(
                    f"/dev/{name}", f"ata{port}.{device:02}", mode
                )

    def run(self, command: str, timeout: float = 120) -> Result:
        """Run a shell command; it must succeed."""
        return self.guest.run(command, timeout=timeout, check=True)

    def counters(self, model: int = 0) -> dict[str, Any]:
        answer: dict[str, Any] = control.call(self.models[model].control, {"op": "counters"})
        return answer

    def interrupts(self, model: int = 0) -> int:
        """How often the kernel's handler for a controller ran."""
        irq = self.run(f"cat /sys/bus/pci/devices/{address(model)}/irq").out.strip()
        line = self.run(f"grep -w '^ *{irq}:' /proc/interrupts").out
        assert "pata_sil680" in line
        return int(line.split()[1])

    @contextmanager
    def fault(self, *words: str, model: int = 0) -> Iterator[None]:
        """Break something for a while."""
        path = self.models[model].control
        control.call(path, {"op": "fault-add", "fault": parse_fault(words).to_json()})
        try:
            yield
        finally:
            control.call(path, {"op": "fault-clear"})

    def fio(self, target: str, options: str, timeout: float = 300) -> dict[str, Any]:
        """Run fio; returns what it says of its one job, which ended without an error."""
        done = self.run(
            f"fio --name=referee --filename={shlex.quote(target)} --output-format=json {options}",
            timeout,
        )
        (job,) = json.loads(done.out[done.out.index("{") :])["jobs"]
        assert job["error"] == 0
        return dict(job)


def start(boot: Any, *arguments: list[str]) -> Iterator[Referee]:
    """Boot a guest with one controller for each list of arguments of `usrdrv model cmd680`."""
    models: list[Model] = []
    try:
        for each in arguments:
            models.append(Model("cmd680", *each))
        guest = boot([model.socket for model in models])
        referee = Referee(guest, models)
        referee.find_disks()
        yield referee
    finally:
        for model in models:
            model.close()


def image(folder: Path, size: int) -> Path:
    """Return a new file for a drive, all holes."""
    path = folder / "disk.img"
    with path.open("wb") as file:
        file.truncate(size)
    return path
