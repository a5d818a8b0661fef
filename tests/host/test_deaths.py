# SPDX-License-Identifier: MIT
"""kill -9 of each part under a running client: an error in time, and nothing left behind."""

import errno
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbd
import pytest

from tests.host.running import COMMAND, Running, World, child_of
from tests.model_faults import hits
from tests.needs import NEEDS_FUSE
from tests.waiting import PATIENCE, until
from usrdrv.block.options import Options
from usrdrv.bridge.block import nbd_server
from usrdrv.devices import control

# Writes and reads back one block after the other, past the page cache, until something fails;
# each line is the number of blocks that were right.
CLIENT = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT)
buf = mmap.mmap(-1, 65536)
size = os.lseek(fd, 0, os.SEEK_END)
done = 0
try:
    while True:
        at = done * 65536 % size
        data = bytes([done % 251 + 1]) * 65536
        buf[:] = data
        os.pwrite(fd, buf, at)
        buf[:] = bytes(65536)
        os.preadv(fd, [buf], at)
        if buf[:] != data:
            print("wrong data", flush=True)
            sys.exit(2)
        done += 1
        print(done, flush=True)
except OSError as error:
    print(f"errno {error.errno}", flush=True)
"""


class Client:
    """A process that uses a block device until it fails."""

    def __init__(self, device: str, folder: Path) -> None:
        self._log = folder / "client.log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen([sys.executable, "-c", CLIENT, device], stdout=log)

    def lines(self) -> list[str]:
        return self._log.read_text().splitlines()

    def wait_busy(self) -> None:
        """Until it has done work, so that the kill comes in the middle of more."""
        until(lambda: len(self.lines()) >= 20, "work done by the client")

    def assert_failed_in_time(self) -> None:
        """It got an I/O error, and all that it did before was right."""
        self.process.wait(PATIENCE)
        *work, last = self.lines()
        assert self.process.returncode == 0, "wrong data"
        assert len(work) >= 20
        assert last in {f"errno {number}" for number in (errno.EIO, errno.ENXIO, errno.ENODEV)}


@pytest.fixture
def model(world: World) -> Running:
    return world.model("--image", str(world.image(size=32 << 20)))


@NEEDS_FUSE
@pytest.mark.parametrize("victim", ["model", "nbdkit", "nbdfuse"])
def test_killed_part_under_a_client(world: World, model: Running, victim: str) -> None:
    running = world.start("block", model.line, "--export", "fuse")
    client = Client(running.line, world.folder)
    client.wait_busy()
    if victim == "model":
        model.process.kill()
    else:
        signal.pidfd_send_signal(os.pidfd_open(running.child(victim)), signal.SIGKILL)
    client.assert_failed_in_time()
    assert running.wait(PATIENCE) == 1
    error = running.stderr.splitlines()[-1]
    assert error.startswith("usrdrv: error: ")
    assert ("device is gone" if victim == "model" else f"{victim} was killed by SIGKILL") in error
    if victim != "model":
        _still_works(world, model)
        assert model.end(signal.SIGTERM) == 0
    else:
        model.wait()
        world.forget_model()
    world.assert_clean()


@NEEDS_FUSE
def test_a_driver_that_hangs_under_a_client(world: World, model: Running) -> None:
    """With this export it is not started again: the client gets its error in time."""
    running = world.start("block", model.line, "--export", "fuse", "--request-time", "2")
    client = Client(running.line, world.folder)
    client.wait_busy()
    signal.pidfd_send_signal(os.pidfd_open(running.child("nbdkit")), signal.SIGSTOP)
    client.assert_failed_in_time()
    assert running.wait(PATIENCE) == 1
    assert "usrdrv: the driver completed no request for 2 s: killing it\n" in running.stderr
    _still_works(world, model)
    assert model.end(signal.SIGTERM) == 0
    world.assert_clean()


@NEEDS_FUSE
def test_killed_supervisor_under_a_client(world: World, model: Running) -> None:
    running = world.start("block", model.line, "--export", "fuse")
    client = Client(running.line, world.folder)
    client.wait_busy()
    running.process.kill()
    running.wait()
    client.assert_failed_in_time()
    until(lambda: len(world.processes()) == 1, "only the model running")
    until(lambda: not (world.loop_devices() or world.mounts()), "no loop device, no mount")
    _still_works(world, model)
    assert model.end(signal.SIGTERM) == 0
    world.assert_clean()


def _still_works(world: World, model: Running) -> None:
    """The device can be had again, and has what the client wrote first."""
    again = world.start("block", model.line, "--export", "socket")
    client = nbd.NBD()
    client.connect_uri(again.line)
    assert client.pread(65536, 65536) == bytes([2]) * 65536
    client.shutdown()
    assert again.end() == 0


def test_model_that_vanishes_under_an_nbd_client(world: World) -> None:
    """A request under way gets EIO; the server ends by itself."""
    model = world.model("--ram", "8M")
    running = world.start("block", model.line, "--export", "socket")
    client = nbd.NBD()
    client.connect_uri(running.line)
    client.pwrite(b"\x42" * 4096, 4096)
    assert client.pread(4096, 4096) == b"\x42" * 4096
    added = world.run("fault", str(world.control), "add", "hang", "on=read")
    assert added.returncode == 0, added.stderr
    buffer = nbd.Buffer(4096)
    results: list[int] = []

    def completed(error: Any) -> int:
        results.append(error.value)
        return 1

    client.aio_pread(buffer, 4096, completion=completed)
    until(lambda: client.poll(100) >= 0 and hits(world.control) == 1, "the request hangs")
    assert not results
    model.process.kill()
    model.wait()
    until(lambda: client.poll(1000) >= 0 and results, "its end")
    assert results == [errno.EIO]
    assert running.wait(PATIENCE) == 1
    assert running.stderr.splitlines()[-1].endswith("device is gone")
    world.forget_model()


def test_model_that_vanishes_while_nothing_is_asked(world: World) -> None:
    model = world.model("--ram", "8M")
    running = world.start("block", model.line, "--export", "socket")
    model.process.kill()
    model.wait()
    assert running.wait(PATIENCE) == 1
    assert running.stderr.splitlines()[-1].endswith("device is gone")
    world.forget_model()


@NEEDS_FUSE
def test_nbdkit_killed_while_mounted(world: World) -> None:
    """The user's mount stays the user's; it fails, and umount frees the loop device."""
    running = world.start("block", "model:cmd680?strict=1&ram=32M", "--export", "fuse")
    folder = world.folder / "mnt"
    folder.mkdir()
    subprocess.run(["mkfs.ext4", "-q", running.line], check=True, timeout=PATIENCE)
    subprocess.run(["mount", running.line, folder], check=True, timeout=PATIENCE)
    try:
        (folder / "file").write_bytes(b"x" * 4096)
        signal.pidfd_send_signal(os.pidfd_open(running.child("nbdkit")), signal.SIGKILL)
        assert running.wait(PATIENCE) == 1
        assert f"still in use ({folder})" in running.stderr.splitlines()[-1]
        assert folder.is_mount()
        subprocess.run(["sync", "-f", folder], timeout=PATIENCE, check=False)
    finally:
        subprocess.run(["umount", folder], check=True, timeout=PATIENCE)
    world.assert_clean()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_connected_client_keeps_nothing_alive(
    world: World, model: Running, number: signal.Signals
) -> None:
    """nbdkit by itself would wait for its clients, and keep the device."""
    running = world.start("block", model.line, "--export", "socket")
    client = nbd.NBD()
    client.connect_uri(running.line)
    client.pwrite(bytes([2]) * 65536, 65536)
    code = running.end(number)
    assert code == (0 if number == signal.SIGINT else -signal.SIGKILL)
    # nbdkit is killed after its grace time.
    until(lambda: len(world.processes()) == 1, "only the model running")
    with pytest.raises(nbd.Error):
        client.pread(512, 0)
    _still_works(world, model)
    assert model.end(signal.SIGTERM) == 0


def test_nobody_reads_its_standard_error(world: World, model: Running) -> None:
    """The drive goes on, and so does the supervisor: it sees its driver die, and ends."""
    unread, stderr = os.pipe()
    os.set_blocking(stderr, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(stderr, b"." * 4096)
    os.set_blocking(stderr, True)
    process = subprocess.Popen(
        [*COMMAND, "block", model.line, "--export", "socket"],
        env=world.env,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    try:
        assert process.stdout is not None
        uri = process.stdout.readline().strip()
        control.call(
            world.control,
            {"op": "fault-add", "fault": {"kind": "bad-sector", "lba": 100, "on": "read"}},
        )
        client = nbd.NBD()
        client.connect_uri(uri)
        for _ in range(400):  # each failure has its lines
            with pytest.raises(nbd.Error):
                client.pread(512, 100 * 512)
        assert client.pread(512, 0) == bytes(512)
        pid = child_of(process.pid, "nbdkit")
        signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGKILL)
        assert process.wait(PATIENCE) == 1
    finally:
        process.kill()
        process.wait()
        os.close(unread)
        os.close(stderr)
    assert model.end(signal.SIGTERM) == 0


FORGETFUL = """
_after_fork = after_fork
def after_fork():
    _after_fork()
    read_into = disks["0"].read_into
    def forget(buf, offset):
        if offset == 65536:
            threading.Event().wait()
        read_into(buf, offset)
    disks["0"].read_into = forget
