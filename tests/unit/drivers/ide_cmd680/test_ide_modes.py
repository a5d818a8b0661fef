# SPDX-License-Identifier: MIT
"""Transfer modes against docs/hardware/cmd680.md sections 4.5 and 8."""

import pytest

from usrdrv.drivers.ide_cmd680 import modes
from usrdrv.drivers.ide_cmd680.modes import Mode, Protocol

PIO_MINIMUM = (600, 383, 240, 180, 120)
MWDMA_MINIMUM = (480, 150, 120)
UDMA_WORD_NS = (120, 80, 60, 45, 30, 20, 15)


def cycle_ns(word: int) -> int:
    """Active plus recovery time of a timing word."""
    return ((word >> 6 & 0x3F) + (word & 0x3F)) * 30


@pytest.mark.parametrize("number", range(5))
def test_pio_words_keep_the_minimum_cycle(number: int) -> None:
    assert cycle_ns(modes.PIO_DATA[number]) >= PIO_MINIMUM[number]
    assert cycle_ns(modes.PIO_TASKFILE[number]) >= (600, 383, 330, 180, 120)[number]


@pytest.mark.parametrize("number", range(3))
def test_mwdma_words_keep_the_minimum_cycle(number: int) -> None:
    assert cycle_ns(modes.MWDMA[number]) >= MWDMA_MINIMUM[number]


@pytest.mark.parametrize(("table", "clock_ns"), [(modes.UDMA_133MHZ, 7.5), (modes.UDMA_100MHZ, 10)])
def test_udma_cycles_are_no_faster_than_the_mode(table: tuple[int, ...], clock_ns: float) -> None:
    for number, field in enumerate(table):
        assert (field + 1) * clock_ns >= UDMA_WORD_NS[number]


@pytest.mark.parametrize(
    ("cable80", "fast", "udma", "expected"),
    [
        (True, True, 0x7F, "UDMA6"),
        (True, False, 0x7F, "UDMA5"),
        (False, True, 0x7F, "UDMA2"),
        (True, True, 0x1F, "UDMA4"),
        (True, True, 0, "MWDMA2"),
    ],
)
def test_best_mode_is_what_all_three_share(
    cable80: bool, fast: bool, udma: int, expected: str
) -> None:
    assert str(modes.best_dma(udma, 7, cable80=cable80, fast_clock=fast)) == expected


def test_no_dma_at_all() -> None:
    assert modes.best_dma(0, 0, cable80=True, fast_clock=True) is None


def test_the_ladder_ends_in_pio() -> None:
    mode: Mode | None = Mode(Protocol.UDMA, 6)
    seen = []
    while mode is not None:
        seen.append(str(mode))
        mode = modes.slower(mode, 0x7F, 0x07)
    assert seen == [*(f"UDMA{n}" for n in range(6, -1, -1)), "MWDMA2", "MWDMA1", "MWDMA0"]


@pytest.mark.parametrize(
    ("udma", "mwdma", "slowest"), [(0x7F, 7, "MWDMA0"), (0x7F, 4, "MWDMA2"), (0x7C, 0, "UDMA2")]
)
def test_the_slowest_dma_mode_is_where_the_ladder_ends_without_pio(
    udma: int, mwdma: int, slowest: str
) -> None:
    mode = modes.slowest_dma(udma, mwdma)
    assert mode is not None and str(mode) == slowest
    assert modes.slower(mode, udma, mwdma) is None
    assert modes.slowest_dma(0, 0) is None


@pytest.mark.parametrize("text", ["UDMA7", "PIO5", "MWDMA", "udma", "SWDMA1", ""])
def test_unknown_mode_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="transfer mode"):
        modes.parse(text)


@pytest.mark.parametrize(("text", "code"), [("udma6", 0x46), ("MWDMA2", 0x22), ("PIO4", 0x0C)])
def test_set_features_code(text: str, code: int) -> None:
    assert modes.parse(text).code == code
