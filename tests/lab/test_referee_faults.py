# SPDX-License-Identifier: MIT
"""Each fault that a model can have ends in stock libata as libata documents it, and the drive works afterwards."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.lab.helpers.referee import Disk, Referee, start
from tests.waiting import still, until
from usrdrv.devices.cmd680.faults import Fault
from usrdrv.lab.guest import Job, Result

PAGE = 4096
SECTOR = 80
"""Where the command in question begins."""

STEADY, SLOWED, STUCK, GONE, HUNG = range(5)
"""Controllers. What takes libata long happens on ones of their own, beside the rest."""

TIMEOUT, PATIENT = 2, 120
"""Seconds that the guest's kernel gives a command that is to be late, and each other one."""

TIMED_OUT = (
    r"{ata}: exception Emask 0x0 .* frozen",
    r"{ata}: failed command: READ DMA",
    r"res .* Emask 0x4 \(timeout\)",
)
DEVICE_FAULT = (
    r"{ata}: failed command: WRITE DMA",
    r"res 71/04:.*\(device error\)",
    r"{ata}: status: \{{ DRDY DF ERR \}}",
    r"{ata}: error: \{{ ABRT \}}",
    r"\[{name}\] .*Sense Key : Hardware Error",
    r"I/O error, dev {name}, sector 80 op 0x1:\(WRITE\)",
)
BUS_ERROR = (
    r"res 51/84:.*\(ATA bus error\)",
    r"{ata}: status: \{{ DRDY ERR \}}",
    r"{ata}: error: \{{ ICRC ABRT \}}",
    r"{port}: soft resetting link",
    r"{port}: EH complete",
)


@dataclass(frozen=True)
class Case:
    """A fault, the command that meets it, how that ends, and what the kernel says, in this order."""

    words: str
    says: tuple[str, ...] = ()
    write: bool = False
    fails: bool = False
    seconds: float = 0

    @property
    def kind(self) -> str:
        return self.words.split()[0]

    @property
    def timeout(self) -> int:
        return TIMEOUT if TIMED_OUT[-1] in self.says else PATIENT


QUICK = [
    Case(
        "bad-sector lba=83 on=read",
        (
            r"{ata}: failed command: READ DMA",
            r"cmd c8/00:08:50:00:00/.* dma 4096 in",
            r"res 51/40:\w+:53:00:00/.*\(media error\)",
            r"{ata}: status: \{{ DRDY ERR \}}",
            r"{ata}: error: \{{ UNC \}}",
            r"\[{name}\] .*Sense Key : Medium Error",
            r"I/O error, dev {name}, sector 83 op 0x0:\(READ\)",
        ),
        fails=True,
    ),
    Case("bad-sector lba=80 on=write", DEVICE_FAULT, write=True, fails=True),
    Case("write-fault", DEVICE_FAULT, write=True, fails=True),
    Case("crc count=1 on=read", (r"{ata}: failed command: READ DMA", *BUS_ERROR)),
    Case("crc count=1 on=write", (r"{ata}: failed command: WRITE DMA", *BUS_ERROR), write=True),
    Case(
        "lost-irq count=1",
        (r"{port}: lost interrupt \(Status 0x50\)", *TIMED_OUT, r"{port}: soft resetting link"),
        seconds=TIMEOUT,
    ),
    Case(
        "dma-abort",
        (r"{port}: lost interrupt \(Status 0x58\)", *TIMED_OUT, r"{port}: soft resetting link"),
        seconds=TIMEOUT,
    ),
    Case("slow seek_ms=300", seconds=0.3),
    Case(
        "slow seek_ms=600000 count=1", (*TIMED_OUT, r"{port}: soft resetting link"), seconds=TIMEOUT
    ),
]
LONG = {
    STUCK: Case(
        "stuck-bsy",
        (
            *TIMED_OUT,
            r"{port}: device not ready \(errno=-16\), forcing hardreset",
            *[r"{port}: SRST failed \(errno=-16\)"] * 4,
            r"{port}: reset failed, giving up",
            r"{ata}: disable device",
            r"I/O error, dev {name}, sector 80",
        ),
        fails=True,
        seconds=45,
    ),
    GONE: Case(
        "unplug",
        (
            *TIMED_OUT,
            r"{port}: soft resetting link",
            r"{ata}: revalidation failed \(errno=-2\)",
            r"{ata}: disable device",
            r"I/O error, dev {name}, sector 80",
        ),
        fails=True,
        seconds=TIMEOUT,
    ),
    HUNG: Case(
        "hang count=1",
        (
            *TIMED_OUT,
            r"{port}: device not ready \(errno=-16\), forcing hardreset",
            r"{port}: soft resetting link",
            r"{port}: EH complete",
        ),
        seconds=TIMEOUT + 10,
    ),
}


