# SPDX-License-Identifier: MIT
"""How tests wait (tests/waiting.py)."""

import pytest

from tests.waiting import at_best, enough, until


def test_what_is_counted_adds_up() -> None:
    assert enough(lambda: [1, 10], [3, 0], "counts") == [4, 40]


def never() -> bool:
    return False


def test_what_is_never_so_fails_and_says_what_was_found() -> None:
    with pytest.raises(AssertionError, match="rain: does not happen"):
        until(lambda: False, "rain", 0)
    with pytest.raises(AssertionError, match=r"until\(lambda: False, seconds=0\): does not happen"):
        until(lambda: False, seconds=0)
    with pytest.raises(AssertionError, match=r"^[\w.<>]*never: does not happen"):
        until(never, seconds=0)
    with pytest.raises(AssertionError, match=r"rain: .*; found: \[7\]"):
        at_best(lambda: 7, lambda found: found > 7, "rain", 0)
    with pytest.raises(AssertionError, match=r"rain: .*; found: \[7, 1\], .* above \[7, 0\]"):
        enough(lambda: [7, 1], [7, 0], "rain", 0)
