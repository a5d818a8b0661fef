# SPDX-License-Identifier: MIT
"""Debian's own pata_sil680, unmodified, finds our controllers and gets their cables and modes right."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.helpers.referee import Referee, start

STRICT = ["--option", "strict=1"]
MODES = {
    (0, 0): ("XFER_UDMA_6", "udma6"),
    (0, 1): ("XFER_UDMA_5", "udma5"),
    (0, 2): ("XFER_UDMA_4", "udma4"),
    (0, 3): ("XFER_MW_DMA_2", "mdma2"),
    (1, 0): ("XFER_UDMA_2", "udma2"),
    (1, 2): ("XFER_UDMA_6", "udma6"),
    (2, 0): ("XFER_UDMA_6", "udma6"),
    (2, 1): ("XFER_UDMA_6", "udma6"),
    (2, 2): ("XFER_UDMA_2", "udma2"),
    (2, 3): ("XFER_UDMA_2", "udma2"),
}
"""By controller and drive: as sysfs has it, and as the drive says in IDENTIFY."""


@pytest.fixture(scope="module")
def referee(guest_factory: Any) -> Iterator[Referee]:
    yield from start(
        guest_factory,
        [*STRICT, "--ram=16M", "--ram=16M,udma=5", "--ram=16M,udma=4", "--ram=16M,udma=none"],
        [*STRICT, "--ram=16M,drive=0", "--ram=16M,drive=2", "--cable0=40", "--class=0101"],
        [*STRICT, *["--ram=16M"] * 4, "--cable1=40", "--class=0104"],
    )


def test_the_drivers_and_classes(referee: Referee) -> None:
    listing = referee.run("lspci -nk -d 1095:0680").out
    assert listing.count("Kernel driver in use: pata_sil680") == 3
    assert re.findall(r"^\S+ (\d{4}): 1095:0680", listing, re.M) == ["0180", "0101", "0104"]
    assert referee.run("modinfo -F intree pata_sil680").out.strip() == "Y"


def test_every_drive_is_found_in_its_place_and_no_other(referee: Referee) -> None:
    assert sorted(referee.disks) == sorted(MODES)
    log = referee.guest.kernel_log()
    assert log.count("133MHz clock") == 3
    assert "max UDMA/133" in log


@pytest.mark.parametrize("drive", MODES, ids=lambda drive: f"controller{drive[0]}-drive{drive[1]}")
def test_the_mode(referee: Referee, drive: tuple[int, int]) -> None:
    """What libata set, what the drive was told, and whether the chip's timing registers fit that."""
    disk = referee.disks[drive]
    timing, said = MODES[drive]
    assert referee.timing(disk) == timing
    assert re.search(rf"\*{said}\b", referee.run(f"hdparm -I {disk.path}").out)
    before = referee.counters(drive[0])["drives"][drive[1]]
    referee.run(f"dd if={disk.path} of=/dev/null bs=64k count=16 iflag=direct")
    after = referee.counters(drive[0])["drives"][drive[1]]
    assert after["bytes"] - before["bytes"] >= 1 << 20
    assert after["mode_mismatch"] == after["crc_errors"] == 0
    assert after["errors"] == before["errors"]


def test_the_kernel_names_the_cable(referee: Referee) -> None:
    log = referee.guest.kernel_log()
    slow = set(re.findall(r"(ata\S+): limited to UDMA/33 due to 40-wire cable", log))
    assert slow == {referee.disks[each].ata for each in ((1, 0), (2, 2), (2, 3))}


def test_nothing_that_a_driver_should_not_do(referee: Referee) -> None:
    """What the model holds for a mistake, a driver that works on hardware does not make."""
    for number in range(len(referee.models)):
        counters = referee.counters(number)
        assert counters["register_writes"] > 0
        assert counters["unexpected"] == 0
        assert counters["tf_while_dma"] == 0
        assert counters["master_aborts"] == 0
        assert not any(counters[f"refused_{what}"] for what in ("timings", "accesses", "prds"))
