# SPDX-License-Identifier: MIT
"""Everything a user can get wrong: one line that says so, a non-zero exit, nothing left behind."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.host.running import World
from tests.needs import NEEDS_FUSE, NEEDS_ROOT, need_reach
from tests.waiting import PATIENCE
from usrdrv.bridge.block import nbd_server

RAM = "model:cmd680?strict=1&ram=1M"


def fails(world: World, *args: str, code: int = 1, **how: object) -> str:
    """Run a command that fails; return its only line of error."""
    done = world.run(*args, **how)  # type: ignore[arg-type]
    lines = [line for line in done.stderr.splitlines() if not line.startswith("usrdrv: export ")]
    assert done.returncode == code, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("usrdrv: error: ")
    assert done.stdout == ""
    world.assert_clean()
    return lines[0]


def tools(world: World, *names: str) -> dict[str, str]:
    """A PATH with just these programs."""
    folder = world.folder / "bin"
    folder.mkdir()
    for name in names:
        found = shutil.which(name)
        assert found
        (folder / name).symlink_to(found)
    return {"PATH": str(folder)}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ((), "the parameter device=NAME is needed"),
        ((f"device={RAM}", "speed=1"), "unknown parameter speed"),
        ((f"device={RAM}", "trim=yes"), "trim=yes is not a number"),
        ((f"device={RAM}", "options=fast"), "options=fast: Expecting value"),
        ((f"device={RAM}", 'options={"speed": 1}'), "unexpected keyword argument 'speed'"),
    ],
)
def test_parameters_of_the_plugin(world: World, parameters: tuple[str, ...], message: str) -> None:
    done = subprocess.run(
        ["nbdkit", "-f", "-U", world.folder / "s", "python", nbd_server.PLUGIN, *parameters],
        env={**os.environ, "USRDRV_SITE": nbd_server.site_folders()},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode != 0
    assert message in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    world.assert_clean()


@pytest.mark.parametrize("command", ["block", "identify"])
@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("vfio-user:/nonexistent/socket", "/nonexistent/socket"),
        ("ffff:1f:1f.7", "ffff:1f:1f.7"),
        ("frobnicator", "frobnicator"),
        ("model:toaster?ram=1M", "toaster"),
        ("model:cmd680?rom=1M", "rom"),
        ("model:cmd680?image=/nonexistent.img", "/nonexistent.img does not exist"),
        ("model:cmd680?ram=1000", "not a positive multiple of 512"),
    ],
)
def test_no_such_device(world: World, command: str, device: str, message: str) -> None:
    done = world.run(command, device, *(["--export", "socket"] if command == "block" else []))
    assert done.returncode in (1, 2)
    assert message in fails(
        world,
        command,
        device,
        *(["--export", "socket"] if command == "block" else []),
        code=done.returncode,
    )


def test_device_taken_names_the_owner(world: World) -> None:
    model = world.model("--ram", "1M")
    owner = world.start("block", model.line, "--export", "socket")
    done = world.run("block", model.line, "--export", "socket")
    assert done.returncode == 1
    assert f"taken by process {owner.pid}\n" in done.stderr, "whom to end, not its nbdkit"
    assert len(done.stderr.splitlines()) == 1
    assert owner.end() == 0
    assert world.run("identify", model.line).returncode == 0


def test_images(world: World) -> None:
    missing, odd, busy = (world.folder / name for name in ("missing", "odd", "busy"))
    odd.write_bytes(bytes(1000))
    busy.write_bytes(bytes(4096))
    model = world.model("--image", str(busy))

    def refused(image: Path) -> str:
        done = world.run(
            "model", "cmd680", "--socket", str(world.folder / "n.sock"), "--image", str(image)
        )
        assert done.returncode in (1, 2)
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith("usrdrv: error: ")
        return done.stderr

    assert f"{missing} does not exist" in refused(missing)
    assert "not a positive multiple of 512" in refused(odd)
    assert f"in use by process {model.pid}" in refused(busy)
    assert "Is a directory" in refused(world.folder)


@NEEDS_ROOT
def test_an_image_that_is_not_for_us(world: World) -> None:
    locked = world.folder / "locked"
    locked.write_bytes(bytes(4096))
    line = fails_as_nobody(world, "identify", f"model:cmd680?image={locked}")
    assert f"no permission to open image {locked}" in line


def fails_as_nobody(world: World, *args: str) -> str:
    """Run a command that fails as a user without rights."""
    need_reach(65534)
    rundir = world.folder / "nobody"
    rundir.mkdir(exist_ok=True)
    shutil.chown(rundir, 65534)
    world.folder.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "usrdrv", *args],
        env={**world.env, "USRDRV_RUN_DIR": str(rundir)},
        user=65534,
        group=65534,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    lines = [line for line in done.stderr.splitlines() if not line.startswith("usrdrv: export ")]
    assert done.returncode == 1, done.stderr
    assert len(lines) == 1 and lines[0].startswith("usrdrv: error: "), done.stderr
    return lines[0]


@NEEDS_FUSE
def test_no_right_to_fuse_or_loop_devices(world: World) -> None:
    line = fails_as_nobody(world, "block", RAM, "--export", "fuse")
    assert "permission denied" in line and ("/dev/fuse" in line or "/dev/loop" in line)


@pytest.mark.parametrize("drive", ["1", "3"])
def test_drive_absent(world: World, drive: str) -> None:
    line = fails(world, "block", RAM, "--drive", drive, "--export", "socket")
    assert f"no drive {drive} (there is: 0)" in line
    assert f"no drive {drive}" in fails(world, "identify", RAM, "--drive", drive)


def test_no_nbdkit(world: World) -> None:
    line = fails(world, "block", RAM, "--export", "socket", env=tools(world))
    assert "nbdkit is not installed (Debian package nbdkit)" in line


def test_no_python_plugin(world: World) -> None:
    """A stand-in for nbdkit says what the real one says then."""
    folder = world.folder / "bin"
    folder.mkdir()
    (folder / "nbdkit").write_text(
        '#!/bin/sh\necho \'nbdkit: error: cannot open plugin "python": '
        "/usr/lib/nbdkit/plugins/nbdkit-python-plugin.so: cannot open it' >&2\nexit 1\n"
    )
    (folder / "nbdkit").chmod(0o755)
    env = {"PATH": f"{folder}:{os.environ['PATH']}"}
    line = fails(world, "block", RAM, "--export", "socket", env=env)
    assert "Debian package nbdkit-plugin-python" in line


def test_no_nbdfuse(world: World) -> None:
    line = fails(world, "block", RAM, "--export", "fuse", env=tools(world, "nbdkit"))
    assert "nbdfuse is not installed (Debian package libnbd-bin)" in line


def test_socket_path_too_long(world: World) -> None:
    path = world.folder / ("x" * 107)
    for args in (
        ("block", RAM, "--export", "socket", "--socket", str(path)),
        ("model", "cmd680", "--ram", "1M", "--socket", str(path)),
    ):
        assert "longer than 107 bytes" in fails(world, *args, code=2)


def test_socket_path_taken(world: World) -> None:
    path = world.folder / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        for args in (
            ("block", RAM, "--export", "socket", "--socket", str(path)),
            ("model", "cmd680", "--ram", "1M", "--socket", str(path)),
        ):
            done = world.run(*args)
            assert done.returncode in (1, 2)
            assert len(done.stderr.splitlines()) == 1 and str(path) in done.stderr
    assert path.is_socket(), "not ours to remove"
    path.unlink()
    path.write_text("a file")
    assert "not a socket" in fails(
        world, "block", RAM, "--export", "socket", "--socket", str(path), code=2
    )


def test_control_path_taken(world: World) -> None:
    path = world.folder / "c"
    path.write_text("a file")
    args = ("--ram", "1M", "--socket", str(world.folder / "s"), "--control", str(path))
    assert "not a socket" in fails(world, "model", "cmd680", *args, code=2)
    assert path.read_text() == "a file"


def test_stale_socket_is_taken_over(world: World) -> None:
    path = world.folder / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    running = world.start("block", RAM, "--export", "socket", "--socket", str(path))
    assert running.line == f"nbd+unix:///?socket={path}"
    assert running.end() == 0
    assert not path.exists()


def test_interrupted_while_starting(world: World) -> None:
    """Ctrl-C before anything is attached: nothing is left either."""
    path = world.folder / "m.sock"
    # A device that accepts and says nothing keeps the driver waiting.
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, "-m", "usrdrv", "block", f"vfio-user:{path}", "--export", "socket"],
            env=world.env,
            stderr=subprocess.PIPE,
            text=True,
        )
        listener.settimeout(PATIENCE)
        listener.accept()[0].detach()
        process.send_signal(2)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "interrupted" in err.splitlines()[-1]
    path.unlink()
    world.assert_clean()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("stats",), 2, "stats of which disk?"),
        (("stats", "null:size=7M"), 1, "null:size=7M: no disk of that name is served here"),
        (("stats", "/dev/null"), 1, "/dev/null: no disk of that name is served here"),
        (("null:size=7M", "/dev/null"), 2, "unexpected argument '/dev/null'"),
    ],
)
def test_counters_of_nothing(world: World, words: tuple[str, ...], code: int, message: str) -> None:
    assert message in fails(world, "block", *words, code=code)
