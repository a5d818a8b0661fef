# SPDX-License-Identifier: MIT
"""A disk in memory, served to usrloop: several queues, each with a thread and a channel of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.lab.helpers.kmod import KERNEL, wait
from usrdrv.lab.guest import Guest, Job

QUEUES = 2


@pytest.fixture(scope="module")
def guest(guest_factory: Callable[..., Guest]) -> Guest:
    return guest_factory(kernel=KERNEL, kmod=True, cpus=QUEUES)


@pytest.fixture(params=["", "&delay_us=200"], ids=["at-once", "later"])
def served(guest: Guest, request: pytest.FixtureRequest) -> Iterator[Job]:
    name = f"null:size=64M&queues={QUEUES}&depth=16{request.param}"
    job = guest.start(["usrdrv", "block", name, "--export", "usrloop"])
    wait(lambda: "\n" in job.out or job.done.is_set(), 90, "usrdrv block")
    assert job.out == "/dev/usrblk0\n", job.err
    yield job
    job.signal(2)
    assert job.wait(120).code == 0, job.err


def test_clients_on_all_queues_verify_what_they_wrote(guest: Guest, served: Job) -> None:
    """Each of two jobs is bound to a processor, and so to a queue. The kernel counts requests of both."""
    words = "--rw=randrw --bs=4k-64k --iodepth=16 --size=24M --verify=crc32c --verify_fatal=1"
    guest.run(
        f"fio --name=load --filename=/dev/usrblk0 --direct=1 --ioengine=libaio {words} --numjobs=2 "
        "--offset_increment=32M --cpus_allowed=0-1 --cpus_allowed_policy=split --group_reporting "
        "--output-format=json --output=/share/fio.json",
        600,
        check=True,
    )
    text = (guest.share / "fio.json").read_text()  # behind a warning that there are two writers
    report = json.loads(text[text.index("{") :])["jobs"][0]
    assert report["error"] == 0
    assert report["write"]["io_bytes"] + report["read"]["io_bytes"] >= 2 * 24 << 20
    queues = guest.run("ls -d /sys/block/usrblk0/mq/*", check=True).out.split()
    assert len(queues) == QUEUES


def test_a_file_system(guest: Guest, served: Job) -> None:
    guest.run(
        "mkfs.ext4 -q /dev/usrblk0 && mount /dev/usrblk0 /mnt && cp -a /etc /mnt/a "
        "&& sync && umount /mnt && e2fsck -fn /dev/usrblk0 && mount /dev/usrblk0 /mnt "
        "&& diff -r --no-dereference /etc /mnt/a; R=$?; umount /mnt; exit $R",
        600,
        check=True,
    )


def test_its_driver_that_dies_takes_the_disk_along(guest: Guest) -> None:
    """Its data were the driver's: there is nothing to start again with."""
    job = guest.start(["usrdrv", "block", "null:size=16M", "--export", "usrloop", "--json"])
    wait(lambda: "\n" in job.out or job.done.is_set(), 90, "usrdrv block")
    assert job.out, job.err
    guest.run(f"kill -9 {json.loads(job.out)['driver_pid']}", check=True)
    result = job.wait(120)
    assert result.code == 1 and "null:size=16M: " in result.err
    assert guest.run("test -e /dev/usrblk0").code != 0