@pytest.fixture(scope="module")
def referee(guest_factory: Any) -> Iterator[Referee]:
    for referee in start(guest_factory, *[["--ram=16M"]] * 5):
        for disk in referee.disks.values():
            give_time(referee, disk, PATIENT)
        yield referee


def give_time(referee: Referee, disk: Disk, seconds: int) -> None:
    """Have the guest's kernel wait so long for each command of a drive."""
    referee.run(f"echo {seconds} >/sys/block/{disk.name}/device/timeout")


@dataclass
class Attempt:
    """A command on a drive with a fault, from its start to what came of it."""

    referee: Referee
    case: Case
    controller: int

    def __post_init__(self) -> None:
        guest = self.referee.guest
        self.old, self.new = (os.urandom(PAGE * 16) for _ in range(2))
        self.files = {name: f"/share/{name}{self.controller}" for name in ("old", "new", "got")}
        for name, data in (("old", self.old), ("new", self.new)):
            (guest.share / f"{name}{self.controller}").write_bytes(data)
        self.referee.run(f"dd if={self.files['old']} of={self.disk.path} bs=64k oflag=direct")
        path = self.referee.run(f"readlink -f /sys/block/{self.disk.name}").out
        self.port_folder = path.partition("/host")[0]
        self.since = guest.console.position()

    @property
    def disk(self) -> Disk:
        return self.referee.disks[self.controller, 0]

    def command(self) -> str:
        """One page, at the sector in question."""
        if self.case.write:
            return (
                f"dd if={self.files['new']} of={self.disk.path} bs=4k count=1 skip=10 seek=10 "
                "oflag=direct conv=notrunc"
            )
        return f"dd if={self.disk.path} of={self.files['got']} bs=4k count=1 skip=10 iflag=direct"

    def log(self, since: int) -> str:
        return self.referee.guest.kernel_log(since)

    def check(self, done: Result) -> None:
        """Exit code, duration, data and the kernel's log; then the drive works, without a word."""
        case, disk = self.case, self.disk
        assert (done.code != 0) == case.fails
        took = re.search(r"copied, ([\d.e+-]+) s", done.err)
        assert took and float(took[1]) >= case.seconds
        here = slice(10 * PAGE, 11 * PAGE)
        if not case.write and not case.fails:
            got = (self.referee.guest.share / f"got{self.controller}").read_bytes()
            assert got == self.old[here]
        self.expect(case.says)
        if not case.says:
            assert f"{disk.ata}: exception" not in self.log(self.since)
        if case.kind in ("unplug", "stuck-bsy"):
            self.bring_back()
            disk = self.disk
        give_time(self.referee, disk, PATIENT)
        quiet = self.referee.guest.console.position()
        expected = self.new if case.write and not case.fails else self.old
        assert self.read(10, 1) == expected[here], "what failed has not reached the medium"
        self.referee.run(f"dd if={self.files['new']} of={disk.path} bs=64k oflag=direct")
        assert self.read(0, 16) == self.new
        assert disk.ata not in self.log(quiet)

    def read(self, page: int, count: int) -> bytes:
        self.referee.run(
            f"dd if={self.disk.path} of={self.files['got']} bs=4k skip={page} count={count} "
            "iflag=direct"
        )
        return (self.referee.guest.share / f"got{self.controller}").read_bytes()

    def expect(self, patterns: tuple[str, ...]) -> None:
        """Wait until all are there, each after the one before it."""
        until(
            lambda: not self.missing(patterns),
            lambda: f"{self.missing(patterns)} in:\n{self.log(self.since)}",
        )

    def missing(self, patterns: tuple[str, ...]) -> str:
        """The first that is not there yet."""
        disk, log, at = self.disk, self.log(self.since), 0
        for pattern in patterns:
            text = pattern.format(ata=disk.ata, port=disk.port, name=disk.name)
            found = re.compile(text).search(log, at)
            if not found:
                return text
            at = found.end()
        return ""

    def bring_back(self) -> None:
        """The drive, whole again, is found when somebody looks for it."""
        self.referee.run(f"echo '- - -' >$(echo {self.port_folder}/host*/scsi_host/*/scan)")

        def back() -> bool:
            command = f"dd if={self.disk.path} of=/dev/null count=8 iflag=direct"
            if not self.referee.guest.run(command).code:
                return True
            self.referee.find_disks()  # maybe under another name
            return False

        until(back, f"{self.disk.path} comes back")


