# SPDX-License-Identifier: MIT
"""The process that waits to take over from a driver that dies."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.names import own
from tests.needs import NEEDS_ROOT
from tests.waiting import PATIENCE, until
from usrdrv.base import errors
from usrdrv.base.counters import Counters
from usrdrv.base.process import Child
from usrdrv.bridge.worker import standby
from usrdrv.bridge.worker.process import DriverProcess
from usrdrv.bridge.worker.standby import Standby
from usrdrv.drivers import supported

MODULE = "usrdrv.bridge.net.driver"
DISK = "usrdrv.bridge.block.driver_usrloop"
SUPERVISOR = f"""
import time
from usrdrv.bridge.worker.standby import Standby
waiting = Standby({MODULE!r})
waiting.prepare()
print(waiting.child.pid, flush=True)
time.sleep(60)
"""


def name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def ready(waiting: Standby) -> Child:
    """The one that waits, once it has nothing left to do."""
    child = waiting.child
    assert child is not None
    until(lambda: name(child.pid) == "usrdrv-standby", "the standby is ready")
    return child


@pytest.fixture
def waiting() -> Iterator[Standby]:
    with Standby(MODULE) as waiting:
        yield waiting


def test_it_becomes_the_driver(waiting: Standby) -> None:
    waiting.prepare()
    child = ready(waiting)
    waiting.prepare()
    assert waiting.child is child, "one is enough"
    device = f"model:dp83820?cable={own()}"
    with (
        Counters() as counters,
        DriverProcess(
            waiting,
            fds=(counters.fd,),
            device=device,
            options={"zero_copy": False},
        ) as driver,
    ):
        assert driver.child is child and waiting.child is None
        assert name(child.pid) == "usrdrv-driver"
        assert driver.ready["mac"]


def test_it_has_imported_all_that_a_driver_needs_and_holds_nothing(waiting: Standby) -> None:
    waiting.prepare()
    child = ready(waiting)
    mapped = Path(f"/proc/{child.pid}/maps").read_text()
    built = Path(supported.__file__).parent.glob("*/_*.abi3.so")
    drivers = {path.name.partition(".")[0] for path in built}
    assert "_null" in drivers
    for extension in ("_access", "_loop", *drivers):
        assert f"{extension}.abi3.so" in mapped
    links = [str(entry.readlink()) for entry in Path(f"/proc/{child.pid}/fd").iterdir()]
    assert sum(link.startswith("socket:") for link in links) == 1
    assert len(links) == 4, links


def test_one_whose_code_was_edited_does_not_take_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "edited_driver.py"
    source.write_text(
        "import sys\n"
        "from usrdrv.bridge.worker.worker import run\n"
        "from usrdrv.bridge.net.driver import NetWorker\n"
        "sys.exit(run(NetWorker))\n"
    )
    long_ago = time.time_ns() - 10**12
    os.utime(source, ns=(long_ago, long_ago))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    device = f"model:dp83820?cable={own()}"
    request: Any = {"device": device, "options": {"zero_copy": False}}
    with Standby("edited_driver") as waiting, Counters() as counters:
        waiting.prepare()
        child = ready(waiting)
        with DriverProcess(waiting, fds=(counters.fd,), **request) as driver:
            assert driver.child is child, "nothing was edited"
        waiting.prepare()
        child = ready(waiting)
        with source.open("a") as file:
            file.write("# an edit\n")
        with DriverProcess(waiting, fds=(counters.fd,), **request) as driver:
            assert driver.child is not child and driver.ready["mac"]
        assert child.wait(PATIENCE), "it is thrown away"
        waiting.prepare()
        with DriverProcess(waiting, fds=(counters.fd,), **request) as driver:
            assert driver.ready["mac"]


def test_the_driver_of_a_disk_leaves_no_core() -> None:
    for module, limit in ((DISK, "1"), (MODULE, None)):
        with Standby(module) as waiting:
            waiting.prepare()
            limits = Path(f"/proc/{ready(waiting).pid}/limits").read_text()
        found = re.findall(r"Max core file size +(\S+)", limits)
        ours = str(resource.getrlimit(resource.RLIMIT_CORE)[0])
        assert found == [limit or ours.replace("-1", "unlimited")]


@NEEDS_ROOT  # others may not lock memory without a limit
def test_that_of_a_disk_is_not_swapped_out_to_it() -> None:
    for module, locked in ((DISK, True), (MODULE, False)):
        with Standby(module) as waiting:
            waiting.prepare()
            status = Path(f"/proc/{ready(waiting).pid}/status").read_text()
        size, held = (int(re.findall(rf"{name}:\s*(\d+)", status)[0]) for name in ("RSS", "Lck"))
        assert held > size * 0.9 if locked else held == 0


def test_without_one_a_process_is_started(waiting: Standby) -> None:
    child, sock = waiting.take()
    sock.close()
    assert child.wait(PATIENCE) and child.returncode == 0, "the end of its socket is its end"


def test_one_that_died_is_not_taken(waiting: Standby, capsys: pytest.CaptureFixture[str]) -> None:
    waiting.prepare()
    before = ready(waiting)
    before.kill()
    before.wait(PATIENCE)
    child, sock = waiting.take()
    assert child.pid != before.pid and not child.wait(0)
    sock.close()
    child.stop()


@pytest.mark.parametrize("life", [0.0, 1e9], ids=["after long", "soon"])
def test_its_death_is_noticed(
    waiting: Standby,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    life: float,
) -> None:
    """It is replaced, unless it died so soon that the next one would as well; then the next restart makes one."""
    monkeypatch.setattr(standby, "SHORT_LIFE", life)
    waiting.prepare()
    before = ready(waiting)
    before.kill()
    before.wait(PATIENCE)
    waiting.prepare()
    said = capsys.readouterr().err
    assert said.startswith("usrdrv: the driver's standby was killed by SIGKILL")
    if life:
        assert said.endswith("; not starting another one\n")
        waiting.prepare()
        assert waiting.child is None
        child, sock = waiting.take()
        sock.close()
        child.stop()
        waiting.prepare()
    assert ready(waiting).pid != before.pid


def test_none_is_no_reason_to_fail(waiting: Standby, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    waiting.prepare()
    assert waiting.child is None
    with pytest.raises(errors.MissingToolError):
        waiting.take()


def test_closed_it_is_gone(waiting: Standby) -> None:
    waiting.prepare()
    child = ready(waiting)
    waiting.close()
    assert child.wait(0) and waiting.child is None
    waiting.close()


def test_it_does_not_outlive_its_supervisor() -> None:
    with subprocess.Popen(
        [sys.executable, "-P", "-c", SUPERVISOR], stdout=subprocess.PIPE, text=True
    ) as supervisor:
        assert supervisor.stdout is not None
        pid = json.loads(supervisor.stdout.readline())
        until(lambda: name(pid) == "usrdrv-standby", "the standby is ready")
        supervisor.send_signal(signal.SIGKILL)
    until(lambda: not runs(pid), "its end")


def test_a_driver_that_reads_nothing_is_killed_and_nobody_waits_for_it() -> None:
    class Deaf:
        killed = False

        def kill(self) -> None:
            self.killed = True

    driver: Any = DriverProcess.__new__(DriverProcess)
    driver.child = Deaf()
    driver._sock, theirs = socket.socketpair()
    with driver._sock, theirs:
        while not driver.child.killed:
            driver.send(op="filter", groups=["00" * 6] * 100)


def test_a_driver_that_is_told_to_stop_quiesces_its_device() -> None:
    """It ends by itself: a signal would leave the chip as it is."""
    request: dict[str, Any] = {"device": "model:cmd680?strict=1&ram=1M", "drives": None}
    request |= {"options": {"zero_copy": False}}
    with Standby(DISK) as waiting:
        driver = DriverProcess(waiting, **request)
        child = driver.child
        driver.close()
        assert child.returncode == 0
