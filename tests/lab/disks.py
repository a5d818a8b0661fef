# SPDX-License-Identifier: MIT
"""`usrdrv block` in a guest, and those who load its disk."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from kmod import SLOWER, wait

from usrdrv.lab.guest import Guest, Job

ADDRESS = "0000:00:10.0"
SIZE = 64 << 20
LOAD = 10 << 20


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

    def signal_driver(self, name: str) -> None:
        self.guest.run(f"pkill -{name} -x {self._process}", check=True)

    def kill_driver(self) -> None:
        """kill -9, and wait until there is another one in its place."""
        before = self.restarts
        self.signal_driver("KILL")
        wait(lambda: self.restarts > before, 60, f"restart: {self.job.err}")

    def end(self, number: int = signal.SIGINT) -> int:
        self.job.signal(number)
        return self.job.wait(60 * SLOWER).code


def driver(guest: Guest) -> str:
    """The kernel's that has the controller."""
    link = guest.run(f"readlink /sys/bus/pci/devices/{ADDRESS}/driver").out
    return link.strip().rpartition("/")[2]


def _account(guest: Guest, device: str) -> list[int]:
    """The kernel's own, of a disk (Documentation/block/stat.rst)."""
    words = guest.run(f"cat /sys/block/{Path(device).name}/stat", check=True).out.split()
    return list(map(int, words))


def sectors_written(guest: Guest, device: str) -> int:
    return _account(guest, device)[6]


def in_flight(guest: Guest, device: str) -> int:
    """How many requests are under way."""
    return _account(guest, device)[8]


def start_fio(guest: Guest, folder: str) -> Job:
    """Write for at least six seconds, however fast the disk is: what is to happen meanwhile takes its time."""
    return guest.start(
        f"fio --name=v --directory={folder} --rw=randwrite --bs=4k --size={LOAD} --direct=1 "
        "--thinktime=20ms --thinktime_blocks=8 "
        "--ioengine=libaio --iodepth=8 --verify=crc32c --do_verify=1 --verify_fatal=1 "
        "--output-format=json --output=/share/fio.json"
    )


def all_was_written_and_verified(guest: Guest, fio: Job) -> None:
    result = fio.wait(300 * SLOWER)
    assert result.code == 0, result.err
    report = json.loads((guest.share / "fio.json").read_text())["jobs"][0]
    assert report["error"] == 0
    assert report["write"]["io_bytes"] == LOAD
    assert report["read"]["io_bytes"] == LOAD, "verified less than was written"


def lives_through_deaths(served: Served, folder: str) -> None:
    """A file system at `folder` on the disk, while its driver dies three times under load."""
    guest, device = served.guest, served.device
    fio = start_fio(guest, folder)
    for _ in range(3):
        before = sectors_written(guest, device)
        wait(lambda n=before: sectors_written(guest, device) > n + 2048, 60, "I/O before the kill")  # type: ignore[misc]
        assert not fio.done.is_set(), (served.restarts, fio.out, fio.err)
        served.kill_driver()
    before = sectors_written(guest, device)
    wait(lambda: sectors_written(guest, device) > before, 60, "I/O after the kill")
    all_was_written_and_verified(guest, fio)
    assert served.restarts == 3