@pytest.fixture(scope="module", autouse=True)
def ordeals(referee: Referee) -> dict[int, tuple[Attempt, Job]]:
    """Start the commands that take libata long."""
    found = {}
    for number, case in LONG.items():
        attempt = Attempt(referee, case, number)
        give_time(referee, attempt.disk, case.timeout)
        referee.break_it(*case.words.split(), "drive=0", model=number)
        found[number] = attempt, referee.guest.start(attempt.command())
    return found


def test_every_kind_of_fault_is_here() -> None:
    assert {case.kind for case in (*QUICK, *LONG.values())} | {"spurious-irq"} == set(Fault.KINDS)


@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.words.replace(" ", "-"))
def test_a_fault(referee: Referee, case: Case) -> None:
    attempt = Attempt(referee, case, STEADY)
    before = referee.counters(STEADY)["drives"][0]
    give_time(referee, attempt.disk, case.timeout)
    with referee.fault(*case.words.split(), "drive=0", model=STEADY):
        done = referee.guest.run(attempt.command())
        after = referee.counters(STEADY)["drives"][0]
        assert after["commands"] > before["commands"]
        assert after["bytes"] - before["bytes"] >= PAGE
    attempt.check(done)


def test_a_spurious_interrupt_is_taken_and_forgotten(referee: Referee) -> None:
    attempt = Attempt(referee, Case("spurious-irq"), STEADY)
    before, raised = referee.interrupts(STEADY), referee.counters(STEADY)["interrupts"]
    with referee.fault("spurious-irq", "drive=0", model=STEADY):
        assert referee.counters(STEADY)["interrupts"] == raised + 1
        until(lambda: referee.interrupts(STEADY) > before, "the interrupt")
        still(lambda: referee.interrupts(STEADY))  # no storm
    attempt.check(referee.run(attempt.command()))


def test_crc_errors_make_the_drive_slower_until_they_end(referee: Referee) -> None:
    """A cable that carries UDMA 2 at most: libata steps down, and then all is well.

    On a controller that has had no CRC errors yet: libata remembers them.
    """
    attempt = Attempt(referee, Case("crc above=2"), SLOWED)
    with referee.fault("crc", "above=2", "drive=0", model=SLOWED):
        ends = [referee.guest.run(attempt.command()).code for _ in range(6)]
        assert ends[-1] == 0, "a command may use up its retries on the way"
        attempt.expect(
            (*BUS_ERROR, r"{ata}: limiting speed to UDMA/", r"{ata}: configured for UDMA/33")
        )
        before = referee.counters(SLOWED)["drives"][0]["crc_errors"]
        assert attempt.read(0, 16) == attempt.old
        assert referee.counters(SLOWED)["drives"][0]["crc_errors"] == before > 0
    assert referee.timing(attempt.disk) == "XFER_UDMA_2"
    said = referee.run(f"smartctl -A {attempt.disk.path}").out
    assert re.search(rf"UDMA_CRC_Error_Count .* {before}$", said, re.M)


def test_faults_that_take_libata_long(ordeals: dict[int, tuple[Attempt, Job]]) -> None:
    """Last: they have gone on since the guest was up."""
    ends = {number: job.wait(300) for number, (_, job) in ordeals.items()}
    for number, (attempt, _) in ordeals.items():
        attempt.referee.mend(number)
        attempt.check(ends[number])
    for number in (HUNG, STUCK):
        attempt = ordeals[number][0]
        said = attempt.referee.run(f"smartctl -A {attempt.disk.path}").out
        assert re.search(r"Command_Timeout .* [1-9]\d*$", said, re.M)
