# SPDX-License-Identifier: MIT
"""Counters in memory that the counting process shares."""

import mmap
import os
import struct
from typing import Any

import pytest

from tests.unit.drivers.dp83820.nic_pair import Pair
from tests.waiting import until
from usrdrv.base.counters import SIZE, Counters
from usrdrv.block.front import COUNTERS as OF_DISKS
from usrdrv.block.options import Options as DiskOptions
from usrdrv.drivers.disks import open_disks
from usrdrv.drivers.dp83820.driver import COUNTERS, Options
from usrdrv.drivers.ide_cmd680 import _cmd680
from usrdrv.drivers.null import _null


def test_who_has_the_memory_reads_them() -> None:
    with Counters() as counters:
        theirs = mmap.mmap(counters.fd, 16)
        struct.pack_into("=2Q", theirs, 0, 7, 1 << 63)
        assert counters.read(["a", "b", "c"]) == {"a": 7, "b": 1 << 63, "c": 0}
        with pytest.raises(PermissionError):  # or reading would be a bus error
            os.ftruncate(counters.fd, 0)


def test_the_next_driver_goes_on_counting() -> None:
    """And the same one with other rings."""
    with Counters() as counters:
        for turn in (1, 2):
            with Pair(options=Options(counters=counters.fd), far=Options()) as pair:
                pair.a.send(pair.frame(100))
                pair.b.receive()
                # Between the two it may look at its memory, which is counted.
                until(lambda: pair.a.nic.statistics() == counters.read(COUNTERS))
                before = pair.a.nic.statistics()
                assert before["tx_frames"] == 2 * turn - 1
                pair.a.nic.set_mtu(2000)
                until(lambda: pair.a.nic.speed and pair.b.nic.speed)
                pair.a.send(pair.frame(100))
                pair.b.receive()
                assert pair.b.stats("rx_frames") == 2
        assert counters.read(COUNTERS)["tx_frames"] == 4


@pytest.mark.parametrize("driver", [_null, _cmd680])
def test_counters_of_disks_are_those_of_c(driver: Any) -> None:
    record = driver.ffi.typeof("struct block_counters")
    assert [name for name, _ in record.fields] == list(OF_DISKS)
    assert {field.type.cname for _, field in record.fields} == {"uint64_t"}
    assert driver.lib.BLOCK_MAX_CHANNELS * driver.ffi.sizeof(record) <= SIZE


def test_the_next_driver_of_a_disk_goes_on_counting() -> None:
    """Of whatever chip, and on whichever of its channels."""
    with Counters() as counters:
        for name in ("null:size=1M&queues=3", "model:cmd680?ram=1M"):
            for turn in (1, 2):
                before = counters.sums(OF_DISKS)
                with open_disks(name, DiskOptions(counters=counters.fd)) as controller:
                    disk = controller.drives[0]
                    assert disk is not None
                    for _ in range(turn):
                        disk.block.write_from(bytes(4096), 512)
                now = counters.sums(OF_DISKS)
                assert now["writes"] - before["writes"] == turn
                assert now["sectors_written"] - before["sectors_written"] == 8 * turn
                assert now["commands"] - before["commands"] >= turn
