# SPDX-License-Identifier: MIT
"""Several disks of one driver, as one."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import until
from usrdrv import disks
from usrdrv.base import errors
from usrdrv.bridge.block import contract, detach
from usrdrv.bridge.block.chosen import check_same, chosen
from usrdrv.bridge.block.together import Together


class Disk:
    """A disk as the kernel has it. user: what it is used by; failure: the error of writing it out."""

    def __init__(self, name: str, *, user: str = "", failure: OSError | None = None) -> None:
        self.where = f"/dev/{name}"
        self.statistics = Path(f"/sys/block/{name}/stat")
        self.user, self.failure = user, failure
        self.claimed = -1
        self.did: list[str] = []
        self.may_sync = threading.Event()
        self.may_sync.set()

    def users(self) -> list[str]:
        return [self.user] if self.user else []

    def claim(self) -> int:
        if self.user:
            raise disks.InUseError(self.where, self.users())
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def keep(self, claim: int) -> None:
        self.claimed = claim

    def release(self) -> None:
        if self.claimed >= 0:
            os.close(self.claimed)
        self.claimed = -1

    def write_out(self) -> None:
        self.did.append("file systems")

    def sync(self) -> None:
        self.may_sync.wait()
        if self.failure:
            raise self.failure
        self.did.append("synced")


class Attached:
    """An attachment of one disk. lost: what the kernel says of its server."""

    children: Sequence[Any] = ()

    def __init__(self, disk: Disk) -> None:
        self.where = disk.where
        self.disks = [disk]
        self.news, self.kernel = os.pipe()
        self.lost = False
        self.did: list[str] = []

    @property
    def resumable(self) -> Any:
        return self

    def lost_server(self) -> bool:
        os.read(self.news, 1)
        return self.lost

    def hold(self) -> None:
        self.did.append("held")

    def reconnect(self) -> None:
        self.did.append("reconnected")

    def close(self) -> None:
        self.did.append("closed")


class Quiet:
    """No signals come."""

    def __init__(self) -> None:
        self.fd, self._write = os.pipe()


def together(*attached: Any) -> Together:
    return Together("0000:03:00.0", attached)


def of(*disks: Disk) -> Together:
    return together(*(Attached(disk) for disk in disks))


def sync(both: Together) -> None:
    signals: Any = Quiet()
    detach.sync(both, signals, [], "")


def readable(fd: int | None) -> bool:
    assert fd is not None
    return bool(select.select([fd], [], [], 0)[0])


def test_news_of_any_disk_are_news() -> None:
    a, b = Attached(Disk("a")), Attached(Disk("b"))
    both = together(a, b)
    assert not readable(both.news)
    b.lost = True
    for attached in (a, b):
        os.write(attached.kernel, b"!")
    assert readable(both.news)
    assert both.lost_server()
    assert not readable(both.news), "all were asked"
    assert contract.statistics(both) == [a.disks[0].statistics, b.disks[0].statistics]


def test_one_in_use_is_named_and_the_other_is_let_go() -> None:
    a, b = Disk("a"), Disk("b", user="/mnt")
    both = of(a, b)
    assert detach.claim(both) == "/dev/b: /mnt"
    assert detach.users(both) == "/dev/b: /mnt"
    assert a.claimed >= 0
    detach.release(both)
    assert a.claimed < 0


def test_a_disk_alone_is_not_named_twice() -> None:
    """The message about it begins with its name."""
    assert detach.claim(of(Disk("b", user="/mnt"))) == "/mnt"


def test_a_disk_that_hangs_does_not_keep_the_others_from_being_written() -> None:
    a, b = Disk("a"), Disk("b")
    a.may_sync.clear()
    writing = threading.Thread(target=sync, args=(of(a, b),))
    writing.start()
    until(lambda: b.did == ["synced"], "the second is written")
    assert a.did == []
    a.may_sync.set()
    writing.join()
    assert a.did == ["synced"]


def test_each_that_fails_is_named() -> None:
    a, b, c = Disk("a", failure=OSError(5, "Input/output error")), Disk("b"), Disk("c")
    with pytest.raises(
        errors.DeviceError, match="^0000:03:00.0: /dev/a: Input/output error: data lost$"
    ):
        sync(of(a, b, c))
    assert b.did == c.did == ["synced"]


def test_all_are_held_connected_again_and_closed() -> None:
    a, b = Attached(Disk("a")), Attached(Disk("b"))
    both = together(a, b)
    both.hold()
    both.reconnect()
    both.close()
    assert a.did == b.did == ["held", "reconnected", "closed"]


def test_what_fails_for_one_is_done_for_the_others() -> None:
    class Broken(Attached):
        def hold(self) -> None:
            raise errors.DeviceError("/dev/a: no")

    b = Attached(Disk("b"))
    with pytest.raises(errors.DeviceError, match="/dev/a: no"):
        together(Broken(Disk("a")), b).hold()
    assert b.did == ["held"]


class Drive:
    def __init__(self, index: int, identity: str = "") -> None:
        self.index, self.identity = index, identity


class Controller:
    drives = (Drive(0), None, Drive(2), None)


@pytest.mark.parametrize(("wanted", "found"), [(None, [0, 2]), ([2, 0], [2, 0]), ([2], [2])])
def test_drives_are_chosen(wanted: list[int] | None, found: list[int]) -> None:
    controller: Any = Controller()
    assert [drive.index for drive in chosen(controller, "x", wanted)] == found


def test_one_that_is_not_there_is_named() -> None:
    controller: Any = Controller()
    with pytest.raises(errors.NoSuchDeviceError, match=r"^x: no drive 1 \(there is: 0, 2\)$"):
        chosen(controller, "x", [0, 1])
    controller.drives = (None,) * 4
    with pytest.raises(errors.NoSuchDeviceError, match="^x: no drives$"):
        chosen(controller, "x", None)
    with pytest.raises(errors.NoSuchDeviceError, match=r"^x: no drive 0 \(there is: none\)$"):
        chosen(controller, "x", [0])


def test_another_drive_is_named() -> None:
    drives: list[Any] = [Drive(0, name) for name in "abc"]
    a, b, c = drives
    check_same("x", {0: a, 2: b}, {0: a, 2: b})
    with pytest.raises(errors.DeviceError, match="^x: drive 2 is another drive than before: c$"):
        check_same("x", {0: a, 2: b}, {0: a, 2: c})
    with pytest.raises(errors.DeviceError, match="^x: drive 2 is not there any more: b$"):
        check_same("x", {0: a, 2: b}, {0: a})
    with pytest.raises(errors.DeviceError, match="^x: this is another drive than before: c$"):
        check_same("x", {0: a}, {0: c})
