# SPDX-License-Identifier: MIT
"""Stock pata_sil680 behind an IOMMU that translates: each page is mapped and unmapped with a message of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.helpers.referee import Referee, start
from usrdrv.lab.qemu import address

MIB = 1 << 20


@pytest.fixture(scope="module")
def referee(guest_factory: Any) -> Iterator[Referee]:
    yield from start(guest_factory, ["--ram=64M"], iommu=True, append="iommu=nopt iommu.strict=1")


def test_dma_through_single_pages(referee: Referee) -> None:
    path = referee.disks[0, 0].path
    group = f"/sys/bus/pci/devices/{address(0)}/iommu_group"
    assert referee.run(f"cat {group}/type").out.strip() == "DMA", "translated, and not lazily"
    since = referee.guest.console.position()
    before = referee.counters()
    job = referee.fio(
        path,
        "--size=8m --bsrange=512-512k --direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite "
        "--verify=crc32c --verify_fatal=1 --do_verify=1",
    )
    assert job["write"]["io_bytes"] == job["read"]["io_bytes"] == 8 * MIB
    after = referee.counters()
    assert after["drives"][0]["bytes"] - before["drives"][0]["bytes"] >= 16 * MIB
    assert after["master_aborts"] == 0
    assert not re.search(r"DMAR:.*fault|exception Emask", referee.guest.kernel_log(since))
    referee.run(f"mkfs.ext4 -q -F {path} && e2fsck -f -n {path}")