"""


def test_a_request_that_is_forgotten_while_others_go_on(world: World, model: Running) -> None:
    """The process that has it does not live much longer than that may take."""
    source = nbd_server.PLUGIN.read_text()
    plugin = world.folder / "plugin.py"
    plugin.write_text(source + FORGETFUL)
    endpoint = nbd_server.Endpoint(path=world.folder / "n.sock")

    class Forgetful(nbd_server.NbdServer):
        def _command(self) -> list[str]:
            words = super()._command()
            return [str(plugin) if word.endswith("/plugin.py") else word for word in words]

    with Forgetful(model.line, [0], endpoint, Options(request_time=1)) as server:
        client = nbd.NBD()
        client.connect_uri(endpoint.uri())
        forgotten = nbd.NBD()
        forgotten.connect_uri(endpoint.uri())
        results: list[int] = []

        def completed(error: Any) -> int:
            results.append(error.value)
            return 1

        forgotten.aio_pread(nbd.Buffer(512), 65536, completion=completed)
        done = 0
        while not server.child.wait(0):
            try:
                client.pread(512, 0)
                done += 1
            except nbd.Error:
                break
            with suppress(nbd.Error):
                forgotten.poll(0)
        assert done, "others went on"
        assert server.child.wait(PATIENCE) and server.child.returncode == -signal.SIGKILL
        with suppress(nbd.Error):
            while not results:
                forgotten.poll(-1)
        assert results and results[0], "its client is told"
        assert "a request is not done after 2 s: killed" in server.child.lines[-1]
    _still_works_empty(world, model)
    assert model.end(signal.SIGTERM) == 0


def _still_works_empty(world: World, model: Running) -> None:
    again = world.start("block", model.line, "--export", "socket")
    assert again.end() == 0


@NEEDS_FUSE
def test_the_kernel_does_not_kill_it_for_memory_nor_dump_its_core(
    world: World, model: Running
) -> None:
    running = world.start("block", model.line, "--export", "fuse")
    pids = [running.pid, running.child("nbdkit"), running.child("nbdfuse")]
    badness = [Path(f"/proc/{pid}/oom_score_adj").read_text().strip() for pid in pids]
    may = subprocess.run(
        ["sh", "-c", "echo -1000 >/proc/self/oom_score_adj"], capture_output=True, check=False
    )
    ours = Path("/proc/self/oom_score_adj").read_text().strip()
    assert badness == [ours if may.returncode else "-1000"] * 3
    limits = Path(f"/proc/{pids[1]}/limits").read_text()
    assert re.findall(r"Max core file size +(\S+)", limits) == ["1"]
    assert running.end() == 0
    assert model.end(signal.SIGTERM) == 0
