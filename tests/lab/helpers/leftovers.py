# SPDX-License-Identifier: MIT
"""What a failed test has started in a guest ends with it, and is not met by the next one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import pytest

from tests.lab.helpers.kernel_logs import watched
from usrdrv.base import errors
from usrdrv.lab.guest import Guest, Job

DEVICES = "usrblk|nbd|md|mapper/"
CLEAN = f"""
awk '$1 ~ "^/dev/({DEVICES})" {{ print $2 }}' /proc/mounts | xargs -r -n 1 umount -l
if grep -Eq '^/dev/({DEVICES})' /proc/swaps; then swapoff -a; fi
if grep -q '^md' /proc/mdstat 2>/dev/null; then mdadm --stop --scan; fi
"""
DISCONNECT = """
cd /sys/block
for disk in nbd*; do
    if awk '{ exit !$9 }' "$disk/stat"; then nbd-client -d "/dev/$disk"; fi
done
"""
"""The kernel's NBD client keeps what a killed driver had for ever, and what waits for it cannot be killed.

Nothing else is in flight by then. Without a request, a device that the jobs made goes with its last close, and one
of a fixture stays.
"""


def end(guest: Guest, jobs: Sequence[Job]) -> None:
    """End these jobs, and take away what they have made: mounts, disks, interfaces.

    LabError if a job does not end, or the guest has died.
    """
    groups = [path.read_text().strip() for job in jobs if (path := job.folder / "pid").exists()]
    kill = f"env kill -KILL -- {' '.join(f'-{group}' for group in groups)}" if groups else ""
    python = f"python3 /src/tests/lab/guest/scenario.py clean {' '.join(groups)}"
    # Deleted before their processes can end, and after these cannot make another one.
    guest.run(f"{CLEAN}\n{kill}\n{python}\n{kill}\n{DISCONNECT}", 300)
    for job in jobs:
        job.wait(120)


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Clean up behind a test that failed, or whose jobs still run. It is set up first, so it comes last."""
    before = [(each.guest, set(each.guest.jobs)) for each in watched]
    failed = request.session.testsfailed
    yield
    for guest, jobs in before:
        if guest.closed:
            continue
        left = [job for job in guest.jobs if job not in jobs and not job.done.wait(2)]
        if left or request.session.testsfailed > failed:
            with suppress(errors.LabError, OSError):  # what is wrong with it the next test will say
                end(guest, left)
