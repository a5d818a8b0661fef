# SPDX-License-Identifier: MIT
"""Guests for tests, and their kernels' logs: every line of each is looked at once.

A line that must not be there (see usrdrv.lab.console) fails the test after which it is found, unless
`@pytest.mark.kernel_log(allow=[...])` has a regular expression for it. What fixtures do counts for the test
that they are set up for, and what happens after the last test for the module's end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from tests.waiting import until
from usrdrv.lab.console import alarms
from usrdrv.lab.guest import Guest

Boot = Callable[..., Guest]

TAIL = 60
"""Lines of a console that are shown with a failure."""


@dataclass
class Watched:
    """A guest, and up to where its log was looked at."""

    guest: Guest
    number: int
    checked: int = 0

    def found(self, allow: Sequence[str]) -> list[str]:
        """Return what is new in the log and must not be there."""
        text, self.checked = self.guest.console.lines(self.checked)
        return alarms(text, allow)


watched: list[Watched] = []
"""Open guests, and those closed since the last test."""


def check(allow: Sequence[str] = ()) -> None:
    """Fail if a guest's kernel has warned since the last time."""
    found = [line for each in watched for line in each.found(allow)]
    if found:
        pytest.fail("the guest's kernel said:\n" + "\n".join(found), pytrace=False)


def says(guest: Guest, pattern: str, since: int = 0) -> None:
    """Wait until the kernel has said so: another processor may have the console, and print it later."""
    until(
        lambda: re.search(pattern, guest.kernel_log(since)),
        lambda: f"{pattern} in the kernel's log:\n{guest.kernel_log(since)}",
    )


@pytest.fixture(scope="module")
def guest_factory() -> Iterator[Boot]:
    """Start a guest with the arguments of usrdrv.lab.guest.Guest; it ends with the module, or before."""
    with ExitStack() as stack:

        def boot(*args: Any, **kwargs: Any) -> Guest:
            guest = stack.enter_context(Guest(*args, **kwargs))
            watched.append(Watched(guest, len(watched)))
            return guest

        yield boot
    check()


@pytest.fixture(autouse=True)
def kernel_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test during which, or since whose predecessor, a kernel warned."""
    yield
    marker = request.node.get_closest_marker("kernel_log")
    check(marker.kwargs["allow"] if marker else ())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Show the consoles with a failed test."""
    report = yield
    if report.failed:
        for each in watched:
            title = f"console of guest {each.number}"
            report.sections.append((title, each.guest.console.tail(TAIL)))
    return report


def pytest_runtest_logfinish() -> None:
    """Forget guests that are closed: their logs were looked at, and shown if they had to be."""
    watched[:] = [each for each in watched if not each.guest.closed]
