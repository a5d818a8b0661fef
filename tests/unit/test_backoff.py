# SPDX-License-Identifier: MIT
"""How often and for how long a driver that died is started again."""

from __future__ import annotations

from itertools import islice

import pytest

from usrdrv.bridge import backoff
from usrdrv.bridge.backoff import Backoff


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
