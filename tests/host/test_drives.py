# SPDX-License-Identifier: MIT
"""Several drives of a controller, served at once by one driver."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import nbd
import pytest

from tests.host.running import Running, World, sh, until_free
from tests.host.test_mounted import mounted
from tests.needs import NEEDS_FUSE
from tests.waiting import until

RAM = "model:cmd680?strict=1&ram0=8M&ram2=16M"


def lines(running: Running, count: int) -> list[str]:
    """What it has printed, a line for each drive."""
    assert running.process.stdout is not None
    return [
        running.line,
        *(running.process.stdout.readline().strip() for _ in range(count - 1)),
    ]


@pytest.mark.parametrize("words", [("--drive", "0", "--drive", "2"), ("--drive", "all")])
def test_an_export_for_each_drive(world: World, words: tuple[str, ...]) -> None:
    running = world.start("block", RAM, *words, "--export", "socket", "--json")
    said = [json.loads(line) for line in lines(running, 2)]
    assert [(disk["drive"], disk["size"]) for disk in said] == [(0, 8 << 20), (2, 16 << 20)]
    assert {disk["driver_pid"] for disk in said} == {running.child("nbdkit")}
    clients = []
    for disk in said:
        assert disk["uri"] == disk["device"]
        client = nbd.NBD()
        client.connect_uri(disk["uri"])
        assert client.get_size() == disk["size"]
        client.pwrite(bytes([disk["drive"] + 1]) * 512, 4096)
        clients.append(client)
    for client, disk in zip(clients, said, strict=True):
        assert client.pread(512, 4096) == bytes([disk["drive"] + 1]) * 512
        client.shutdown()
    other = nbd.NBD()
    with pytest.raises(nbd.Error):
        other.connect_uri(said[0]["uri"].replace("///0?", "///1?"))
    assert running.end() == 0, running.stderr


def test_one_drive_is_announced_as_ever(world: World) -> None:
    """All of one, and one that is asked for twice."""
    for words in (("--drive", "all"), ("--drive", "2", "--drive", "2")):
        running = world.start(
            "block", "model:cmd680?strict=1&ram2=8M", *words, "--export", "socket"
        )
        assert running.line.startswith("nbd+unix:///?socket=")
        assert running.end() == 0, running.stderr


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--drive", "0", "--drive", "1"), "no drive 1 (there is: 0, 2)\n"),
        (
            ("--drive", "0", "--drive", "x"),
            "'x' is not a number, nor all (see usrdrv block --help)\n",
        ),
        (("--drive", "some"), "'some' is not a number, nor all (see usrdrv block --help)\n"),
    ],
)
def test_drives_that_are_not_there(world: World, words: tuple[str, ...], why: str) -> None:
    done = world.run("block", RAM, *words, "--export", "socket")
    assert done.returncode != 0 and done.stderr.endswith(why), done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def images(world: World) -> list[Path]:
    return [world.image(f"disk{number}.img", 64 << 20) for number in (0, 1)]


def serve(world: World, images: list[Path]) -> tuple[Running, list[str]]:
    """Both drives of a channel, as loop devices."""
    device = f"model:cmd680?strict=1&image0={images[0]}&image1={images[1]}"
    running = world.start("block", device, "--drive", "all", "--export", "fuse")
    return running, lines(running, 2)


@NEEDS_FUSE
def test_ctrl_c_detaches_none_if_one_is_in_use(world: World, images: list[Path]) -> None:
    running, devices = serve(world, images)
    for device in devices:
        sh("mkfs.ext4", "-q", device)
    with mounted(devices[1], world.folder / "mnt"):
        running.process.send_signal(signal.SIGINT)
        until(lambda: "still serving" in running.stderr, "an answer to Ctrl-C")
        assert f"is in use ({devices[1]}: {world.folder}/mnt/disk" in running.stderr
        # The first can be used again: it is claimed no more.
        with mounted(devices[0], world.folder / "mnt0") as folder:
            (folder / "file").write_bytes(b"x" * 100000)
        sh("fsck.ext4", "-fn", devices[0])
    until_free(*devices)
    assert running.end() == 0, running.stderr
    for image in images:
        sh("fsck.ext4", "-fn", image)


@NEEDS_FUSE
def test_sigterm_writes_what_is_cached_of_each(world: World, images: list[Path]) -> None:
    running, devices = serve(world, images)
    for device in devices:
        sh("mkfs.ext4", "-q", device)
    data = [os.urandom(1 << 20) for _ in devices]
    with (
        mounted(devices[0], world.folder / "mnt0") as first,
        mounted(devices[1], world.folder / "mnt1") as second,
    ):
        for folder, content in zip((first, second), data, strict=True):
            (folder / "file").write_bytes(content)
        assert running.end(signal.SIGTERM) == 1
        for device in devices:
            assert f"{device}: {world.folder}/mnt" in running.stderr
        assert "data lost" not in running.stderr
    running, devices = serve(world, images)
    for device, content in zip(devices, data, strict=True):
        with mounted(device, world.folder / "again") as folder:
            assert (folder / "file").read_bytes() == content
    until_free(*devices)
    assert running.end() == 0, running.stderr


@NEEDS_FUSE
def test_the_end_of_the_driver_ends_all(world: World, images: list[Path]) -> None:
    """With an export that cannot have another driver."""
    running, _ = serve(world, images)
    os.kill(running.child("nbdkit"), signal.SIGKILL)
    assert running.wait() == 1
    assert "nbdkit was killed by SIGKILL" in running.stderr
    until(lambda: not world.loop_devices(), "no loop device is left")
