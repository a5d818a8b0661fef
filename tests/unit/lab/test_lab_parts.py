# SPDX-License-Identifier: MIT
"""The lab's parts that need no guest: cache, kernel log, command line, bad input."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from usrdrv.base import errors
from usrdrv.lab import accelerator, cache, kernels, qemu
from usrdrv.lab.console import Console, alarms


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("USRDRV_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_built_once_also_by_two_at_a_time(folder: Path) -> None:
    built = []

    def build(path: Path) -> None:
        built.append(path)
        time.sleep(0.1)  # in which others may try, too
        (path / "file").write_text("x")

    threads = [threading.Thread(target=cache.cached, args=("t", "1", build)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert (folder / "t-1/file").read_text() == "x"


def test_a_build_that_fails_leaves_nothing_and_is_tried_again(folder: Path) -> None:
    def fail(path: Path) -> None:
        (path / "half").write_text("x")
        raise errors.LabError("no")

    with pytest.raises(errors.LabError):
        cache.cached("t", "1", fail)
    assert [path.name for path in folder.iterdir()] == ["t.lock"]
    assert cache.cached("t", "1", lambda path: None).is_dir()
    with (cache.folder() / "t.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # somebody builds another one
        assert cache.cached("t", "1", fail).is_dir()


def test_what_nobody_asked_for_in_weeks_is_dropped(folder: Path) -> None:
    old = cache.cached("t", "old", lambda path: None)
    recent = cache.cached("t", "recent", lambda path: None)
    killed = folder / ".t-killed"
    killed.mkdir()
    os.utime(old, (0, 0))
    cache.cached("t", "new", lambda path: None)
    assert not old.exists() and not killed.exists() and recent.exists()


def test_the_key_tells_parts_from_each_other() -> None:
    assert cache.digest(["ab", "c"]) != cache.digest(["a", "bc"])
    assert cache.digest(["ab", b"c"]) == cache.digest([b"ab", "c"])


def test_a_cache_that_cannot_be_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USRDRV_CACHE_DIR", "/proc/none")
    with pytest.raises(errors.PermissionDeniedError, match="/proc/none"):
        cache.folder()


class Kvm:
    """A host where guests boot with KVM, or do not."""

    def __init__(self, folder: Path) -> None:
        self.node = folder / "kvm"
        self.node.touch()
        self.boot_id = folder / "boot_id"
        self.boot_id.write_text("first\n")
        self.boots = True
        self.tries = 0

    def tried(self) -> bool:
        self.tries += 1
        time.sleep(0.1)  # in which others may try, too
        return self.boots


@pytest.fixture
def kvm(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kvm:
    host = Kvm(tmp_path)
    monkeypatch.setattr(accelerator, "KVM", host.node)
    monkeypatch.setattr(accelerator, "BOOT_ID", host.boot_id)
    monkeypatch.setattr(accelerator, "_kvm_boots", host.tried)
    return host


@pytest.mark.parametrize(("boots", "expected"), [(True, "kvm"), (False, "tcg")])
def test_kvm_is_tried_once_after_each_boot_of_the_host(
    kvm: Kvm, folder: Path, boots: bool, expected: str
) -> None:
    kvm.boots = boots
    assert [accelerator.best() for _ in range(3)] == [expected] * 3
    assert kvm.tries == 1
    kvm.boots = not boots
    assert accelerator.best() == expected, "noted"
    kvm.boot_id.write_text("second\n")
    assert accelerator.best() != expected and kvm.tries == 2
    assert sorted(path.name for path in folder.iterdir()) == ["accelerator", "accelerator.lock"]


def test_kvm_is_tried_by_one_of_several_at_a_time(kvm: Kvm) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(accelerator.best())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (found, kvm.tries) == (["kvm"] * 3, 1)


def test_a_note_that_was_cut_off_does_not_count(kvm: Kvm, folder: Path) -> None:
    folder.mkdir()
    for text in ("", "tcg", "tcg fir"):
        (folder / "accelerator").write_text(text)
        assert accelerator.best() == "kvm"


def test_in_somebody_elses_cache_kvm_is_not_noted(
    kvm: Kvm, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path == kvm.node)
    assert accelerator.best() == "kvm" and not list(folder.iterdir())
    (folder / "accelerator").write_text("tcg first")
    assert accelerator.best() == "tcg" and kvm.tries == 1


def test_without_the_right_to_kvm_there_is_nothing_to_try(kvm: Kvm) -> None:
    kvm.node.unlink()
    assert accelerator.best() == "tcg" and kvm.tries == 0


def test_somebody_elses_cache_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = cache.cached("t", "1", lambda path: None)
    before = there.stat().st_mtime
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.R_OK)
    (folder / "t.lock").unlink()
    assert cache.cached("t", "1", lambda path: None) == there
    with pytest.raises(errors.PermissionDeniedError, match="no t-2.*USRDRV_CACHE_DIR"):
        cache.cached("t", "2", lambda path: None)
    assert [path.name for path in folder.iterdir()] == ["t-1"]
    assert there.stat().st_mtime == before


@pytest.mark.parametrize(
    "line",
    [
        "[ 1.0] WARNING: CPU: 0 PID: 1 at kernel/x.c:1 f+0x1/0x2",
        "[ 1.0] BUG: kernel NULL pointer dereference, address: 0",
        "[ 1.0] BUG: KASAN: slab-use-after-free in f+0x1",
        "[ 1.0] WARNING: possible circular locking dependency detected",
        "[ 1.0] INFO: task mount:77 blocked for more than 120 seconds.",
        "[ 1.0] irq 20: nobody cared (try booting with the \"irqpoll\" option)",
        "[ 1.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
        "[ 1.0] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        "[ 1.0] UBSAN: array-index-out-of-bounds in x.c:1:2",
        "[ 1.0] kmemleak: 2 new suspected memory leaks",
        "[ 1.0] Oops: general protection fault, 0000 [#1]",
        "[ 1.0] DMA-API: device driver tries to free DMA memory it has not allocated",
        "[ 1.0] Kernel panic - not syncing: x",
    ],
)  # fmt: skip
def test_what_a_kernel_must_not_say(line: str) -> None:
    log = f"[ 0.1] fine\n{line}\n[ 2.0] fine\n"
    assert alarms(log) == [line]
    assert alarms(log, [r"\[ 1\.0\]"]) == []


def test_what_a_kernel_may_say() -> None:
    log = """[ 1.0] ata1.00: exception Emask 0x0 SAct 0x0 SErr 0x0 action 0x0
