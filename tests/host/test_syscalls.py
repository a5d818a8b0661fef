# SPDX-License-Identifier: MIT
"""System calls per request: what a change must not make worse unseen.

futex is left out where counts are compared: how often threads wait for each other is chance.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from bench import fio, syscalls
from bench.servers import Server, bytearray_peer, in_process, vfio_user
from usrdrv import errors

REQUESTS = 2000
pytestmark = pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="usrdrv-test-") as name:
        monkeypatch.setenv("USRDRV_RUN_DIR", str(Path(name) / "run"))
        yield Path(name)


def calls(
    start: Callable[[Path], AbstractContextManager[Server]], folder: Path, job: fio.Job
) -> dict[str, float]:
    with start(folder) as server:
        try:
            return syscalls.per_request(server, job, REQUESTS)
        except errors.PermissionDeniedError as error:
            pytest.skip(f"strace: {error}")


def without_futex(counts: dict[str, float]) -> float:
    return sum(counts.values()) - counts.get("futex", 0)


def test_a_model_in_process_adds_none(folder: Path) -> None:
    """One request at a time is served where it arrives: no wait, no thread woken."""
    peer = calls(bytearray_peer, folder, fio.RANDREAD_1)
    ours = calls(in_process, folder, fio.RANDREAD_1)
    assert without_futex(ours) == pytest.approx(without_futex(peer), abs=0.1)
    assert ours["futex"] < peer["futex"] + 1
    assert "epoll_wait" not in ours


def test_vfio_user(folder: Path) -> None:
    """Issue; wake up; read; stop and read; acknowledge; unmask."""
    ours = calls(vfio_user, folder, fio.RANDREAD_1)
    assert ours["epoll_wait"] == pytest.approx(1, abs=0.1)
    assert ours["sendmsg"] < 5.1
    assert ours["recvfrom"] < 2.1


def test_vfio_user_at_depth(folder: Path) -> None:
    """Random requests are not merged; the next goes out with the last one's acknowledgement."""
    ours = calls(vfio_user, folder, fio.RANDREAD_32)
    assert ours["epoll_wait"] < 1.1
    assert ours["sendmsg"] < 5.1
    assert ours["recvfrom"] < 2.1
