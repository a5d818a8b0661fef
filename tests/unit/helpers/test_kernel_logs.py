# SPDX-License-Identifier: MIT
"""What fails when a guest's kernel warns (lab/helpers/kernel_logs.py), with guests that only have a console."""

from __future__ import annotations

import pytest

from tests.files import ROOT

pytest_plugins = ["pytester"]

CONFTEST = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.lab.helpers import kernel_logs
from tests.lab.helpers.kernel_logs import *
from usrdrv.base.closing import Closing
from usrdrv.lab.console import Console

def pytest_configure(config):
    config.addinivalue_line("markers", "kernel_log(allow): allowed")

class Guest(Closing):
    booted = 0

    def __init__(self, boot="[ 0.0] Linux version"):
        Guest.booted += 1
        self.console = Console(kernel_logs.folder / f"console{{Guest.booted}}")
        self.closed = False
        self.say(boot + "\\n")

    def say(self, text):
        with self.console.path.open("a") as file:
            file.write(text)

    def close(self):
        if not self.closed:
            self.say("[ 9.0] Power down\\n")
            self.console.keep()
            self.console.path.unlink()
        self.closed = True

@pytest.fixture(scope="session", autouse=True)
def here(tmp_path_factory):
    kernel_logs.folder = tmp_path_factory.mktemp("consoles")

kernel_logs.Guest = Guest
"""

PLANTED = "[ 1.0] WARNING: planted"
SAY = f"guest.say('{PLANTED}\\n')"

MODULE = """
import pytest

@pytest.fixture(scope="module")
def guest(guest_factory):
    guest = guest_factory("[ 0.0] first of boot")
    {before}
    yield guest
    {after}

def test_before():
    pass

{mark}
def test_it(guest):
    {body}

def test_after(guest):
    pass
"""


@pytest.fixture(autouse=True)
def as_outside_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "BUILD_NUMBER"):  # where pytest sees one, its summary repeats messages whole
        monkeypatch.delenv(name, raising=False)


def run(
    pytester: pytest.Pytester, *, before: str = "", body: str = "", after: str = "", mark: str = ""
) -> tuple[dict[str, int], str]:
    """Run three tests, of which the last two have a guest. Return how they ended and what was printed."""
    pytester.makeconftest(CONFTEST)
    parts = {"before": before or "pass", "body": body or "pass", "after": after or "pass"}
    pytester.makepyfile(MODULE.format(mark=mark, **parts))
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:xdist")
    return result.parseoutcomes(), str(result.stdout)


def test_no_warning_no_failure(pytester: pytest.Pytester) -> None:
    assert run(pytester, body="guest.say('[ 1.0] fine\\n')")[0] == {"passed": 3}


@pytest.mark.parametrize(
    ("where", "whose"),
    [
        ({"before": SAY}, "test_it"),
        ({"before": f"{SAY}; raise OSError"}, "test_after"),
        ({"body": SAY}, "test_it"),
        ({"body": f"{SAY}; guest.close()"}, "test_it"),
        ({"body": f"guest.say('{PLANTED}'); guest.close()"}, "test_it"),
        ({"after": SAY}, "test_after"),
        ({"after": f"{SAY}; guest.close()"}, "test_after"),
    ],
    ids=[
        "in a fixture",
        "in a fixture that failed",
        "in a test",
        "in a guest that was closed",
        "in its last words",
        "after the last test",
        "after the last test and closed",
    ],
)
def test_a_warning_fails_one_test_and_the_console_is_shown(
    pytester: pytest.Pytester, where: dict[str, str], whose: str
) -> None:
    found, output = run(pytester, **where)
    failed = {"passed": 1, "errors": 3} if "raise" in str(where) else {"passed": 3, "errors": 1}
    assert found == failed, output
    said = f"the guest's kernel said:\n{PLANTED}"
    assert output.count("the guest's kernel said:") == output.count(said) == 1
    _, _, report = output.rpartition(f"ERROR at teardown of {whose}")
    assert said in report
    assert "first of boot" in report.partition("console of guest 0")[2]


def test_a_failed_test_shows_the_console_without_a_warning(pytester: pytest.Pytester) -> None:
    found, output = run(pytester, body="guest.close(); assert 0")
    assert found == {"passed": 2, "failed": 1}
    assert "first of boot" in output.partition("console of guest 0")[2]


def test_what_a_test_allows_is_allowed_in_it_only(pytester: pytest.Pytester) -> None:
    mark = "@pytest.mark.kernel_log(allow=['planted'])"
    assert run(pytester, body=SAY, mark=mark)[0] == {"passed": 3}
    assert run(pytester, body=SAY, after=SAY, mark=mark)[0] == {"passed": 3, "errors": 1}
