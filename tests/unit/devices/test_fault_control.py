# SPDX-License-Identifier: MIT
"""The control socket of a model, with clients that do not behave."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from usrdrv.base.errors import DeviceBusyError, DeviceError, NoSuchDeviceError, UsageError
from usrdrv.devices.cmd680.model import Cmd680Model, DriveSpec
from usrdrv.devices.control import ControlServer, call


@pytest.fixture
def model() -> Iterator[Cmd680Model]:
    with Cmd680Model([DriveSpec(ram=1 << 20)]) as model:
        yield model


@pytest.fixture
def path(tmp_path: Path, model: Cmd680Model) -> Iterator[Path]:
    with ControlServer(tmp_path / "control", model) as server:
        yield server.path
    assert not (tmp_path / "control").exists()


def test_all_requests(path: Path) -> None:
    fault = {"kind": "bad-sector", "lba": 7, "drive": 0}
    # An id and hits are the model's to give.
    fault_id = call(path, {"op": "fault-add", "fault": fault | {"id": -1, "hits": 1 << 70}})
    assert call(path, {"op": "fault-list"}) == [fault | {"id": fault_id}]
    assert call(path, {"op": "fault-clear", "id": fault_id}) == 1
    assert call(path, {"op": "fault-clear"}) == 0
    assert call(path, {"op": "counters"})["drives"][0]["commands"] == 0
    assert call(path, {"op": "status"})["drives"][0]["ram"] == 1 << 20


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"op": "explode"},
        {"op": ["fault-add"]},
        {"op": "fault-add"},
        {"op": "fault-add", "fault": {"kind": "crc", "colour": 1}},
        {"op": "fault-add", "fault": {"kind": ["crc"]}},
        {"op": "fault-add", "fault": {"kind": "crc", "drive": "0"}},
        {"op": "fault-add", "fault": {"kind": "crc", "drive": 0.5}},
        {"op": "fault-add", "fault": {"kind": "crc", "drive": True}},
        {"op": "fault-add", "fault": {"kind": "crc", "count": 1 << 70}},
        {"op": "fault-add", "fault": {"lba": 1}},
        {"op": "fault-add", "fault": {"kind": "crc", "drive": 3}},
        {"op": "fault-clear", "id": "x"},
        {"op": "fault-clear", "id": 99},
        {"op": "fault-clear", "id": -1},
    ],
)
def test_bad_requests(path: Path, request_: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=str(path)):
        call(path, request_)
    assert call(path, {"op": "fault-list"}) == []


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"{\n", b"[1]\n", b"\xff\xfe\n", b"[" * 50000 + b"\n", b"x" * 100000]
)
def test_rubbish_does_not_kill_the_server(path: Path, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            assert b'"ok": false' in sock.recv(4096)
    assert call(path, {"op": "fault-list"}) == []


def test_a_silent_client_does_not_block_others_or_close(tmp_path: Path, model: Cmd680Model) -> None:
    server = ControlServer(tmp_path / "c", model)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(server.path))
        assert call(server.path, {"op": "fault-list"}) == []
        server.close()
    with pytest.raises(NoSuchDeviceError, match=str(server.path)):
        call(server.path, {"op": "status"})


def test_taken_and_stale_paths(path: Path, model: Cmd680Model) -> None:
    with pytest.raises(DeviceBusyError, match="another server"):
        ControlServer(path, model)
    stale = path.with_name("stale")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(stale))
    with ControlServer(stale, model):
        assert call(stale, {"op": "fault-list"}) == []
    plain = path.with_name("plain")
    plain.write_text("keep")
    with pytest.raises(UsageError, match="plain"):
        ControlServer(plain, model)
    assert plain.read_text() == "keep"


def test_bad_paths(tmp_path: Path, model: Cmd680Model) -> None:
    long = tmp_path / ("x" * 108)
    for path in (long, tmp_path / "no" / "dir"):
        with pytest.raises(UsageError):
            ControlServer(path, model)
    with pytest.raises(UsageError, match="longer"):
        call(long, {})
    with pytest.raises(NoSuchDeviceError):
        call(tmp_path / "none", {})


def test_a_peer_that_hangs_up(tmp_path: Path) -> None:
    path = tmp_path / "c"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            client, _ = listener.accept()
            client.recv(1000)
            client.close()

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(DeviceError, match=str(path)):
            call(path, {"op": "status"})
        thread.join()
