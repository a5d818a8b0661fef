# SPDX-License-Identifier: MIT
"""Our nbdkit plugin, judged by libnbd and by a reference array."""

import errno
import json
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.host.running import Running, World
from tests.waiting import PATIENCE, until
from usrdrv.base.counters import Counters
from usrdrv.block.front import COUNTERS
from usrdrv.block.options import Options
from usrdrv.bridge.block.nbd_server import Endpoint, NbdServer

SIZE = 64 << 20
SECTOR = 512


def connect(uri: str) -> Any:
    handle = nbd.NBD()
    handle.connect_uri(uri)
    return handle


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """One server over a model in memory, for all tests that leave it as usable as they found it."""
    with tempfile.TemporaryDirectory(prefix="usrdrv-test-") as folder:
        world = World(Path(folder))
        yield world.start("block", f"model:cmd680?strict=1&ram={SIZE}", "--export", "socket")
        world.close()
        world.assert_clean()


@pytest.fixture
def client(server: Running) -> Iterator[Any]:
    handle = connect(server.line)
    yield handle
    handle.shutdown()


def test_what_it_says_of_itself(client: Any) -> None:
    assert client.get_size() == SIZE
    assert client.get_block_size(nbd.SIZE_MINIMUM) == SECTOR
    assert client.get_block_size(nbd.SIZE_PREFERRED) == 4096
    assert client.get_block_size(nbd.SIZE_MAXIMUM) == 32 << 20
    assert client.can_multi_conn() and client.can_flush() and client.can_fua()
    assert client.can_trim()
    assert not client.is_read_only()
    assert client.is_rotational()


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["read", "write", "write fua", "flush", "trim", "zero"]),
        st.integers(0, 511),
        st.one_of(st.integers(1, 16), st.integers(1, 512)),
        st.integers(1, 255),
        st.integers(0, 1),
    ),
    min_size=1,
    max_size=30,
)


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(base=st.integers(0, SIZE // SECTOR - 512), operations=OPERATIONS)
def test_any_mix_of_requests_equals_an_array(
    clients: tuple[Any, Any],
    base: int,
    operations: list[tuple[str, int, int, int, int]],
) -> None:
    """Two connections take turns. Trimmed sectors read as anything, but always the same."""
    start = base * SECTOR
    reference = bytearray(512 * SECTOR)
    clients[0].pwrite(bytes(reference), start)
    for kind, first, sectors, value, which in operations:
        client = clients[which]
        offset, length = first * SECTOR, min(sectors, 512 - first) * SECTOR
        if kind == "read":
            assert client.pread(length, start + offset) == reference[offset : offset + length]
        elif kind.startswith("write"):
            data = bytes((value + n // SECTOR) & 0xFF for n in range(length))
            client.pwrite(data, start + offset, nbd.CMD_FLAG_FUA if kind == "write fua" else 0)
            reference[offset : offset + length] = data
        elif kind == "trim":
            client.trim(length, start + offset)
            reference[offset : offset + length] = client.pread(length, start + offset)
        elif kind == "zero":
            client.zero(length, start + offset)
            reference[offset : offset + length] = bytes(length)
        else:
            client.flush()
    assert clients[1].pread(len(reference), start) == reference


@pytest.fixture(scope="module")
def clients(server: Running) -> Iterator[tuple[Any, Any]]:
    pair = connect(server.line), connect(server.line)
    yield pair
    for handle in pair:
        handle.shutdown()


def test_many_requests_at_once(client: Any) -> None:
    """64 writes under way together, then 64 reads, of different lengths."""
    pieces = []
    at = 0
    for number in range(64):
        length = SECTOR * (1 + number * 7 % 200)
        pieces.append((at, bytes([number + 1]) * length))
        at += length
    handles = [client.aio_pwrite(nbd.Buffer.from_bytearray(data), at) for at, data in pieces]
    finish(client, handles)
    buffers = [(nbd.Buffer(len(data)), at, data) for at, data in pieces]
    finish(client, [client.aio_pread(buffer, at) for buffer, at, _ in buffers])
    for buffer, at, data in buffers:
        assert bytes(buffer.to_bytearray()) == data, f"piece at {at}"


def finish(client: Any, cookies: list[int]) -> None:
    for cookie in cookies:
        while not client.aio_command_completed(cookie):
            client.poll(10_000)


def test_a_request_of_the_largest_size(client: Any) -> None:
    data = bytes(range(256)) * (32 << 12)
    client.pwrite(data, SIZE - len(data))
    assert client.pread(len(data), SIZE - len(data)) == data


@pytest.mark.parametrize(("length", "offset"), [(100, 0), (512, 1), (511, 512)])
def test_misaligned_is_refused(client: Any, length: int, offset: int) -> None:
    client.set_strict_mode(0)
    with pytest.raises(nbd.Error) as caught:
        client.pread(length, offset)
    assert caught.value.errnum == errno.EINVAL
    with pytest.raises(nbd.Error) as caught:
        client.pwrite(bytes(length), offset)
    assert caught.value.errnum == errno.EINVAL
    assert len(client.pread(512, 0)) == 512, "the connection goes on"


def test_beyond_the_end_is_refused(client: Any) -> None:
    client.set_strict_mode(0)
    with pytest.raises(nbd.Error) as caught:
        client.pread(1024, SIZE - 512)
    assert caught.value.errnum in (errno.EINVAL, errno.ENOSPC)


def test_read_only(world: World) -> None:
    image = world.image()
    image.write_bytes(b"\x5a" * (1 << 20))
    running = world.start(
        "block", f"model:cmd680?strict=1&image={image}", "--read-only", "--export", "socket"
    )
    client = connect(running.line)
    assert client.is_read_only()
    assert client.pread(4096, 8192) == b"\x5a" * 4096
    client.set_strict_mode(0)
    with pytest.raises(nbd.Error) as caught:
        client.pwrite(bytes(512), 0)
    assert caught.value.errnum in (errno.EPERM, errno.EROFS)
    client.shutdown()
    assert running.end() == 0
    assert image.read_bytes() == b"\x5a" * (1 << 20)


def test_written_data_is_in_the_image(world: World) -> None:
    """Through a model in its own process, and the second drive."""
    images = [world.image("a.img", 8 << 20), world.image("b.img", 16 << 20)]
    model = world.model(*(f"--image={image}" for image in images))
    running = world.start("block", model.line, "--drive", "1", "--export", "socket")
    client = connect(running.line)
    assert client.get_size() == 16 << 20
    data = bytes(range(256)) * 1000
    client.pwrite(data, 1 << 20)
    client.flush()
    assert images[1].read_bytes()[1 << 20 : (1 << 20) + len(data)] == data
    client.shutdown()
    assert running.end() == 0
    assert model.end(15) == 0
    assert images[0].read_bytes() == bytes(8 << 20)


@pytest.mark.parametrize(
    ("bind", "shown"), [(None, "127.0.0.1"), ("::1", "[::1]"), ("[::1]", "[::1]")]
)
def test_tcp(world: World, bind: str | None, shown: str) -> None:
    address = shown.strip("[]")
    with socket.socket(socket.AF_INET6 if ":" in shown else socket.AF_INET) as ours:
        # The port is ours meanwhile; with this option, a server that sets it too may have it as well.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            ours.bind((address, 0))
        except OSError:
            pytest.skip(f"needs the address {address}")
        port = ours.getsockname()[1]
        arguments = ["--port", str(port), *(["--bind", bind] if bind else [])]
        running = world.start("block", "model:cmd680?strict=1&ram=1M", *arguments)
        assert running.line == f"nbd://{shown}:{port}"
        warning = f"warning: {running.line} has no authentication"
        until(lambda: warning in running.stderr, "the warning, which waits for no reader")
        client = connect(running.line)
        client.pwrite(b"\x77" * 512, 512)
        assert client.pread(1024, 0) == bytes(512) + b"\x77" * 512
        client.shutdown()
        again = world.run("block", "model:cmd680?strict=1&ram=1M", *arguments)
        assert again.returncode == 2
        assert f"port {port}: Address already in use" in again.stderr
        assert running.end() == 0


def test_driver_counters_nothing_but_our_errors(world: World) -> None:
    """An injected bad sector fails that request alone, with EIO, and the rest goes on."""
    model = world.model("--ram", "8M")
    running = world.start("block", model.line, "--export", "socket")
    added = world.run("fault", str(world.control), "add", "bad-sector", "lba=100", "on=read")
    assert added.returncode == 0, added.stderr
    client = connect(running.line)
    client.pwrite(b"\x11" * 65536, 32768)
    with pytest.raises(nbd.Error) as caught:
        client.pread(4096, 100 * 512 - 1024)
    assert caught.value.errnum == errno.EIO
    assert client.pread(1024, 98 * 512) == b"\x11" * 1024
    assert client.pread(4096, 101 * 512)[:512] == b"\x11" * 512
    assert world.run("fault", str(world.control), "clear", added.stdout.strip()).returncode == 0
    assert client.pread(4096, 100 * 512 - 1024) == b"\x11" * 4096
    client.shutdown()
    assert running.end() == 0
    assert "sector 100" in running.stderr


def test_counters(world: World) -> None:
    """By the device's name, however it is written, and by the address; of this one server."""
    other = world.start("block", "null:size=2M", "--export", "socket")
    server = world.start("block", "null:size=1M&queues=2", "--export", "socket")

    def counted(name: str) -> Any:
        done = world.run("block", "stats", name, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    client = connect(server.line)
    before = counted("null:size=1M&queues=2")
    client.pwrite(bytes(8 * SECTOR), 0)
    client.pread(SECTOR, 0)
    client.shutdown()
    now = counted(server.line)
    assert now["device"] == "null:size=1M&queues=2" and now["export"] == "socket"
    assert (now["driver_pid"], now["restarts"]) == (server.child("nbdkit"), 0)
    moved = {name: now[name] - before[name] for name in ("writes", "reads", "sectors_written")}
    assert moved == {"writes": 1, "reads": 1, "sectors_written": 8}
    assert counted(other.line)["writes"] == 0
    table = world.run("block", "stats", server.line).stdout
    assert "\nsectors_read" in table and table.startswith("device ")


def test_counters_outlive_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USRDRV_RUN_DIR", str(tmp_path))
    end = Endpoint(path=tmp_path / "nbd.sock")
    with (
        Counters() as counters,
        NbdServer("null:size=1M", [0], end, Options(counters=counters.fd)) as server,
    ):
        for life in (1, 2):
            client = connect(end.uri())
            client.pwrite(bytes(SECTOR), 0)
            assert counters.sums(COUNTERS)["writes"] == life
            server.child.kill()
            server.child.wait(PATIENCE)
            server.start()


def test_the_socket_of_another_server_stays(world: World) -> None:
    """Somebody has removed ours, and another server has its path."""
    path = world.folder / "nbd.sock"
    server = world.start("block", "null:size=1M", "--export", "socket", "--socket", str(path))
    path.unlink()
    other = world.start("block", "null:size=2M", "--export", "socket", "--socket", str(path))
    assert server.end() == 0
    client = connect(other.line)
    assert client.get_size() == 2 << 20
    client.shutdown()
    assert other.end() == 0
    assert not path.exists()
