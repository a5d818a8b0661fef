# SPDX-License-Identifier: MIT
"""Debian's own pata_sil680 and the tools of every day use our disks."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lab.helpers.kernel_logs import says
from tests.lab.helpers.referee import Referee, image, start
from tests.waiting import at_best

MIB = 1 << 20
SIZE = 512 * MIB
BIG, SMALL, OTHER = (0, 0), (0, 1), (0, 2)
"""An image; a small drive beside it; one on the other channel."""

FILESYSTEMS = {
    "ext4": ("mkfs.ext4 -q -F", "e2fsck -f -n"),
    "xfs": ("mkfs.xfs -q -f", "xfs_repair -n"),
}


@pytest.fixture(scope="module")
def disk_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image(tmp_path_factory.mktemp("referee"), SIZE)


@pytest.fixture(scope="module")
def referee(guest_factory: Any, disk_image: Path) -> Iterator[Referee]:
    yield from start(guest_factory, [f"--image={disk_image}", "--ram=8M", "--ram=64M"])


def drive(referee: Referee, which: tuple[int, int]) -> dict[str, int]:
    counters: dict[str, int] = referee.counters(which[0])["drives"][which[1]]
    return counters


@pytest.mark.parametrize("kind", FILESYSTEMS)
def test_a_filesystem_keeps_what_is_written(referee: Referee, kind: str) -> None:
    """Written, then verified after the cache is gone; the checker finds nothing."""
    make, check = FILESYSTEMS[kind]
    path = referee.disks[BIG].path
    before = drive(referee, BIG)
    referee.run(f"{make} {path} && mkdir -p /mnt/disk && mount {path} /mnt/disk")
    options = "--size=16m --bsrange=4k-256k --verify=crc32c --verify_fatal=1 --ioengine=libaio"
    written = referee.fio("/mnt/disk/a", f"{options} --rw=randwrite --do_verify=0 --end_fsync=1")
    assert written["write"]["io_bytes"] == 16 * MIB
    referee.run(f"umount /mnt/disk && mount {path} /mnt/disk")
    read = referee.fio("/mnt/disk/a", f"{options} --rw=randwrite --verify_only")
    assert read["read"]["io_bytes"] == 16 * MIB
    referee.run(f"umount /mnt/disk && {check} {path}")
    after = drive(referee, BIG)
    assert after["bytes"] - before["bytes"] >= 32 * MIB
    assert after["flushes"] > before["flushes"]
    assert after["errors"] == before["errors"] == 0


def test_direct_io_of_many_sizes_and_depths(referee: Referee) -> None:
    options = (
        "--size=24m --bsrange=512-1m --direct=1 --ioengine=libaio --iodepth=16 "
        "--verify=crc32c --verify_fatal=1 --rw=randwrite --do_verify=1"
    )
    job = referee.fio(referee.disks[OTHER].path, options)
    assert job["write"]["io_bytes"] == job["read"]["io_bytes"] == 24 * MIB


def test_what_hdparm_says_of_the_drive(referee: Referee) -> None:
    said = referee.run(f"hdparm -I {referee.disks[BIG].path}").out
    assert re.search(rf"LBA48  user addressable sectors: +{SIZE // 512}\n", said)
    assert re.search(r"Model Number:\s+USRDRV ATA DISK", said)
    for feature in (
        "SMART feature set",
        "48-bit Address",
        "Data Set Management TRIM",
        "FLUSH_CACHE_EXT",
    ):
        assert re.search(rf"\*\s+(Mandatory )?{feature}", said), feature
    assert "Checksum: correct" in said


def test_the_write_cache_is_switched(referee: Referee) -> None:
    """Without it each write reaches the medium before it ends: the kernel need not flush any more."""
    path = referee.disks[BIG].path
    write = f"dd if=/dev/urandom of={path} bs=64k count=8 oflag=direct conv=notrunc,fsync"
    flushes = []
    for on in (0, 1):
        assert f"write-caching =  {on}" in referee.run(f"hdparm -W{on} {path}").out
        assert f"write-caching =  {on}" in referee.run(f"hdparm -W {path}").out
        mode = ("write through", "write back")[on]
        assert referee.run(f"cat /sys/block/{path[5:]}/queue/write_cache").out.strip() == mode
        before = drive(referee, BIG)
        referee.run(write)
        after = drive(referee, BIG)
        assert after["bytes"] - before["bytes"] >= 8 * 65536
        flushes.append(after["flushes"] - before["flushes"])
    assert flushes[0] == 0
    assert flushes[1] > 0


def test_hdparm_reads_a_sector_and_times_reads(referee: Referee) -> None:
    path = referee.disks[OTHER].path
    (referee.guest.share / "sector").write_bytes(bytes(range(256)) * 2)
    referee.run(f"dd if=/share/sector of={path} bs=512 seek=777 oflag=direct")
    said = referee.run(f"hdparm --read-sector 777 {path}").out
    words = re.findall(r"\b[0-9a-f]{4}\b", said.partition("succeeded")[2])
    assert b"".join(bytes.fromhex(word) for word in words) == bytes(range(256)) * 2
    timed = referee.run(f"hdparm -t {path}").out
    found = re.search(r"reads: +(\d+) MB in .* = +([\d.]+) MB/sec", timed)
    assert found, timed
    assert int(found[1]) > 0


def test_smartctl(referee: Referee) -> None:
    said = referee.run(f"smartctl -a {referee.disks[BIG].path}").out
    assert "SMART overall-health self-assessment test result: PASSED" in said
    assert f"{SIZE:,} bytes" in said
    for name in ("Command_Timeout", "UDMA_CRC_Error_Count", "Current_Pending_Sector"):
        assert re.search(rf"{name} .* 0$", said, re.M), name


def test_discard_gives_the_space_back(referee: Referee, disk_image: Path) -> None:
    path = referee.disks[BIG].path
    referee.run(f"dd if=/dev/urandom of={path} bs=1M count=16 oflag=direct")
    used = disk_image.stat().st_blocks * 512
    before = drive(referee, BIG)
    referee.run(f"blkdiscard -o 4M -l 8M {path}")
    assert drive(referee, BIG)["trims"] > before["trims"]
    assert used - disk_image.stat().st_blocks * 512 >= 7 * MIB
    data = disk_image.read_bytes()[: 16 * MIB]
    assert not any(data[4 * MIB : 12 * MIB])
    assert data.count(0, 0, 4 * MIB) < 4 * MIB / 100, "the rest is still there"
    digest = referee.run(f"dd if={path} bs=1M count=16 iflag=direct | sha256sum").out.split()[0]
    assert digest == hashlib.sha256(data).hexdigest()


def test_badblocks_finds_none_and_finds_one(referee: Referee) -> None:
    path = referee.disks[SMALL].path
    before = drive(referee, SMALL)
    assert referee.run(f"badblocks -w -t 0x5a -b 4096 {path}").out == ""
    assert drive(referee, SMALL)["bytes"] - before["bytes"] >= 2 * 8 * MIB
    with referee.fault("bad-sector", "lba=8000", "drive=1", "on=read"):
        found = referee.run(f"badblocks -b 4096 {path} 1020 980").out.split()
    assert found == ["1000"]
    assert referee.run(f"badblocks -b 4096 {path} 1020 980").out == ""


def test_a_drive_in_standby_wakes_for_a_read(referee: Referee) -> None:
    path = referee.disks[SMALL].path
    referee.run(f"hdparm -y {path}")
    assert "standby" in referee.run(f"hdparm -C {path}").out
    assert (
        referee.run(f"dd if={path} bs=4k count=1 skip=9 iflag=direct | sha256sum").out.split()[0]
        == hashlib.sha256(b"\x5a" * 4096).hexdigest()
    )
    assert "active/idle" in referee.run(f"hdparm -C {path}").out


def test_a_sleeping_drive_is_woken_by_a_reset(referee: Referee) -> None:
    disk = referee.disks[SMALL]
    resets, since = drive(referee, SMALL)["resets"], referee.guest.console.position()
    referee.run(f"hdparm -Y {disk.path}")
    read = referee.run(f"dd if={disk.path} bs=4k count=1 skip=9 iflag=direct | sha256sum")
    assert read.out.split()[0] == hashlib.sha256(b"\x5a" * 4096).hexdigest()
    says(referee.guest, f"{disk.ata}: waking up from sleep", since)
    assert drive(referee, SMALL)["resets"] == resets + 1


def test_the_kernel_suspends_an_idle_drive_and_a_read_wakes_it(referee: Referee) -> None:
    disk = referee.disks[SMALL]
    device = f"/sys/block/{disk.name}/device"
    flushes, since = drive(referee, SMALL)["flushes"], referee.guest.console.position()
    referee.run(f"dd if=/dev/urandom of={disk.path} bs=4k count=1 seek=10 oflag=direct")
    written = referee.run(f"dd if={disk.path} bs=4k count=2 skip=9 iflag=direct | sha256sum").out
    referee.run(
        f"cd {device} && echo 1 | tee scsi_disk/*/manage_runtime_start_stop && "
        "echo 300 >power/autosuspend_delay_ms && echo auto >power/control && "
        "until grep -q suspended power/runtime_status; do sleep 0.1; done"
    )
    says(referee.guest, rf"\[{disk.name}\] Synchronizing SCSI cache", since)
    says(referee.guest, rf"\[{disk.name}\] Stopping disk", since)
    assert drive(referee, SMALL)["flushes"] > flushes, "before it stops"
    suspended = drive(referee, SMALL)["commands"]
    referee.run("sleep 1")
    assert drive(referee, SMALL)["commands"] == suspended, "nobody wakes it"
    referee.run(f"echo 60000 >{device}/power/autosuspend_delay_ms")  # once is enough
    referee.run("echo 1 >/proc/sys/vm/drop_caches")
    read = referee.run(f"dd if={disk.path} bs=4k count=2 skip=9 iflag=direct | sha256sum").out
    assert read == written
    says(referee.guest, rf"\[{disk.name}\] Starting disk", since)
    referee.run(f"echo on >{device}/power/control")
    assert referee.run(f"cat {device}/power/runtime_status").out == "active\n"
    assert "active/idle" in referee.run(f"hdparm -C {disk.path}").out


@pytest.mark.parametrize(
    "options", ["if={0} of=/dev/null iflag=direct", "if=/dev/zero of={0} oflag=direct"]
)
@pytest.mark.parametrize(
    "which",
    [pytest.param(BIG, id="image"), pytest.param(OTHER, id="memory", marks=pytest.mark.rare)],
)
def test_one_interrupt_for_each_command(
    referee: Referee, which: tuple[int, int], options: str
) -> None:
    once_for_each(referee, which, f"dd {options.format(referee.disks[which].path)}", 400)


def once_for_each(referee: Referee, which: tuple[int, int], command: str, count: int) -> None:
    """Interrupts of the chip and of the kernel for each request; a host without a CPU for us adds some."""

    def measure() -> list[float]:
        kernel, chip = referee.interrupts(), referee.counters()
        referee.run(f"{command} bs=4k count={count}")
        after = referee.counters()
        used = after["drives"][which[1]]["sectors"] - chip["drives"][which[1]]["sectors"]
        assert used == count * 8
        raised, taken = after["interrupts"] - chip["interrupts"], referee.interrupts() - kernel
        return [raised / count, taken / count]

    at_best(measure, lambda found: all(0.9 <= x <= 1.2 for x in found), "one interrupt", 200)


def test_interrupts_of_two_busy_channels(referee: Referee) -> None:
    """One interrupt may end a command on either channel: fewer than commands, never many more."""
    one, other = referee.disks[SMALL].path, referee.disks[OTHER].path

    def measure() -> tuple[float, float]:
        kernel, chip = referee.interrupts(), referee.counters()
        referee.run(
            "fio --bs=4k --size=4m --rw=randrw --direct=1 --ioengine=libaio --iodepth=4 "
            f"--name=a --filename={one} --name=b --filename={other}"
        )
        after = referee.counters()
        used = [
            {key: after["drives"][n][key] - chip["drives"][n][key] for key in ("commands", "bytes")}
            for n in (1, 2)
        ]
        assert all(each["bytes"] >= 4 * MIB for each in used)
        commands = sum(each["commands"] for each in used)
        raised, taken = after["interrupts"] - chip["interrupts"], referee.interrupts() - kernel
        return raised / commands, taken / commands

    def few(found: tuple[float, float]) -> bool:
        raised, taken = found
        return 0.5 <= raised <= 1.05 and 0.5 <= taken <= 1.2

    at_best(measure, few, "interrupts for each command", 200)


@contextmanager
def busy() -> Iterator[None]:
    """Leave no processor of this host idle."""
    with ExitStack() as stack:
        for _ in range(os.cpu_count() or 1):
            hog = stack.enter_context(
                subprocess.Popen(["timeout", "300", "sh", "-c", "while :; do :; done"])
            )
            stack.callback(hog.terminate)
        yield


@pytest.mark.rare
def test_no_storm_on_a_busy_host(referee: Referee) -> None:
    """The guest's handler, QEMU and the device stop between any two accesses, for longer than the server waits."""
    with busy():
        command = f"dd if=/dev/zero of={referee.disks[BIG].path} oflag=direct"
        once_for_each(referee, BIG, command, 300)
