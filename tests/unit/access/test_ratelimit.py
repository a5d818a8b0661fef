# SPDX-License-Identifier: MIT
"""What repeats itself is told a few times and then counted."""

import logging

import pytest

from usrdrv.ratelimit import BURST, SECONDS, Limited

LOG = logging.getLogger("test-told")


def test_each_cause_has_its_share(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    limited = Limited(LOG, "dev", lambda: now[0])
    for n in range(BURST + 3):
        limited.tell(logging.WARNING, "drive 0: crc", "crc %d", n)
    limited.tell(logging.ERROR, "drive 1: crc", "100 %% of it")
    first = [f"dev: crc {n}" for n in range(BURST)]
    assert caplog.messages == [*first, "dev: 100 % of it"]
    caplog.clear()
    now[0] = SECONDS + 1
    limited.tell(logging.WARNING, "drive 0: crc", "again")
    assert caplog.messages == ["dev: drive 0: crc: 3 more like it", "dev: again"]


def test_the_end_tells_what_was_left_out(caplog: pytest.LogCaptureFixture) -> None:
    limited = Limited(LOG, "dev", lambda: 0.0)
    for _ in range(BURST + 1):
        limited.tell(logging.WARNING, "drive 0: fault", "x")
    caplog.clear()
    limited.close()
    limited.close()
    assert caplog.messages == ["dev: drive 0: fault: 1 more like it"]
