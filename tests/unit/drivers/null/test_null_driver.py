# SPDX-License-Identifier: MIT
"""The null driver: the front end with several queues, commands that end in any order, and nothing to join."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator

import pytest

from tests.waiting import until
from usrdrv.base import errors
from usrdrv.block.options import Options
from usrdrv.drivers.null.driver import Controller, Memory, open_memory

SIZE = 16 << 20


@pytest.fixture(params=[0, 200], ids=["at-once", "later"])
def disk(request: pytest.FixtureRequest) -> Iterator[Controller]:
    memory = Memory(size=SIZE, queues=3, depth=8, delay_us=request.param)
    with Controller(memory) as controller:
        yield controller


def counted(controller: Controller, name: str) -> int:
    channels = controller.stats()["channels"]
    assert isinstance(channels, list)
    return sum(channel[name] for channel in channels)


def test_data_of_all_sizes(disk: Controller) -> None:
    block = disk.drives[0].block
    assert block.size == SIZE
    for size in (512, 4096, 65536, 65536 + 512, 1 << 20):
        data = os.urandom(size)
        block.write_from(data, 8192)
        found = bytearray(size)
        block.read_into(found, 8192)
        assert found == data
    block.trim(8192, 1 << 20)
    block.flush()
    block.read_into(found, 8192)
    assert not any(found)


def test_a_large_request_becomes_commands_that_the_chip_can_do(disk: Controller) -> None:
    """1 MiB is 16 segments, four to a command; nothing of another request joins them."""
    data, found = os.urandom(1 << 20), bytearray(1 << 20)
    disk.drives[0].block.write_from(data, 0)
    assert counted(disk, "commands") == 4
    assert counted(disk, "writes") == 16
    assert counted(disk, "merged") == 12
    disk.drives[0].block.read_into(found, 0)
    assert found == data


def test_only_the_request_of_a_bad_sector_fails(disk: Controller) -> None:
    block = disk.drives[0].block
    data = os.urandom(1 << 20)
    block.write_from(data, 0)

    def read(first: int, last: int) -> bool:
        """Whether these sectors are as they were written."""
        found = bytearray((last - first) * 512)
        block.read_into(found, first * 512)
        return found == data[first * 512 : last * 512]

    disk.fail(700)
    with pytest.raises(errors.DeviceError) as failure:
        read(0, 2048)
    assert failure.value.errno == errno.EIO
    assert read(0, 700) and read(701, 829)
    assert counted(disk, "failed") == 1
    disk.fail(None)
    assert read(0, 2048)


def test_all_of_many_threads_are_served(disk: Controller) -> None:
    block = disk.drives[0].block
    wrong: list[int] = []

    def work(number: int) -> None:
        found = bytearray(4096)
        for i in range(50):
            data, offset = os.urandom(4096), (number * 50 + i) * 4096
            block.write_from(data, offset)
            block.read_into(found, offset)
            if found != data:
                wrong.append(offset)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert counted(disk, "reads") == counted(disk, "writes") == 600


def test_a_read_only_disk() -> None:
    with Controller(Memory(size=SIZE), Options(read_only=True)) as controller:
        block = controller.drives[0].block
        block.read_into(bytearray(512), 0)
        with pytest.raises(errors.DeviceError) as failure:
            block.write_from(bytes(512), 0)
    assert failure.value.errno == errno.EROFS


@pytest.mark.parametrize(
    "memory",
    [Memory(size=1000), Memory(size=0), Memory(queues=17), Memory(depth=0)],
    ids=["size", "nothing", "queues", "depth"],
)
def test_memory_that_cannot_be(memory: Memory) -> None:
    with pytest.raises(errors.UsrdrvError, match="null: "):
        Controller(memory)


def test_a_disk_that_is_closed_ends_its_requests() -> None:
    controller = Controller(Memory(size=SIZE, delay_us=3_600_000_000))
    block = controller.drives[0].block
    results: list[int | None] = []

    def read() -> None:
        with pytest.raises(errors.UsrdrvError) as failure:
            block.read_into(bytearray(512), 0)
        results.append(failure.value.errno)

    reader = threading.Thread(target=read)
    reader.start()
    until(lambda: counted(controller, "commands"), "a command at the chip")
    controller.close()
    controller.close()
    reader.join()
    assert results == [errno.ENODEV]


def test_options_in_a_name() -> None:
    name = "null:size=64M&queues=2&depth=8&delay_us=50"
    assert open_memory(name) == Memory(name, size=64 << 20, queues=2, depth=8, delay_us=50)
    assert open_memory("null:") == Memory("null:")


@pytest.mark.parametrize(
    ("text", "why"), [("size=6x", "size=6x: not a number"), ("color=1", "no option color: ")]
)
def test_options_in_a_name_that_are_wrong(text: str, why: str) -> None:
    with pytest.raises(errors.UsageError, match=why):
        open_memory(f"null:{text}")
