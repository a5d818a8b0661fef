# SPDX-License-Identifier: MIT
"""When a driver that died is started again: the clock is played."""

from __future__ import annotations

from itertools import islice

import pytest

from usrdrv.bridge.worker import backoff
from usrdrv.bridge.worker.backoff import Backoff


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(backoff, "time", clock)
    return clock


def test_pauses_grow_and_end_with_the_patience(clock: Clock) -> None:
    """From one death to the next, unless the driver between them worked."""
    pauses = Backoff(60)
    found = list(islice(pauses.pauses(clock.now, True), 7))
    assert found == [0.0, 0.2, 0.4, 0.8, 1.6, 3.2, 4.0]
    assert next(pauses.pauses(clock.now, False)) == 4.0
    assert next(pauses.pauses(clock.now, True)) == 0.0
    assert next(pauses.pauses(clock.now, False)) == 0.2
    clock.now += 59
    assert next(pauses.pauses(clock.now, False)) == 0.4
    assert next(pauses.pauses(clock.now, False)) == 0.8
    assert next(pauses.pauses(clock.now, False)) == 1.0, "what is left"
    clock.now += 1
    assert not list(pauses.pauses(clock.now, False))
    assert list(islice(Backoff(1).pauses(clock.now, False), 1)) == [0.0], "the first death"
    assert not list(Backoff(0).pauses(clock.now, True))


def tries(clock: Clock, policy: Backoff, worked: bool, most: int = 1000, took: float = 0.1) -> int:
    """How often it is tried after a death now; each try takes so long and is the last one after `most`."""
    count = 0
    for pause in policy.pauses(clock.now, worked):
        clock.now += pause + took
        count += 1
        if count == most:
            break
    return count


def test_pauses_double(clock: Clock) -> None:
    found = []
    for pause in Backoff(60).pauses(clock.now, worked=True):
        found.append(pause)
        clock.now += pause
    assert found[:7] == [0.0, 0.2, 0.4, 0.8, 1.6, 3.2, 4.0]
    assert sum(found) == pytest.approx(60), "given up when its time is over and not before"


def test_deaths_after_work_never_count(clock: Clock) -> None:
    policy = Backoff(5)
    for _ in range(1000):
        assert tries(clock, policy, worked=True, most=1) == 1


def test_deaths_without_work_go_on_from_before(clock: Clock) -> None:
    policy, begun, deaths = Backoff(5), clock.now, 0
    while tries(clock, policy, worked=False, most=1):
        deaths += 1
    assert 5 <= clock.now - begun < 5.2 and deaths == 6


def test_one_that_lived_for_long_begins_anew(clock: Clock) -> None:
    """It had nothing to do, which is no fault of it."""
    policy = Backoff(5)
    for _ in range(100):
        assert tries(clock, policy, worked=False, most=1) == 1
        clock.now += 7200


def test_no_patience_is_no_try(clock: Clock) -> None:
    assert tries(clock, Backoff(0), worked=True) == 0
