# SPDX-License-Identifier: MIT
"""`usrdrv identify`, `list` and `--version`."""

import json
import os
import socket
import threading
from typing import Any

import nbd
import pytest

from tests.host.running import Running, World
from tests.waiting import until
from usrdrv.devices import control


def test_identify_json(world: World) -> None:
    done = world.run(
        "identify", "model:cmd680?strict=1&ram=64M&ram3=8M&cable1=40&rpm3=1&serial3=A1", "--json"
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [drive["drive"] for drive in said["drives"]] == [0, 3]
    first, last = said["drives"]
    assert first["size"] == 64 << 20 and last["size"] == 8 << 20
    assert first["sectors"] == 131072
    assert first["mode"] == "UDMA6"
    assert last["mode"] == "UDMA2", "a 40-wire cable carries no more"
    assert "UDMA6" in last["modes"] and "PIO4" in last["modes"]
    assert (first["rpm"], last["rpm"]) == (7200, 1)
    assert last["serial"] == "A1"
    assert first["smart"]["healthy"] is True
    assert 197 in [attribute["id"] for attribute in first["smart"]["attributes"]]


def test_identify_table(world: World) -> None:
    done = world.run(
        "identify", "model:cmd680?strict=1&ram=64M&ram1=8M&model1=[b]Disk", "--drive", "1"
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout
    assert "drive 1" in text and "drive 0" not in text
    assert "[b]Disk" in text, "a drive's name is no markup"
    assert "8 MiB (8388608 bytes, 16384 sectors)" in text
    assert "16 heads, 63 sectors" in text
    assert "passed" in text and "SMART attributes" in text


def test_identify_without_drives(world: World) -> None:
    done = world.run("identify", "model:cmd680")
    assert (done.returncode, done.stdout) == (0, "model:cmd680: no drives\n")


def test_list(world: World) -> None:
    def named(name: str) -> list[dict[str, Any]]:
        done = world.run("list", "--json")
        assert done.returncode == 0, done.stderr
        return [device for device in json.loads(done.stdout) if device["name"] == name]

    path = world.folder / "m.sock"
    assert named(f"vfio-user:{path}") == []
    model = world.model("--ram", "1M")
    (found,) = named(model.line)
    assert (found["vendor"], found["device"], found["owner"]) == (0x1095, 0x0680, None)
    assert f"{model.line}  1095:0680  ide_cmd680  free\n" in world.run("list").stdout
    with socket.socket(socket.AF_UNIX) as client:  # as QEMU, which claims nothing here
        client.connect(str(path))
        assert (named(model.line)[0]["owner"], named(model.line)[0]["used"]) == (None, True)
        line = f"{model.line}  1095:0680  ide_cmd680  in use by a client of its server\n"
        assert line in world.run("list").stdout
    until(lambda: named(model.line)[0]["used"] is False, "the model is free again")
    running = world.start("block", model.line, "--export", "socket")
    assert (named(model.line)[0]["owner"], named(model.line)[0]["used"]) == (running.pid, True)
    assert f"taken by process {running.pid}\n" in world.run("list").stdout


@pytest.mark.parametrize(
    "command", [(), ("list",), ("identify",), ("block",), ("model",), ("fault",)]
)
def test_help(world: World, command: tuple[str, ...]) -> None:
    done = world.run(*command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: {' '.join(('usrdrv', *command))}")


def test_version(world: World) -> None:
    assert world.run("--version").stdout.startswith("usrdrv ")


def served(world: World, export: str = "socket") -> tuple[Running, Running]:
    """A model with two drives, of which one is served."""
    model = world.model("--ram", "8M,serial=A1", "--ram", "16M")
    return model, world.start("block", model.line, "--export", export)


def test_drives_in_service(world: World) -> None:
    """Its driver is asked: the same fields, of all drives; SMART data as they are now."""
    model, running = served(world)
    done = world.run("identify", model.line, "--json")
    assert done.returncode == 0, done.stderr
    busy = json.loads(done.stdout)
    assert [drive["drive"] for drive in busy["drives"]] == [0, 1]
    assert busy["drives"][0]["serial"] == "A1"
    assert "drive 1" in world.run("identify", model.line, "--drive", "1").stdout
    done = world.run("identify", model.line, "--drive", "3")
    assert (done.returncode, done.stderr) == (1, f"usrdrv: error: {model.line}: no drive 3\n")

    def pending() -> int:
        """Sectors that cannot be read, in the drive's own account."""
        said = json.loads(world.run("identify", model.line, "--json", "--drive", "0").stdout)
        attributes = said["drives"][0]["smart"]["attributes"]
        return int(next(each["raw"] for each in attributes if each["id"] == 197))

    assert pending() == 0
    fault = world.run("fault", str(world.control), "add", "bad-sector", "lba=8")
    assert fault.returncode == 0, fault.stderr
    client = nbd.NBD()
    client.connect_uri(running.line)
    with pytest.raises(nbd.Error):
        client.pread(512, 4096)
    assert pending() == 1
    client.shutdown()
    assert running.end() == 0, running.stderr
    done = world.run("identify", model.line, "--json")
    free = json.loads(done.stdout)
    for drive in (*busy["drives"], *free["drives"]):
        del drive["smart"]
    assert busy == free


def test_requests_go_on_while_drives_are_asked(world: World) -> None:
    """Each is done once, whenever the drive is asked in between."""
    model, running = served(world)
    client = nbd.NBD()
    client.connect_uri(running.line)
    stop = threading.Event()
    done: list[int] = []

    def load() -> None:
        while not stop.is_set():
            data = os.urandom(4096)
            at = len(done) % 512 * 4096
            client.pwrite(data, at)
            assert client.pread(4096, at) == data
            done.append(at)

    def goes_on() -> None:
        before = len(done)
        until(lambda: len(done) > before or not loading.is_alive(), "a request")
        assert loading.is_alive(), "the client failed"

    loading = threading.Thread(target=load)
    loading.start()
    try:
        for _ in range(5):
            goes_on()
            assert world.run("identify", model.line).returncode == 0
        goes_on()
    finally:
        stop.set()
        loading.join()
    drive = control.call(world.control, {"op": "counters"})["drives"][0]
    assert (drive["reads"], drive["writes"]) == (len(done), len(done))
    assert (drive["errors"], drive["timeouts"]) == (0, 0)
    client.shutdown()
    assert running.end() == 0, running.stderr


def test_a_driver_that_does_not_answer_is_named_as_ever(world: World) -> None:
    model, running = served(world)
    (path,) = world.rundir.glob("driver-*.sock")
    assert path.stem == f"driver-{running.pid}"
    path.unlink()
    done = world.run("identify", model.line)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(f": taken by process {running.pid}\n")
    assert done.stderr.count("\n") == 1
