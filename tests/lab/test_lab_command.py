# SPDX-License-Identifier: MIT
"""`usrdrv lab` as it is typed."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.needs import NEEDS_ROOT, need_reach
from tests.waiting import at_best
from usrdrv.lab import cache, root

LAB = (sys.executable, "-m", "usrdrv", "lab")


@pytest.fixture
def place() -> Iterator[Path]:
    """Where temporary files go; empty again at the end. tmp_path is too long for sockets."""
    with tempfile.TemporaryDirectory(prefix="usrdrv-test-") as folder:
        yield Path(folder)
        assert list(Path(folder).glob("usrdrv-*")) == [], "left behind"


def run(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "TMPDIR": str(place)}
    return subprocess.run(
        [*LAB, *arguments], env=env, capture_output=True, text=True, timeout=200, check=False
    )


def test_devices_folder_log_and_exit_code(place: Path) -> None:
    (place / "in").write_text("from the host")
    done = run(
        place,
        *("run", "--model", "cmd680 --ram 16M", "--model", "cmd680 --ram 8M"),
        *("--folder", str(place), "--kernel-log", str(place / "log"), "--json", "--"),
        "cat /host/in; lsblk -dnbo SIZE >/host/out; echo oops >&2; exit 5",
    )
    assert done.returncode == 5, done.stderr
    found = json.loads(done.stdout)
    assert (found["code"], found["out"], found["err"]) == (5, "from the host", "oops\n")
    assert found["warnings"] == []
    sizes = (place / "out").read_text().split()
    assert sorted(sizes) == sorted([str(16 << 20), str(8 << 20)])
    assert (place / "log").read_text() == found["kernel_log"]
    assert "pata_sil680" in found["kernel_log"]


@NEEDS_ROOT  # without it, all of these are that test
def test_a_user_without_rights_and_somebody_elses_cache(place: Path) -> None:
    """All of it as user 1000: models, QEMU, files; the cache is a read-only mount."""
    need_reach(1000)
    for folder in (place, place / "cache", place / "tmp"):
        folder.mkdir(exist_ok=True)
        os.chown(folder, 1000, 1000)
    user = ("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups")
    root.build()
    mount = 'mount --bind "$0" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
    done = subprocess.run(
        [
            *("unshare", "--mount", "--propagation", "slave", "sh", "-c", mount),
            *(str(cache.folder()), str(place / "cache")),
            *(*user, *LAB, "run", "--iommu", "--model", "cmd680 --ram 16M", "--folder", str(place)),
            *("--", "id -u; usrdrv identify 0000:00:10.0 && echo done >/host/out"),
        ],
        env={
            **os.environ,
            "HOME": str(place),
            "TMPDIR": str(place / "tmp"),
            "USRDRV_CACHE_DIR": str(place / "cache"),
            "USRDRV_RUN_DIR": str(place / "run"),
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("0\n") and "UDMA6" in done.stdout, "root in the guest"
    assert (place / "out").stat().st_uid == 1000
    assert list((place / "tmp").iterdir()) == [], "left behind"


def test_a_device_of_qemu(place: Path) -> None:
    image = place / "disk.img"
    image.write_bytes(b"on the drive".ljust(1 << 20))
    done = run(
        place,
        *("run", "--device", "nvme,drive=d0,serial=1,addr=12.0"),
        *("--drive", f"id=d0,file={image},format=raw", "--"),
        "ls /sys/bus/pci/devices/0000:00:12.0/nvme; until test -b /dev/nvme0n1; do sleep 0.1; done; "
        "head -c 12 /dev/nvme0n1",
    )
    assert (done.returncode, done.stdout) == (0, "nvme0\non the drive"), done.stderr


def test_a_device_that_qemu_does_not_have(place: Path) -> None:
    done = run(place, "run", "--device", "toaster", "--", "true")
    assert done.returncode == 1 and "'toaster' is not a valid device" in done.stderr


def test_output_as_it_comes_and_a_warning_of_the_kernel(place: Path) -> None:
    done = run(place, "run", "--", "echo out; echo 'BUG: planted' >/dev/kmsg")
    assert (done.returncode, done.stdout) == (1, "out\n")
    assert done.stderr.startswith("usrdrv: the guest's kernel: ") and "BUG: planted" in done.stderr


def test_a_command_that_takes_too_long(place: Path) -> None:
    """A busy machine may not have begun it by then."""

    def late() -> str:
        done = run(place, "run", "--timeout", "5", "--", "echo begun; sleep 1000")
        assert done.returncode == 1 and "not done after 5 s" in done.stderr, done
        return done.stderr

    at_best(late, lambda said: "begun" in said, "what it said until then", 200)


def test_told_to_end_it_leaves_nothing(place: Path) -> None:
    env = {**os.environ, "TMPDIR": str(place)}
    with subprocess.Popen(
        [*LAB, "run", "--model", "cmd680 --ram 1M", "--", "echo up; sleep 1000"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 1
        assert process.stderr.read() == "usrdrv: error: interrupted\n"
    mark = f"TMPDIR={place}".encode()
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            assert mark not in entry.read_bytes().split(b"\0"), entry
        except OSError:
            continue  # it ended while we looked


def test_a_shell_on_the_terminal(place: Path) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (33, 77))
    env = {**os.environ, "TMPDIR": str(place)}
    with subprocess.Popen(
        [*LAB, "shell"], env=env, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, text=True
    ) as process:
        os.close(theirs)
        assert "root@lab" in read_until(ours, "root@lab", 120)
        os.write(ours, b"stty size; exit\n")
        assert "33 77\r" in read_until(ours, "33 77\r", 120)
        while read_until(ours, "\0", 60):
            pass
        assert process.wait(60) == 0
    os.close(ours)


def read_until(terminal: int, text: str, timeout: float) -> str:
    """Return what came up to `text`; less at the end, or when `timeout` seconds are over."""
    got = ""
    deadline = time.monotonic() + timeout
    while text not in got and time.monotonic() < deadline:
        if select.select([terminal], [], [], 1)[0]:
            try:
                got += os.read(terminal, 4096).decode(errors="replace")
            except OSError:  # the other side has closed
                break
    return got
