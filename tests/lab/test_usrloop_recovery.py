# SPDX-License-Identifier: MIT
"""What becomes of requests when a server of usrloop dies: each policy, the kill before, during and after the I/O.

                  in flight   new ones while nobody serves        a new server
    fail          EIO         EIO                                 is refused
    queue         EIO         wait, EIO after the recovery time   serves them
    reissue       sent again  likewise                            likewise
    fail-new      EIO         EIO                                 serves new ones

Asked of each: the client's exit code, what it had done before and after, the data, the kernel's log.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lab.helpers.kernel_logs import says
from tests.lab.helpers.kmod import SLOWER, Server, boot, call, delete, state, unload, wait
from tests.lab.helpers.loads import (
    account,
    again_and_again,
    all_was_verified,
    finish,
    fio,
    gets_on,
    reports,
)
from usrdrv.lab.guest import Guest, Job

Boot = Callable[..., Guest]

FAIL, QUEUE, REISSUE, FAIL_NEW = range(4)
NAMES = ("fail", "queue", "reissue", "fail-new")
LIVE, QUIESCED, FAILED, DEAD = 2, 3, 4, 5
LOAD = 4 << 20
DISK: dict[str, Any] = {
    "size": 4 << 20,
    "max_io": 65536,
    "depth": 16,
    "persist": 1,
    "file": "/dev/shm/disk",
}

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def guest(guest_factory: Boot) -> Iterator[Guest]:
    guest = boot(guest_factory, "usrloop_server")
    yield guest
    unload(guest)


@pytest.fixture(autouse=True)
def tidy(guest: Guest) -> Iterator[None]:
    """Nothing of one test is left for the next."""
    yield
    guest.run("pkill -9 -x fio; pkill -9 -x usrloop_server; rm -f /dev/shm/disk; sleep 0.2")
    call(guest, "delete", force=True)
    assert guest.run("ls /dev/usrblk* 2>/dev/null").out == ""


FIO = fio("--filename=/dev/usrblk0", size=LOAD)


def requests(guest: Guest) -> tuple[int, int]:
    """Reads and writes that the disk has done."""
    words = account(guest, "usrblk0")
    return words[0], words[4]


def written(guest: Guest) -> int:
    return requests(guest)[1]


def kernel_errors(guest: Guest, since: int) -> list[str]:
    return re.findall(r".*I/O error, dev usrblk0.*", guest.kernel_log(since))


def errors_are_told(guest: Guest) -> None:
    """Wait until the kernel logs I/O errors again: it logs ten in five seconds of its clock, and drops the rest."""
    stamps = re.findall(r"\[ *(\d+)\.\d+\].*I/O error, dev usrblk0", guest.kernel_log())
    last = int(stamps[-1]) if stamps else -10
    wait(
        lambda: float(guest.run("cat /proc/uptime").out.split()[0]) > last + 7,
        30,
        "time for the next errors in the log",
    )


def dd(guest: Guest, direction: str = "read", at: int = 0) -> Job:
    """One request, not answered from any cache."""
    if direction == "read":
        words = f"if=/dev/usrblk0 iflag=direct of=/dev/null skip={at}"
    else:
        words = f"of=/dev/usrblk0 oflag=direct if=/dev/zero seek={at}"
    return guest.start(f"exec dd {words} bs=4k count=1 status=none")


@pytest.mark.parametrize("policy", range(4), ids=NAMES)
def test_killed_before(guest: Guest, policy: int) -> None:
    """1. the server is killed with nothing in flight  2. a client asks  3. another server comes."""
    log = guest.console.position()
    first = Server(guest, policy=policy, **DISK)
    assert dd(guest, "write").wait().code == 0
    first.kill()
    assert state(guest)["state"] == (DEAD if policy == FAIL else QUIESCED)
    before = requests(guest)
    client = dd(guest)
    if policy in (QUEUE, REISSUE):
        time.sleep(1)  # nothing is to happen
        assert not client.done.is_set(), "it did not wait"
        assert requests(guest) == before
    else:
        assert client.wait().code == 1
        assert "Input/output error" in client.err
    if policy == FAIL:
        second = Server(guest, ready=False, attach=0, **DISK)
        assert second.end() == 1 and "attach: Input/output error" in second.job.err
        assert dd(guest).wait().code == 1
        return
    second = Server(guest, attach=0, **DISK)
    assert second.job.out == "usrblk0 generation 2\n"
    if policy in (QUEUE, REISSUE):
        assert client.wait().code == 0, client.err
        assert not kernel_errors(guest, log)
    all_was_verified(guest.start(FIO), LOAD)
    assert state(guest)["refused"] == 0


@pytest.mark.parametrize("policy", range(4), ids=NAMES)
def test_killed_during(guest: Guest, policy: int) -> None:
    """1. fio writes  2. the server dies (SIGKILL) after any number of them  3. later another one comes; twice."""
    chance = random.Random(policy)
    errors_are_told(guest)
    log = guest.console.position()
    first = Server(guest, policy=policy, die_after=chance.randrange(40, 400), **DISK)
    job = guest.start(FIO)
    servers = [first]
    for _ in range(2 if policy == REISSUE else 1):
        servers[-1].job.wait(60 * SLOWER)
        before = written(guest)
        assert 5 < before < LOAD // 4096, "the kill was not during the writing"
        if policy == FAIL:
            break
        time.sleep(0.3)  # nothing is to happen
        if policy == REISSUE:
            assert written(guest) == before, "something was done without a server"
        again = policy == REISSUE and len(servers) == 1
        more: dict[str, Any] = {"die_after": chance.randrange(40, 400)} if again else {}
        servers.append(Server(guest, attach=0, **more, **DISK))
    result = job.wait(60 * SLOWER)
    if policy == REISSUE:
        all_was_verified(job, LOAD)
        assert not kernel_errors(guest, log)
        assert state(guest)["generation"] == 3
        return
    assert result.code != 0
    (report,) = reports(job)
    assert report["error"] == 5
    assert 5 * 4096 <= report["write"]["io_bytes"] < LOAD
    assert kernel_errors(guest, log)
    if policy == FAIL:
        assert state(guest)["state"] == DEAD
        assert dd(guest).wait().code == 1
    else:
        assert state(guest)["state"] == LIVE
        all_was_verified(guest.start(FIO), LOAD)  # and the next client has no trouble
    assert state(guest)["refused"] == 0


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(
            policy, id=NAMES[policy], marks=pytest.mark.rare if policy in (QUEUE, FAIL_NEW) else ()
        )
        for policy in range(4)
    ],
)
def test_killed_after(guest: Guest, policy: int) -> None:
    """1. fio is through  2. the server is killed  3. what was written is there with the next server."""
    log = guest.console.position()
    first = Server(guest, policy=policy, **DISK)
    job = guest.start(FIO)
    all_was_verified(job, LOAD)
    first.kill()
    assert not kernel_errors(guest, log)
    if policy == FAIL:
        assert dd(guest).wait().code == 1
        delete(guest)
        Server(guest, **DISK)  # another device over the same data
    else:
        Server(guest, attach=0, **DISK)
    assert guest.run("cmp /dev/usrblk0 /dev/shm/disk", check=True)
    assert dd(guest, "write").wait().code == 0


def test_killed_again_and_again(guest: Guest) -> None:
    """fio sees nothing of six deaths, some of them before the server has answered anything."""
    log = guest.console.position()
    chance = random.Random(1)
    Server(guest, policy=REISSUE, die_after=40, queues=2, **DISK)
    job = guest.start(fio("--filename=/dev/usrblk0", size=LOAD, more="--iodepth=32"))
    for generation, n in enumerate((1, 30, 2, 60, 7), 2):
        wait(lambda: state(guest)["state"] == QUIESCED, 30, "death of the server")
        time.sleep(chance.random() / 5)  # any time will do
        server = Server(guest, attach=0, die_after=n, **DISK)
        assert server.job.wait(60 * SLOWER).out == f"usrblk0 generation {generation}\n"
    Server(guest, attach=0, **DISK)
    all_was_verified(job, LOAD)
    assert not kernel_errors(guest, log)
    assert state(guest)["generation"] == 7 and state(guest)["refused"] == 0


@pytest.mark.kernel_log(allow=[r"I/O error, dev usrblk0, sector 7000 "])
@pytest.mark.parametrize("queues", [pytest.param(1, marks=pytest.mark.rare), 2])
def test_a_request_that_every_server_dies_of_fails_alone(guest: Guest, queues: int) -> None:
    """1. fio writes and verifies half of the disk  2. somebody reads what kills the server, and each that comes
    3. only that read fails, and the disk goes on.
    """
    log = guest.console.position()
    options = {**DISK, "die_at": 7000}
    Server(guest, policy=REISSUE, delay_us=1000, queues=queues, **options)
    load = again_and_again(guest, fio("--filename=/dev/usrblk0", size=LOAD // 2))
    gets_on(guest, "usrblk0", load)
    poison = dd(guest, at=7000 // 8)
    servers = 1
    while not poison.done.is_set():
        assert servers < 20, "it is sent again and again"
        wait(lambda: poison.done.is_set() or state(guest)["state"] == QUIESCED, 30, "a death")
        if state(guest)["state"] == QUIESCED:
            Server(guest, ready=False, attach=0, delay_us=1000, **options)
            servers += 1
            wait(lambda n=servers: state(guest)["generation"] == n, 30, "the next server")  # type: ignore[misc]
    assert poison.wait().code == 1 and "Input/output error" in poison.err
    if state(guest)["state"] == QUIESCED:
        Server(guest, attach=0, **options)
    assert state(guest)["state"] == LIVE
    gets_on(guest, "usrblk0", load)
    finish(guest, load)
    all_was_verified(load, LOAD // 2)
    errors = kernel_errors(guest, log)
    assert len(errors) == 1 and "sector 7000 op 0x0:(READ)" in errors[0]
    says(guest, r"usrblk0: request of .* at sector 7000 fails", log)
    assert state(guest)["generation"] >= 4 and state(guest)["refused"] == 0
    assert dd(guest, at=6992 // 8).wait().code == 0


@pytest.mark.parametrize(
    "policy",
    [pytest.param(QUEUE, id="queue", marks=pytest.mark.rare), pytest.param(REISSUE, id="reissue")],
)
def test_nobody_comes_in_time(guest: Guest, policy: int) -> None:
    """Requests wait for the recovery time and no longer; a late server serves new ones all the same."""
    first = Server(guest, policy=policy, recovery_ms=1500, **DISK)
    assert dd(guest, "write").wait().code == 0
    begun = time.monotonic()
    first.kill()
    client = dd(guest)
    assert client.wait().code == 1 and "Input/output error" in client.err
    assert time.monotonic() - begun > 1.5
    assert state(guest)["state"] == FAILED
    assert dd(guest).wait().code == 1
    Server(guest, attach=0, **DISK)
    assert state(guest)["state"] == LIVE
    assert dd(guest).wait().code == 0


def test_a_server_that_comes_back_starts_the_time_anew(guest: Guest) -> None:
    """1. death  2. another server before the time is over  3. its death  4. requests wait the whole time."""
    first = Server(guest, policy=REISSUE, recovery_ms=3000, **DISK)
    assert dd(guest, "write").wait().code == 0
    first.kill()
    time.sleep(1.5)  # less than the recovery time; more is no harm
    second = Server(guest, attach=0, **DISK)
    begun = time.monotonic()
    second.kill()
    assert dd(guest).wait(60 * SLOWER).code == 1
    assert time.monotonic() - begun > 3, "the first server's time was counted"


LONG = 10_000
"""Milliseconds that a server has for a request: longer than a busy host leaves one without a processor."""


def test_a_stopped_server_is_taken_for_dead(guest: Guest) -> None:
    """1. SIGSTOP with a request  2. time-out  3. another has it  4. SIGCONT: what the first says is refused."""
    log = guest.console.position()
    first = Server(guest, policy=REISSUE, timeout_ms=LONG, stop_at_write=1, **DISK)
    client = dd(guest, "write")
    wait(lambda: state(guest)["state"] == QUIESCED, 60, "time-out")
    says(guest, "request not completed within", log)
    assert not client.done.is_set()
    second = Server(guest, attach=0, **DISK)
    assert client.wait().code == 0, client.err
    assert not kernel_errors(guest, log)
    assert state(guest)["refused"] == 0
    first.kill(18)
    assert first.end() == 3, "it was not told that it is no longer the server"
    assert state(guest)["refused"] == 1
    all_was_verified(guest.start(FIO), LOAD)
    assert state(guest)["generation"] == 2
    assert not second.job.done.is_set()


def test_requests_that_waited_long_are_no_fault_of_the_next_server(guest: Guest) -> None:
    """The request time-out counts from when a server got the request, not from when the client asked."""
    first = Server(guest, policy=REISSUE, timeout_ms=LONG, hold_writes=1, **DISK)
    client = dd(guest, "write")
    wait(lambda: state(guest)["state"] == QUIESCED, 30, "time-out")
    assert first.end() == 3
    time.sleep(LONG / 1000 - 0.5)  # less than the next server's delay; more is no harm
    Server(guest, attach=0, delay_us=900000, **DISK)
    assert client.wait(30 * SLOWER).code == 0
    assert state(guest)["generation"] == 2 and state(guest)["state"] == LIVE


def test_detached_while_serving(guest: Guest) -> None:
    """A supervisor takes the device from a server that lives, and gives it to another one, under load."""
    log = guest.console.position()
    first = Server(guest, policy=REISSUE, delay_us=200, **DISK)
    load = again_and_again(guest, FIO)
    gets_on(guest, "usrblk0", load, sectors=400)
    assert call(guest, "detach") == 0
    assert first.end() == 3
    Server(guest, attach=0, **DISK)
    gets_on(guest, "usrblk0", load)
    finish(guest, load)
    all_was_verified(load, LOAD)
    assert not kernel_errors(guest, log)


def test_every_so_many_requests_fail(guest: Guest) -> None:
    """Errors are those of the requests that had them; nothing else suffers."""
    Server(guest, error_every=7, **DISK)
    codes = [dd(guest, "write", at).wait().code for at in range(8)]
    assert 0 in codes and 1 in codes
    assert state(guest)["state"] == LIVE and state(guest)["refused"] == 0


def test_the_block_layer_fails_requests(guest: Guest) -> None:
    """fail_make_request: the clients are told, the server never hears of it, and then all is as before."""
    Server(guest, **DISK)
    before = written(guest)
    faults = "/sys/kernel/debug/fail_make_request"
    guest.run(
        f"cd {faults} && echo 0 >verbose && echo -1 >times && echo 3 >interval && "
        "echo 100 >probability && echo 1 >/sys/block/usrblk0/make-it-fail",
        check=True,
    )
    try:
        codes = [dd(guest, "write", at).wait(60 * SLOWER).code for at in range(9)]
    finally:
        guest.run(f"echo 0 >{faults}/probability", check=True)
    assert codes.count(1) == 3 and codes.count(0) == 6, codes
    assert written(guest) - before == 6
    all_was_verified(guest.start(FIO), LOAD)
    assert state(guest)["state"] == LIVE and state(guest)["refused"] == 0
