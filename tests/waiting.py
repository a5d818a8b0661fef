# SPDX-License-Identifier: MIT
"""How tests wait: for what happens, not for a time.

A limit in seconds is one at which a test gives up, far beyond what it takes; it never tells right from wrong. What
depends on the scheduler (how often somebody was woken, how fast it went) is tried again until it is as it can be.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from operator import gt
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 120.0
"""Seconds after which a test gives up, within pytest's 600."""


def _source(condition: Callable[[], object]) -> str:
    """A condition in its own words."""
    name: str = getattr(condition, "__qualname__", repr(condition))
    if not name.endswith("<lambda>"):
        return name
    try:
        return " ".join(inspect.getsource(condition).split())
    except OSError:
        return name


def until(
    condition: Callable[[], T], what: str | Callable[[], str] = "", seconds: float = PATIENCE
) -> T:
    """Ask again and again until the answer is true, and return it.

    AssertionError if it never is: `what`, or the condition in its own words, does not happen. A function says
    what there is instead by then.
    """
    deadline = time.monotonic() + seconds
    while True:
        asked = time.monotonic()
        if answer := condition():
            return answer
        now = time.monotonic()
        if now >= deadline:
            words = (what if isinstance(what, str) else what()) or _source(condition)
            raise AssertionError(f"{words}: does not happen within {seconds:g} s")
        # A guest that is asked, by starting processes in it, gets on with little else meanwhile.
        time.sleep(min(max(0.005, 2 * (now - asked)), 0.25))


def at_best(
    measure: Callable[[], T], good: Callable[[T], bool], what: str, seconds: float = PATIENCE
) -> T:
    """Measure again and again until it is good: a busy machine spoils some tries, what is broken spoils all."""
    tries: list[T] = []

    def once() -> bool:
        tries.append(measure())
        return good(tries[-1])

    try:
        until(once, what, seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}; found: {tries[:20]}") from None
    return tries[-1]


def enough(
    count: Callable[[], Sequence[int]], least: Sequence[int], what: str, seconds: float = PATIENCE
) -> list[int]:
    """Do again what is counted until each sum of its counts is above its `least`; return the sums.

    A slow machine takes longer for it; what never gets there is broken.
    """
    sums = [0] * len(least)

    def more() -> bool:
        sums[:] = [old + new for old, new in zip(sums, count(), strict=True)]
        return all(map(gt, sums, least))

    try:
        until(more, what, seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}; found: {sums}, each to be above {list(least)}") from None
    return sums


def still(value: Callable[[], T], seconds: float = 0.3) -> T:
    """Wait until a value does not change any more for a while, and return it."""

    def quiet() -> tuple[T] | None:
        before = value()
        time.sleep(seconds)
        return (before,) if value() == before else None

    found = until(quiet, "rest")
    assert found is not None
    return found[0]
