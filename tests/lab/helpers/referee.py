# SPDX-License-Identifier: MIT
"""A guest whose own kernel drives our controllers: what the tests of the models ask it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from usrdrv.base import errors
from usrdrv.devices import control
from usrdrv.devices.cmd680.faults import Fault
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

    @property
    def name(self) -> str:
        return self.path.removeprefix("/dev/")

    @property
    def port(self) -> str:
        return self.ata.partition(".")[0]


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
            listing = self.run(f"cd {where}; ls -d ata* ata*/host*/target*/*/block/*").out.split()
            ports = sorted(int(word[3:]) for word in listing if re.fullmatch(r"ata\d+", word))
            for word in listing:
                found = re.match(r"ata(\d+)/host\d+/target\d+:0:(\d)/.*/block/(\w+)$", word)
                if not found:
                    continue
                port, device, name = int(found[1]), int(found[2]), found[3]
                which = number, ports.index(port) * 2 + device
                self.disks[which] = Disk(f"/dev/{name}", f"ata{port}.{device:02}")

    def timing(self, disk: Disk) -> str:
        """Return the mode that libata has set, such as XFER_UDMA_6."""
        device = f"dev{disk.port[3:]}.{int(disk.ata[-2:])}"
        return self.run(f"cat /sys/class/ata_device/{device}/dma_mode").out.strip()

    def run(self, command: str, timeout: float = 120) -> Result:
        """Run a shell command; it must succeed."""
        return self.guest.run(command, timeout=timeout, check=True)

    def ask(self, model: int, request: dict[str, Any]) -> Any:
        """Ask a model through its control socket; a dead one's last words are in the error."""
        child = self.models[model].child
        try:
            return control.call(self.models[model].control, request)
        except errors.NoSuchDeviceError as error:
            said = "; ".join(child.lines)
            raise AssertionError(f"model {model} {child.status()}: {said} ({error})") from error

    def counters(self, model: int = 0) -> dict[str, Any]:
        return dict(self.ask(model, {"op": "counters"}))

    def interrupts(self, model: int = 0) -> int:
        """How often the kernel's handler for a controller ran."""
        irq = self.run(f"cat /sys/bus/pci/devices/{address(model)}/irq").out.strip()
        line = self.run(f"grep -w '^ *{irq}:' /proc/interrupts").out
        assert "pata_sil680" in line
        return int(line.split()[1])

    def break_it(self, *words: str, model: int = 0) -> None:
        """Add a fault."""
        fault = Fault.parse(words).to_json()
        self.ask(model, {"op": "fault-add", "fault": fault})

    def mend(self, model: int = 0) -> None:
        """Take all faults away."""
        self.ask(model, {"op": "fault-clear"})

    @contextmanager
    def fault(self, *words: str, model: int = 0) -> Iterator[None]:
        """Break something for a while."""
        self.break_it(*words, model=model)
        try:
            yield
        finally:
            self.mend(model)

    def fio(self, target: str, options: str, timeout: float = 300) -> dict[str, Any]:
        """Run fio; returns what it says of its one job, which ended without an error."""
        done = self.run(
            f"fio --name=referee --filename={shlex.quote(target)} --output-format=json {options}",
            timeout,
        )
        (job,) = json.loads(done.out[done.out.index("{") :])["jobs"]
        assert job["error"] == 0
        return dict(job)


def start(boot: Any, *arguments: list[str], **machine: Any) -> Iterator[Referee]:
    """Boot a guest with one controller for each list of arguments of `usrdrv model cmd680`."""
    with ExitStack() as stack:
        models = [stack.enter_context(Model("cmd680", *each)) for each in arguments]
        guest = stack.enter_context(boot([model.socket for model in models], **machine))
        referee = Referee(guest, models)
        referee.find_disks()
        yield referee


def image(folder: Path, size: int) -> Path:
    """Return a new file for a drive, all holes."""
    path = folder / "disk.img"
    with path.open("wb") as file:
        file.truncate(size)
    return path
