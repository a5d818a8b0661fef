# SPDX-License-Identifier: MIT
"""Those who load a disk or a wire in a guest for as long as the test wants, so that what is to meet them does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.lab.helpers.kmod import SLOWER, wait
from usrdrv.lab.guest import Guest, Job

TOLD = "/tmp/finish"
"""The file in the guest at which a load ends."""


def again_and_again(guest: Guest, command: str) -> Job:
    """Run a command once and again until it fails or finish() is called, after which it is not begun anew."""
    guest.run(f"rm -f {TOLD}", check=True)
    return guest.start(f"while {command}; do [ ! -e {TOLD} ] || exit 0; done; exit 1")


def finish(guest: Guest, *loads: Job) -> None:
    """Let those that run be the last ones, and wait for their good ends."""
    guest.run(f"touch {TOLD}", check=True)
    for job in loads:
        result = job.wait(300 * SLOWER)
        assert result.code == 0, result.err


def writing(guest: Guest, device: str, block: str = "64k") -> Job:
    """Write to the beginning of a disk."""
    return again_and_again(
        guest,
        f"dd if=/dev/zero of={device} bs={block} count=16 oflag=direct conv=nocreat,notrunc status=none",
    )


def fio(*places: str, size: int, more: str = "") -> str:
    """The command that writes so many bytes to each place, at random, and reads all of them back.

    places: options of fio such as --filename=/dev/sda; more: others, for all of them.
    """
    return (
        f"fio --rw=randwrite --bs=4k --size={size} --direct=1 --ioengine=libaio --iodepth=8 "
        f"--verify=crc32c --do_verify=1 --verify_fatal=1 --output-format=json {more} "
        + " ".join(f"--name=v {place}" for place in places)
    )


def reports(job: Job) -> list[Any]:
    """What fio has printed of each place, run after run."""
    text, found, end = job.out, [], 0
    while (begin := text.find("{", end)) >= 0:  # behind a warning
        report, end = json.JSONDecoder().raw_decode(text, begin)
        found += report["jobs"]
    return found


def all_was_verified(job: Job, size: int) -> None:
    """Each run of fio has written all and read all of it back."""
    assert job.wait(300 * SLOWER).code == 0, job.err + job.out
    runs = reports(job)
    assert runs
    for run in runs:
        assert run["error"] == 0
        assert run["write"]["io_bytes"] == size
        assert run["read"]["io_bytes"] == size, "verified less than was written"


def account(guest: Guest, device: str) -> list[int]:
    """The kernel's own, of a disk (Documentation/block/stat.rst)."""
    words = guest.run(f"cat /sys/block/{Path(device).name}/stat", check=True).out.split()
    return list(map(int, words))


def sectors_written(guest: Guest, device: str) -> int:
    return account(guest, device)[6]


def in_flight(guest: Guest, device: str) -> int:
    """How many requests are under way."""
    return account(guest, device)[8]


def gets_on(guest: Guest, device: str, *loads: Job, sectors: int = 0) -> None:
    """Wait until more than so many sectors have been written from now on. None of the loads has ended."""
    before = sectors_written(guest, device)
    wait(
        lambda: (
            sectors_written(guest, device) > before + sectors
            or any(job.done.is_set() for job in loads)
        ),
        60,
        f"writing to {device}",
    )
    for job in loads:
        assert not job.done.is_set(), job.err + job.out


def flow(guest: Guest, to: str, namespace: str) -> tuple[Job, Job]:
    """TCP to somebody in a namespace, until finish() is called with both ends; what comes is compared."""
    guest.run(f"rm -f {TOLD}", check=True)
    script = "python3 /src/tests/lab/guest/flow.py"
    taker = guest.start(f"exec ip netns exec {namespace} {script} take")
    wait(lambda: taker.out or taker.done.is_set(), 60, "somebody who listens")
    assert taker.out, taker.err
    return guest.start(f"exec {script} send {to} {TOLD}"), taker
