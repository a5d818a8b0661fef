# SPDX-License-Identifier: MIT
"""`usrdrv block` in a guest, and those who load its disk."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from tests.lab.helpers import functions
from tests.lab.helpers.kmod import SLOWER, wait
from tests.lab.helpers.loads import again_and_again, all_was_verified, finish, fio, gets_on
from usrdrv.lab.guest import Guest, Job

ADDRESS = "0000:00:10.0"
SIZE = 64 << 20
LOAD = 10 << 20
"""What is written and verified at a time."""


def make_image(folder: Path) -> Path:
    """An empty disk."""
    path = folder / "disk.img"
    with path.open("wb") as file:
        file.truncate(SIZE)
    return path


def end_all(guest: Guest) -> None:
    """Leave nothing that a failed test had started to the next one."""
    guest.run("pkill -9 -x fio; pkill -9 -f '[u]srdrv block'; umount -l /mnt")
    wait(lambda: driver(guest) == "pata_sil680", 60, "the kernel's driver has it again")


class Served:
    """`usrdrv block` with such arguments, for so many drives. process: what its driver's is called."""

    def __init__(
        self, guest: Guest, *arguments: str, process: str = "usrdrv-driver", drives: int = 1
    ) -> None:
        self.guest = guest
        self._process = process
        # A shell's background job would not get SIGINT.
        self.job: Job = guest.start(["usrdrv", "block", ADDRESS, *arguments, "--json"])
        wait(
            lambda: self.job.out.count("\n") == drives or self.job.done.is_set(),
            90,
            "usrdrv block",
        )
        assert self.job.out, self.job.err
        said: list[Any] = [json.loads(line) for line in self.job.out.splitlines()]
        self.info = said[0]
        self.device: str = self.info["device"]
        self.devices: list[str] = [info["device"] for info in said]

    @property
    def restarts(self) -> int:
        return self.job.err.count("; restarted in ")

    def restarted(self, times: int) -> None:
        """Wait until its driver was started again so often in all."""
        wait(
            lambda: self.restarts >= times or self.job.done.is_set(),
            60,
            lambda: f"restart {times} of the driver; there was said:\n{self.job.err}",
        )
        assert self.restarts == times, self.job.err

    def says(self, words: str) -> None:
        """Wait until it has said so on its standard error."""
        wait(
            lambda: words in self.job.err or self.job.done.is_set(),
            60,
            lambda: f"{words!r} in what is said:\n{self.job.err}",
        )
        assert words in self.job.err, self.job.err

    def signal_driver(self, name: str) -> None:
        self.guest.run(f"pkill -{name} -x {self._process}", check=True)

    def kill_driver(self) -> None:
        """kill -9, and wait until there is another one in its place."""
        before = self.restarts
        self.signal_driver("KILL")
        self.restarted(before + 1)

    def end(self, number: int = signal.SIGINT) -> int:
        self.job.signal(number)
        return self.job.wait(60 * SLOWER).code


def driver(guest: Guest) -> str:
    """The kernel's that has the controller."""
    return functions.driver(guest, ADDRESS)


def lives_through_deaths(served: Served, folder: str) -> None:
    """A file system at `folder` on the disk, while its driver dies under load, and the one in its place."""
    guest, device = served.guest, served.device
    load = again_and_again(guest, fio(f"--directory={folder}", size=LOAD))
    for _ in range(2):
        gets_on(guest, device, load, sectors=2048)
        served.kill_driver()
    gets_on(guest, device, load)
    finish(guest, load)
    all_was_verified(load, LOAD)
    assert served.restarts == 2
