# SPDX-License-Identifier: MIT
"""What is written out before a disk is detached, and when the driver is given up."""

import errno
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import until
from usrdrv import disks
from usrdrv.base import errors
from usrdrv.base.signals import Received
from usrdrv.bridge.block import detach


class SlowAttachment:
    """What the kernel caches of it is written when `end` is set."""

    where = "/dev/slow"

    @property
    def disks(self) -> list[Any]:
        return [self]

    def __init__(self) -> None:
        self.begun, self.end = threading.Event(), threading.Event()
        self.done: list[str] = []

    def write_out(self) -> None:
        self.done.append("file systems")

    def sync(self) -> None:
        self.begun.set()
        self.end.wait()
        self.done.append("device")


def syncing(attachment: Any, signals: Any, users: str) -> list[str]:
    """Sync for a SIGTERM of time 0; what was done, and the error."""
    try:
        detach.sync(attachment, signals, [Received(signal.SIGTERM, 0.0)], users)
    except errors.DeviceError as error:
        return [*attachment.done, str(error)]
    finally:
        attachment.end.set()
    return list(attachment.done)


class Polled:
    """Signals that come as soon as the device is being written."""

    def __init__(self, attachment: SlowAttachment, *batches: list[Received]) -> None:
        self.batches = list(batches)
        self.attachment = attachment
        self.fd, self._write = os.pipe()
        os.write(self._write, bytes(len(batches)))

    def take(self) -> list[Received]:
        os.read(self.fd, 1)
        self.attachment.begun.wait()
        batch = self.batches.pop(0)
        if not self.batches:
            self.attachment.end.set()
        return batch


def test_a_session_that_ends_sends_two_signals_and_data_are_written() -> None:
    attachment = SlowAttachment()
    signals = Polled(attachment, [Received(signal.SIGHUP, 0.1)])
    assert syncing(attachment, signals, "/mnt") == ["file systems", "device"]


def test_two_signals_at_once_are_one() -> None:
    """timeout(1) sends its signal to the process and to its group, here long before the writing begins."""
    attachment = SlowAttachment()
    signals = Polled(attachment, [Received(signal.SIGTERM, detach.REPEATED / 2)])
    assert syncing(attachment, signals, "/mnt") == ["file systems", "device"]


def test_an_error_that_nobody_thought_of_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    attachment = SlowAttachment()

    def odd() -> None:
        raise ValueError("odd")

    monkeypatch.setattr(attachment, "sync", odd)
    assert syncing(attachment, Polled(attachment), "") == ["/dev/slow: odd: data lost"]


@pytest.mark.parametrize(("number", "at"), [(signal.SIGTERM, 1.0), (signal.SIGHUP, 1.5)])
def test_the_same_signal_again_gives_the_driver_up(number: signal.Signals, at: float) -> None:
    """Counted from when the first one came; each number by itself."""
    attachment = SlowAttachment()
    first = Received(signal.SIGHUP, 0.5 * detach.REPEATED)
    signals = Polled(attachment, [first], [Received(number, at * detach.REPEATED)], [])
    done = syncing(attachment, signals, "/mnt")
    assert done[0] == "file systems"
    assert done[1] == (
        "/dev/slow: a signal ended the writing: data lost; it is still in use (/mnt): unmount it"
    )


def test_what_nobody_uses_has_no_file_systems_to_write() -> None:
    attachment = SlowAttachment()
    attachment.end.set()
    assert syncing(attachment, Polled(attachment), "") == ["device"]


class Claimed:
    """A device that can be claimed or not, and its disk."""

    def __init__(self, error: Exception | None = None, answers: bool = True) -> None:
        self.disks = [self]
        self.error = error
        self.kept: list[int] = []
        self.claims: list[int] = []
        self.answer = threading.Event()
        if answers:
            self.answer.set()

    def claim(self) -> int:
        self.answer.wait()
        if self.error:
            raise self.error
        end, claim = os.pipe()
        self.claims.append(end)
        return claim

    def keep(self, claim: int) -> None:
        self.kept.append(claim)


@pytest.mark.parametrize(
    ("error", "users"),
    [
        (None, ""),
        (disks.InUseError(Path("/sys/block/sda"), ["/mnt", "swap"]), "/mnt, swap"),
        (OSError(errno.EIO, "I/O error"), "unknown: [Errno 5] I/O error"),
        (errors.PermissionDeniedError("no right"), "unknown: no right"),
    ],
)
def test_a_device_that_cannot_be_claimed_is_in_use(error: Exception | None, users: str) -> None:
    attachment: Any = Claimed(error)
    assert detach.claim(attachment) == users


def test_a_claim_that_waits_for_a_hung_driver_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The supervisor alone can end that driver."""
    monkeypatch.setattr(detach, "CLAIM_TIMEOUT", 0)
    attachment: Any = Claimed(answers=False)
    try:
        assert "does not answer" in detach.claim(attachment)
    finally:
        attachment.answer.set()
    until(lambda: attachment.claims, "the late claim")
    assert os.read(attachment.claims[0], 1) == b"", "it is given up when it comes late"
    assert not attachment.kept
