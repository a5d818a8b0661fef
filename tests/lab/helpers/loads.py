# SPDX-License-Identifier: MIT
"""Those who load a disk or a wire in a guest for as long as the test wants, so that what is to meet them does."""

from __future__ import annotations

import json
from collections.abc import Callable
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


def _more(count: Callable[[], int], than: int, what: str, *loads: Job) -> None:
    """Wait until a count has grown by more than so much. None of the loads has ended."""
    enough = count() + than
    wait(lambda: count() > enough or any(job.done.is_set() for job in loads), 60, what)
    for job in loads:
        assert not job.done.is_set(), job.err + job.out


def gets_on(guest: Guest, device: str, *loads: Job, sectors: int = 0) -> None:
    """Wait until more than so many sectors have been written from now on. None of the loads has ended."""
    _more(lambda: sectors_written(guest, device), sectors, f"writing to {device}", *loads)


FLOW = "tests/lab/guest/flow.py"
WAYS = ("send", "take")
"""Of a flow: from the guest, and to it."""


def flow(guest: Guest, to: str, namespace: str, way: str = "send") -> tuple[Job, Job]:
    """TCP between the guest and a server in a namespace of it. See client()."""
    server = guest.start(f"exec ip netns exec {namespace} python3 /src/{FLOW} serve")
    wait(lambda: server.out or server.done.is_set(), 60, "somebody who listens")
    assert server.out, server.err
    return client(guest, to, way), server


def client(guest: Guest, to: str, way: str) -> Job:
    """TCP to or from a server that listens, until finish() is called. What comes is compared."""
    guest.run(f"rm -f {TOLD}", check=True)
    return guest.start(f"exec python3 /src/{FLOW} {way} {to} {TOLD}")


def flows(guest: Guest, interface: str, *ends: Job) -> None:
    """Wait until 2 MiB have passed an interface of the guest from now on. None of the ends has ended."""
    files = [f"/sys/class/net/{interface}/statistics/{way}_bytes" for way in ("tx", "rx")]

    def passed() -> int:
        return sum(map(int, guest.run(["cat", *files], check=True).out.split()))

    _more(passed, 2 << 20, f"a flow through {interface}", *ends)
