# SPDX-License-Identifier: MIT
"""Whether a device is there, as its bus says."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from usrdrv import pci
from usrdrv.bridge.worker import presence


def test_a_function_is_there_while_somebody_answers_for_its_vendor_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pci, "BUS", tmp_path)
    for address, vendor in (("0000:03:00.0", b"\x95\x10"), ("0000:04:00.0", b"\xff\xff")):
        folder = tmp_path / "devices" / address
        folder.mkdir(parents=True)
        (folder / "config").write_bytes(vendor + bytes(62))
    assert presence.there("03:00.0")
    assert not presence.there("0000:04:00.0")
    assert not presence.there("0000:05:00.0")


def test_a_server_is_there_while_it_listens(tmp_path: Path) -> None:
    path = tmp_path / "s"
    name = f"vfio-user:{path}"
    assert not presence.there(name)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        assert not presence.there(name)
        server.listen(0)
        for _ in range(3):
            assert presence.there(name), "also with a full queue"
    assert not presence.there(name), "the path is still there"


def test_a_model_in_the_drivers_process_is_always_there() -> None:
    assert presence.there("model:cmd680?image=disk.img")
