# SPDX-License-Identifier: MIT
"""Messages that may come with every request."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from usrdrv import ratelimit
from usrdrv.ratelimit import RateLimit


class Said(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(ratelimit, "time", clock)
    yield clock


def test_a_burst_passes_and_the_rest_is_counted(clock: Clock) -> None:
    log, said = logging.Logger("test"), Said()
    log.addHandler(said)
    log.addFilter(RateLimit(burst=3, period=5))
    for number in range(10):
        log.warning("sector %d", number)
    assert said.lines == ["sector 0", "sector 1", "sector 2"]
    clock.now += 4.9
    log.warning("too soon")
    assert len(said.lines) == 3
    clock.now += 0.1
    log.warning("sector %d", 10)
    log.warning("sector %d", 11)
    assert said.lines[3:] == ["sector 10 (8 messages before it were left out)", "sector 11"]
    clock.now += 60
    log.warning("sector %d", 12)
    assert said.lines[-1] == "sector 12"
