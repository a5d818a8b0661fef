# SPDX-License-Identifier: MIT
"""Debian's own pata_sil680 with CompactFlash cards, and with drives that have to be told to spin up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.helpers.referee import Referee, start

NEW_CARD, OLD_CARD, SIGNATURE_OF_DELKIN, HIDING = ((0, drive) for drive in range(4))
SHORT, COMPLETE, ACCESS = ((1, drive) for drive in range(3))
DRIVES = (NEW_CARD, OLD_CARD, SIGNATURE_OF_DELKIN, HIDING, SHORT, COMPLETE, ACCESS)
NO_DMA = "flush=0,lba48=0,udma=none,mwdma=none"


@pytest.fixture(scope="module")
def referee(guest_factory: Any) -> Iterator[Referee]:
    strict = ["--option", "strict=1"]
    yield from start(
        guest_factory,
        [
            *strict,
            *("--ram=16M,cfa=848a", f"--ram=16M,cfa=848a,{NO_DMA}"),
            *("--ram=16M,cfa=844a,udma=none", f"--ram=16M,cfa=044a,{NO_DMA}"),
        ],
        [
            *strict,
            "--ram=16M,puis=37c8,spinup=1",
            "--ram=16M,puis=738c,spinup=1",
            "--ram=16M,puis=c837",
        ],
    )


def test_all_are_found(referee: Referee) -> None:
    assert sorted(referee.disks) == sorted(DRIVES)
    log = referee.guest.kernel_log()
    for drive in (NEW_CARD, OLD_CARD, SIGNATURE_OF_DELKIN):
        assert f"{referee.disks[drive].ata}: CFA: USRDRV ATA DISK" in log
    for drive in (HIDING, SHORT, COMPLETE, ACCESS):
        assert f"{referee.disks[drive].ata}: ATA-7: USRDRV ATA DISK" in log


@pytest.mark.parametrize("drive", DRIVES, ids=lambda drive: f"controller{drive[0]}-drive{drive[1]}")
def test_what_is_written_is_read(referee: Referee, drive: tuple[int, int]) -> None:
    disk = referee.disks[drive].path
    referee.run(
        f"head -c 1M /dev/urandom > /tmp/data && dd if=/tmp/data of={disk} bs=64k oflag=direct && "
        f"sync {disk} && dd if={disk} bs=64k count=16 iflag=direct | cmp - /tmp/data",
        120,
    )


def test_no_rule_is_broken(referee: Referee) -> None:
    for number in range(len(referee.models)):
        counters = referee.counters(number)
        assert not any(counters[f"refused_{what}"] for what in ("timings", "accesses", "prds"))
        assert counters["unexpected"] == 0
