# SPDX-License-Identifier: MIT
"""The error policy, decision by decision (docs/hardware/cmd680.md section 9.4)."""

from usrdrv.drivers.ide_cmd680 import _cmd680, policy
from usrdrv.drivers.ide_cmd680.policy import Decision, Event, History, Kind, Slower, Verdict

R = _cmd680.lib


def event(
    *,
    error: int = 0,
    status: int = 0x51,
    kind: int = R.BLOCK_EVENT_ERROR,
    tries: int = 0,
    segments: int = 1,
) -> Event:
    return Event(
        kind=kind, drive=0, tries=tries, segments=segments, sector=100, sectors=8, bad_sector=103,
        command=R.ATA_READ_DMA, status=status, error=error, bm_status=0,
    )  # fmt: skip


CRC = R.ATA_ICRC | R.ATA_ABRT


def test_errors_are_told_apart() -> None:
    assert event(error=CRC).classify() is Kind.CRC
    assert event(error=R.ATA_UNC).classify() is Kind.MEDIA
    assert event(error=R.ATA_ABRT).classify() is Kind.REFUSED
    assert event(error=R.ATA_ABRT, status=0x71).classify() is Kind.FAULT
    assert event(kind=R.BLOCK_EVENT_TIMEOUT).classify() is Kind.TIMEOUT
    assert event(kind=R.BLOCK_EVENT_BUS).classify() is Kind.HOST


def test_a_bad_sector_is_singled_out_tried_again_and_fails_without_a_reset() -> None:
    history = History()
    assert history.decide(event(error=R.ATA_UNC, segments=4), 0, dma=True) == Decision(
        False, Slower.NO, Verdict.SPLIT
    )
    assert history.decide(event(error=R.ATA_UNC), 0, dma=True).verdict is Verdict.RETRY
    assert history.decide(event(error=R.ATA_UNC, tries=1), 0, dma=True) == Decision(
        False, Slower.NO, Verdict.FAIL
    )


def test_one_crc_error_costs_a_reset_but_no_speed() -> None:
    assert History().decide(event(error=CRC), 0, dma=True) == Decision(
        True, Slower.NO, Verdict.RETRY
    )


def test_a_request_that_keeps_failing_climbs_down_to_pio_and_only_then_fails() -> None:
    history = History()
    steps = [history.decide(event(error=CRC, tries=n), float(n), dma=True) for n in range(4)]
    assert [s.slower for s in steps] == [Slower.NO, Slower.STEP, Slower.CABLE40, Slower.PIO]
    assert all(s.verdict is Verdict.RETRY for s in steps)
    assert history.decide(event(error=CRC, tries=4), 5, dma=False).verdict is Verdict.FAIL


def test_four_crc_errors_in_ten_minutes_slow_down_and_clear_the_history() -> None:
    history = History()
    slower = [history.decide(event(error=CRC), 60.0 * n, dma=True).slower for n in range(4)]
    assert slower == [Slower.NO, Slower.NO, Slower.NO, Slower.STEP]
    assert history.decide(event(error=CRC), 200, dma=True).slower is Slower.NO


def test_errors_far_apart_do_not_slow_down() -> None:
    history = History()
    assert all(
        history.decide(event(error=CRC), 700.0 * n, dma=True).slower is Slower.NO for n in range(20)
    )


def test_a_hung_command_fails_after_three_tries_alone() -> None:
    history = History()
    hang = [
        history.decide(event(kind=R.BLOCK_EVENT_TIMEOUT, tries=n), 0, dma=True).verdict
        for n in range(3)
    ]
    assert hang == [Verdict.RETRY, Verdict.RETRY, Verdict.FAIL]
    merged = event(kind=R.BLOCK_EVENT_TIMEOUT, tries=2, segments=3)
    assert History().decide(merged, 0, dma=True).verdict is Verdict.SPLIT


def test_there_is_no_further_try_when_the_first_failed_long_ago() -> None:
    """Resets take their time as well: a drive's silence ends before somebody takes the driver for hung."""
    history = History()
    hang = R.BLOCK_EVENT_TIMEOUT
    for begun in (1000, 5000):  # each command has its own time
        assert history.decide(event(kind=hang), begun, dma=True).verdict is Verdict.RETRY
        late = begun + policy.PATIENCE + 1
        assert history.decide(event(kind=hang, tries=1), late, dma=True).verdict is Verdict.FAIL


def test_a_refused_command_gets_the_settings_renewed_once() -> None:
    history = History()
    assert history.decide(event(error=R.ATA_ABRT), 0, dma=True) == Decision(
        True, Slower.NO, Verdict.RETRY
    )
    assert history.decide(event(error=R.ATA_ABRT, tries=1), 0, dma=True).verdict is Verdict.FAIL
    assert not history.decide(event(error=R.ATA_IDNF), 0, dma=True).reset


def test_a_fault_of_the_drive_s_own_costs_no_speed() -> None:
    """A drive that cannot write (its medium is full, or protected) gets the data all the same."""
    history = History()
    decisions = [
        history.decide(event(error=R.ATA_ABRT, status=0x71, tries=n % 3), float(n), dma=True)
        for n in range(60)
    ]
    assert {decision.slower for decision in decisions} == {Slower.NO}
    assert [d.verdict for d in decisions[:3]] == [Verdict.RETRY, Verdict.RETRY, Verdict.FAIL]
    assert history.decide(event(error=CRC), 61, dma=True).slower is Slower.NO, "nor for others"
