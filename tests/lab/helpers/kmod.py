# SPDX-License-Identifier: MIT
"""usrloop.ko in guests of the tests, and what is served through it: servers in C, built static.

USRDRV_LAB_KERNEL says which kernel these tests run on: base (the default) or debug.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.compiled import compiled
from tests.files import GUEST, ROOT
from tests.waiting import until
from usrdrv.lab import kmod
from usrdrv.lab.guest import Guest, Job

KERNEL = os.environ.get("USRDRV_LAB_KERNEL", "base")
DEBUG = KERNEL == "debug"
SLOWER = 8 if DEBUG else 1
"""How much longer things may take."""
CROWDED = 3
"""And again where others have the processors, too: guests of other tests, builds."""


def program(name: str) -> Path:
    """A program in C of tests/lab/guest, static, for any guest."""
    return compiled(
        [GUEST / f"{name}.c", ROOT / "usrdrv/loop/loop.c"],
        ["usrdrv/include", "loopback-kmod/include/uapi"],
        *("-static", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"),
    )


def boot(factory: Callable[..., Guest], *programs: str, **options: Any) -> Guest:
    """Start a guest that has the module loaded, and the C programs `programs` in /share."""
    module = kmod.build(KERNEL, selftest=True)
    # QEMU does not see what virtiofsd writes to the guest's memory. If that held code, it would go on with the old
    # code, translated: so pages are zeroed by the guest when they are freed.
    options = {"cpus": 2, "memory": 2048 if DEBUG else 1024, "append": "init_on_free=1", **options}
    guest = factory(kernel=KERNEL, timeout=120 * SLOWER, **options)
    shutil.copy(module, guest.share)
    for name in programs:
        shutil.copy(program(name), guest.share / name)
    quiet(guest)
    load(guest)
    return guest


def quiet(guest: Guest) -> None:
    """Mount debugfs. Without this, the debug kernel's kmemleak scans of its own accord.

    That keeps RCU waiting for half a minute, and with it the end of a server; the scans of leaks() will do.
    """
    guest.run("mount -t debugfs debugfs /sys/kernel/debug", check=True)
    if DEBUG:
        guest.run("echo scan=off >/sys/kernel/debug/kmemleak", check=True)


def load(guest: Guest) -> None:
    guest.run("insmod /share/usrloop.ko", 60 * SLOWER, check=True)


def unload(guest: Guest) -> None:
    """Unload the module; on the debug kernel, look for memory that it left."""
    guest.run("rmmod usrloop", 60 * SLOWER, check=True)
    if DEBUG:
        assert leaks(guest, "usrloop", "usrblk") == ""


def leaks(guest: Guest, *names: str) -> str:
    """What kmemleak finds that has one of the names in it. It takes two scans to be sure."""
    scan = "echo scan >/sys/kernel/debug/kmemleak"
    guest.run(f"{scan}; sleep 6; {scan}", 600, check=True)
    found = guest.run("cat /sys/kernel/debug/kmemleak", 60).out.split("unreferenced object")
    return "".join(entry for entry in found if any(name in entry for name in names))


def wait(condition: Callable[[], Any], seconds: float, what: str | Callable[[], str]) -> None:
    """Wait until something is so. seconds: far more than it takes on a machine that has nothing else to do."""
    until(condition, what, seconds * SLOWER * CROWDED)


class Server:
    """usrloop_server in a guest; options as it has them."""

    def __init__(self, guest: Guest, ready: bool = True, **options: Any) -> None:
        self.guest = guest
        words = [f"{name}={value}" for name, value in options.items()]
        self.job: Job = guest.start(["/share/usrloop_server", "serve", *words])
        self.name = ""
        if ready:
            self.wait_ready()

    def wait_ready(self) -> None:
        wait(lambda: "\n" in self.job.out or self.job.done.is_set(), 30, "server")
        assert self.job.out, self.job.err
        self.name = self.job.out.split()[0]

    @property
    def device(self) -> str:
        return f"/dev/{self.name}"

    def kill(self, number: int = 9) -> None:
        self.job.signal(number)
        if number == 9:
            self.job.wait(30 * SLOWER)

    def end(self) -> int:
        """Wait for its end; return its exit code."""
        return self.job.wait(30 * SLOWER).code


def call(guest: Guest, what: str, number: int = 0, kind: str = "blk", force: bool = False) -> int:
    """Make a call of usrloop as a supervisor does; return its exit code."""
    words = ["/share/usrloop_server", what, kind, str(number), *(["force"] if force else [])]
    return guest.run(words, 60 * SLOWER).code


def state(guest: Guest, number: int = 0, kind: str = "blk") -> Any:
    """Return what QUERY says."""
    words = ["/share/usrloop_server", "state", kind, str(number)]
    return json.loads(guest.run(words, 60 * SLOWER, check=True).out)


def delete(guest: Guest, number: int = 0, kind: str = "blk") -> None:
    assert call(guest, "delete", number, kind, force=True) == 0