[ 1.0] ata1.00: error: { UNC }
[ 1.0] I/O error, dev sda, sector 8 op 0x0:(READ)
[ 1.0] clocksource: timekeeping watchdog on CPU0: Marking clocksource 'tsc' as unstable
[ 1.0] DMA-API: preallocated 65536 debug entries
[ 1.0] DMA-API: debugging enabled by kernel config
[ 1.0] kmemleak: Kernel memory leak detector initialized (mem pool available: 35643)
[ 1.0] kmemleak: Automatic memory scanning thread started
[ 1.0] Debug: bug report follows"""
    assert alarms(log) == []


def test_a_console_is_read_from_a_place_on(tmp_path: Path) -> None:
    console = Console(tmp_path / "console")
    assert (console.position(), console.text(), console.tail()) == (0, "", "")
    console.path.write_bytes(b"one\r\ntwo\r\n")
    place = console.position()
    with console.path.open("ab") as file:
        file.write(b"three \xff\r\n")
    assert console.text(place) == "three \ufffd\n"
    assert console.tail(2) == "two\nthree \ufffd"


def test_devices_have_the_slots_that_are_promised(tmp_path: Path) -> None:
    machine = qemu.Machine([Path("/a b"), Path("/c,d")], iommu=True)
    command = qemu.command(
        machine,
        tmp_path,
        tmp_path / "vmlinuz",
        accelerator="tcg",
        sockets={name: tmp_path / name for name in ("root", "agent", "console")},
        shares={},
        parameters=["word"],
        terminal=False,
    )
    devices = [json.loads(word) for word in command if word.startswith("{")]
    assert [d["socket"]["path"] for d in devices] == ["/a b", "/c,d"]
    assert [f"0000:00:{d['addr']}" for d in devices] == [qemu.address(0), qemu.address(1)]
    words = " ".join(command)
    assert words.index("intel-iommu") < words.index("vfio-user-pci")
    parameters = command[command.index("-append") + 1].split()
    assert {"word", "intel_iommu=on", "no_timer_check", "init_on_alloc=1"} <= set(parameters)


def test_a_kernel_that_there_is_not() -> None:
    with pytest.raises(errors.UsageError, match="windows"):
        kernels.find("windows", Path("/"))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run"], 2, "COMMAND"),
        (["run", "--memory", "1", "--", "true"], 2, "1 is not in 256"),
        (["run", "--kernel", "windows", "--", "true"], 2, "windows"),
        (["run", "--device", "vfio-user:/none", "--", "true"], 1, "/none: no such socket"),
        (["run", "--device", "0000:00:01.0", "--", "true"], 2, "only vfio-user"),
        (["run", "--folder", "/none", "--", "true"], 2, "/none: no such folder"),
        (["shell"], 2, "needs a terminal"),
        ([], 2, "ACTION"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], code: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "usrdrv", "lab", *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    assert done.returncode == code
    assert said in done.stderr
    assert done.stderr.startswith("usrdrv: error: ") and done.stderr.count("\n") == 1
