# SPDX-License-Identifier: MIT
"""A file system on a disk that a process drives: made, mounted, filled, checked."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.host.running import Running, World, sh
from tests.needs import NEEDS_FUSE
from tests.waiting import until

pytestmark = NEEDS_FUSE


@contextmanager
def mounted(device: str, where: Path) -> Iterator[Path]:
    """On a mount that is shared: a namespace that another test makes meanwhile loses it, too, and is no user."""
    folder = where / "disk"
    where.mkdir(exist_ok=True)
    sh("mount", "-t", "tmpfs", "none", where)
    try:
        sh("mount", "--make-shared", where)
        folder.mkdir()
        sh("mount", device, folder)
        try:
            yield folder
        finally:
            sh("umount", folder)
    finally:
        sh("umount", where)


@pytest.fixture
def model(world: World) -> Running:
    return world.model("--image", str(world.image(size=96 << 20)))


def test_ext4_with_fio_verify(world: World, model: Running) -> None:
    """The data goes through process, chip model and image, and every byte comes back."""
    running = world.start("block", model.line, "--export", "fuse", "--json")
    device = json.loads(running.line)["device"]
    sh("mkfs.ext4", "-q", device)
    with mounted(device, world.folder / "mnt") as folder:
        done = sh(
            *("fio", "--name=verify", f"--directory={folder}", "--rw=randrw", "--size=24m"),
            *("--bsrange=4k-128k", "--ioengine=psync", "--direct=1", "--numjobs=2"),
            *(
                "--verify=crc32c",
                "--verify_fatal=1",
                "--fsync=64",
                "--group_reporting",
                "--verify_state_save=0",
            ),
            *("--output-format=json", "--fallocate=none"),
        )
        job = json.loads(done[done.index("{") :])["jobs"][0]
        assert job["error"] == 0
        # The random mix is done once, then what was written is read again for the comparison.
        assert job["read"]["io_bytes"] + job["write"]["io_bytes"] >= 2 * 24 << 20
        assert job["write"]["io_bytes"] > 8 << 20
        (folder / "hello").write_bytes(b"hello" * 1000)
        sh("sync", "-f", folder)
    sh("e2fsck", "-fn", device)
    assert running.end() == 0, running.stderr
    assert model.end(signal.SIGTERM) == 0
    image = world.folder / "disk.img"
    sh("e2fsck", "-fn", image)
    assert sh("debugfs", "-R", "cat hello", image) == "hello" * 1000


def test_what_was_written_is_there_after_a_new_start(world: World, model: Running) -> None:
    running = world.start("block", model.line, "--export", "fuse")
    with Path(running.line).open("r+b") as disk:
        disk.write(b"\xc3" * 4096)
        disk.seek(32 << 20)
        disk.write(b"\x3c" * (1 << 20))
    assert running.end() == 0
    running = world.start("block", model.line, "--export", "fuse", "--read-only")
    with Path(running.line).open("rb") as disk:
        assert disk.read(4096) == b"\xc3" * 4096
        disk.seek(32 << 20)
        assert disk.read(1 << 20) == b"\x3c" * (1 << 20)
    assert Path(f"/sys/block/{Path(running.line).name}/ro").read_text().strip() == "1"
    assert running.end() == 0


def test_ctrl_c_while_mounted_keeps_serving(world: World) -> None:
    running = world.start("block", "model:cmd680?strict=1&ram=32M", "--export", "fuse")
    sh("mkfs.ext4", "-q", running.line)
    with mounted(running.line, world.folder / "mnt") as folder:
        running.process.send_signal(signal.SIGINT)
        until(lambda: "still serving" in running.stderr, "an answer to Ctrl-C")
        assert str(folder) in running.stderr
        (folder / "file").write_bytes(b"x" * 100_000)
        sh("sync", "-f", folder)
        assert running.process.poll() is None
    with mounted(running.line, world.folder / "mnt") as folder:
        assert (folder / "file").read_bytes() == b"x" * 100_000
    assert running.end() == 0, running.stderr


def test_second_ctrl_c_while_mounted_detaches(world: World) -> None:
    running = world.start("block", "model:cmd680?strict=1&ram=32M", "--export", "fuse")
    sh("mkfs.ext4", "-q", running.line)
    with mounted(running.line, world.folder / "mnt") as folder:
        running.process.send_signal(signal.SIGINT)
        until(lambda: "still serving" in running.stderr, "an answer to Ctrl-C")
        assert running.end() == 1
        assert f"detached while in use ({folder})" in running.stderr
        assert folder.is_mount(), "nobody's file system is unmounted"
    world.assert_clean()


def test_auto_says_what_and_why(world: World) -> None:
    running = world.start("block", "model:cmd680?strict=1&ram=1M", "--json")
    said = json.loads(running.line)
    assert said["size"] == 1 << 20 and said["read_only"] is False
    assert Path(said["device"]).is_block_device()
    driver = "usrdrv-driver" if said["export"] == "usrloop" else "nbdkit"
    assert Path(f"/proc/{said['driver_pid']}/comm").read_text().strip() == driver
    assert running.end() == 0
    assert f"export {said['export']}: the kernel has " in running.stderr


def test_two_at_once(world: World) -> None:
    """The second one's helpers do not hold on to the first one's file system."""
    first = world.start("block", "model:cmd680?strict=1&ram=32M", "--export", "fuse")
    sh("mkfs.ext4", "-q", first.line)
    with mounted(first.line, world.folder / "mnt"):
        second = world.start("block", "model:cmd680?strict=1&ram=32M", "--export", "fuse")
        assert second.line != first.line
    assert first.end() == 0, first.stderr
    until(lambda: world.loop_devices() == [Path(second.line).name], "one loop device is left")
    assert second.end() == 0
