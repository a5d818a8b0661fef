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
from waiting import until

from usrdrv import disks
from usrdrv.base import errors
from usrdrv.bridge.chosen import chosen, same
from usrdrv.bridge.together import Together


class Disk:
    """An attachment. user: who has it; lost: what the kernel says of its server; failure: of writing it out."""

    restartable = True
    children: Sequence[Any] = ()

    def __init__(self, name: str, *, user: str = "", failure: OSError | None = None) -> None:
        self.where = f"/dev/{name}"
        self.statistics: Sequence[Path] = [Path(f"/sys/block/{name}/stat")]
        self.news, self.kernel = os.pipe()
        self.user, self.failure = user, failure
        self.lost = False
        self.claimed = False
        self.did: list[str] = []
        self.may_sync = threading.Event()
        self.may_sync.set()

    def lost_server(self) -> bool:
        os.read(self.news, 1)
        return self.lost

    def users(self) -> list[str]:
        return [self.user] if self.user else []

    def claim(self) -> None:
        if self.user:
            raise disks.InUseError(self.where, self.users())
        self.claimed = True

    def release(self) -> None:
        self.claimed = False

    def write_out(self) -> None:
        self.did.append("file systems")

    def sync(self) -> None:
        self.may_sync.wait()
        if self.failure:
            raise self.failure
        self.did.append("synced")

    def reconnect(self) -> None:
        self.did.append("reconnected")

    def close(self) -> None:
        self.did.append("closed")


def together(*attached: Any) -> Together:
    return Together("0000:03:00.0", attached)


def readable(fd: int | None) -> bool:
    assert fd is not None
    return bool(select.select([fd], [], [], 0)[0])


def test_news_of_any_disk_are_news() -> None:
    a, b = Disk("a"), Disk("b")
    both = together(a, b)
    assert not readable(both.news)
    b.lost = True
    for disk in (a, b):
        os.write(disk.kernel, b"!")
    assert readable(both.news)
    assert both.lost_server()
    assert not readable(both.news), "all were asked"
    assert both.statistics == [*a.statistics, *b.statistics]


def test_one_in_use_is_named_and_the_other_is_let_go() -> None:
    a, b = Disk("a"), Disk("b", user="/mnt")
    both = together(a, b)
    with pytest.raises(disks.InUseError) as caught:
        both.claim()
    assert caught.value.who == "/dev/b: /mnt"
    assert both.users() == ["/dev/b: /mnt"]
    assert a.claimed
    both.release()
    assert not a.claimed


def test_a_disk_that_hangs_does_not_keep_the_others_from_being_written() -> None:
    a, b = Disk("a"), Disk("b")
    a.may_sync.clear()
    writing = threading.Thread(target=together(a, b).sync)
    writing.start()
    until(lambda: b.did == ["synced"], "the second is written")
    assert a.did == []
    a.may_sync.set()
    writing.join()
    assert a.did == ["synced"]


def test_each_that_fails_is_named() -> None:
    a, b, c = Disk("a", failure=OSError(5, "Input/output error")), Disk("b"), Disk("c")
    with pytest.raises(errors.DeviceError, match="^/dev/a: Input/output error$"):
        together(a, b, c).sync()
    assert b.did == c.did == ["synced"]


def test_all_are_connected_again_and_closed() -> None:
    a, b = Disk("a"), Disk("b")
    both = together(a, b)
    both.reconnect()
    both.close()
    assert a.did == b.did == ["reconnected", "closed"]


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
    a, b, c = (Drive(0, name) for name in "abc")
    same("x", {0: a, 2: b}, {0: a, 2: b})
    with pytest.raises(errors.DeviceError, match="^x: drive 2 is another drive than before: c$"):
        same("x", {0: a, 2: b}, {0: a, 2: c})
    with pytest.raises(errors.DeviceError, match="^x: this is another drive than before: c$"):
        same("x", {0: a}, {0: c})
