# SPDX-License-Identifier: MIT
"""Guests for tests, and a look at their kernels' logs after each one.

Every test here has the marker `lab`. A line of the kernel's log that must not be there (see
usrdrv.lab.console) fails the test that was running, unless `@pytest.mark.kernel_log(allow=[...])`
has a regular expression for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from usrdrv.lab.console import alarms
from usrdrv.lab.guest import Guest

Boot = Callable[..., Guest]

TIMEOUT = 600
"""Seconds for a test, with the boot of its guest: a slow machine emulates at a twentieth of its speed."""

_running: list[Guest] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.lab)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TIMEOUT))


@pytest.fixture(scope="module")
def guest_factory() -> Iterator[Boot]:
    """Start a guest with the arguments of usrdrv.lab.guest.Guest; it ends with the module."""
    with ExitStack() as stack:

        def boot(*args: Any, **kwargs: Any) -> Guest:
            guest = stack.enter_context(Guest(*args, **kwargs))
            _running.append(guest)
            stack.callback(_running.remove, guest)
            return guest

        yield boot


@pytest.fixture(autouse=True)
def kernel_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test during which a kernel warned. A guest that the test itself booted counts from its start."""
    before = {id(guest): guest.console.position() for guest in _running}
    yield
    marker = request.node.get_closest_marker("kernel_log")
    allow = marker.kwargs["allow"] if marker else ()
    found = [
        line
        for guest in _running
        for line in alarms(guest.kernel_log(before.get(id(guest), 0)), allow)
    ]
    assert not found, "the guest's kernel said:\n" + "\n".join(found)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Show the consoles with a failed test."""
    report = yield
    if report.failed:
        for number, guest in enumerate(_running):
            report.sections.append((f"console of guest {number}", guest.console.tail(60)))
    return report
