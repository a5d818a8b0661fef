# SPDX-License-Identifier: MIT
"""An image on a file system that fills up: just those writes fail, somebody says why, and all is well with room."""

import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.needs import NEEDS_ROOT
from usrdrv.base import errors
from usrdrv.block import Block
from usrdrv.device import open_device
from usrdrv.drivers import open_driver

pytestmark = NEEDS_ROOT

MIB = 1 << 20
PIECE = 65536
PIECES = 8 * MIB // PIECE
FULL = (
    "cmd680 model: drive 0: the file system of its image is full (No space left on device): "
    "writes fail until there is room"
)
ROOM = "cmd680 model: drive 0: there is room again on the file system of its image"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "usrdrv-test", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def pattern(number: int) -> bytes:
    return number.to_bytes(2, "little") * (PIECE // 2)


def fill(block: Block) -> list[int]:
    """Write all pieces; return those that failed."""
    failed = []
    for number in range(PIECES):
        try:
            block.write_from(pattern(number), number * PIECE)
        except errors.UsrdrvError:
            failed.append(number)
    return failed


def right(block: Block, numbers: list[int]) -> bool:
    back = bytearray(PIECE)
    for number in numbers:
        block.read_into(back, number * PIECE)
        if back != pattern(number):
            return False
    return True


def test_a_full_file_system(
    small: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("usrdrv.ratelimit.SECONDS", 1e9)  # however long it takes
    image, other = small / "disk.img", small / "other"
    image.touch()
    os.truncate(image, 16 * MIB)
    other.write_bytes(bytes(2 * MIB))
    caplog.set_level(logging.WARNING)
    with open_device(f"model:cmd680?strict=1&image={image}") as device:
        with open_driver(device) as controller:
            drive = controller.drives[0]
            failed = fill(drive.block)
            written = [number for number in range(PIECES) if number not in failed]
            assert len(failed) > 42 and len(written) > 42
            assert right(drive.block, written)
            assert drive.mode == "UDMA6", "no slower mode gives room"
            assert capfd.readouterr().err.splitlines().count(FULL) == 1
            assert len(caplog.messages) < 25, "some of each cause; not some for each write"
            other.unlink()
            drive.block.write_from(pattern(failed[0]), failed[0] * PIECE)
            other.write_bytes(bytes(2 * MIB - PIECE))
            assert capfd.readouterr().err.splitlines() == [ROOM]
            assert 42 < len(fill(drive.block)) <= len(failed)
            assert capfd.readouterr().err.splitlines().count(FULL) == 1, "once for each filling"
            other.unlink()
            subprocess.run(["mount", "-o", "remount,size=16m", small], check=True)
            assert fill(drive.block) == []
            assert right(drive.block, list(range(PIECES)))
            assert (drive.mode, drive.recovery.speed_downs) == ("UDMA6", 0)
        told = caplog.messages
        assert any("more like it" in message for message in told[-3:])
