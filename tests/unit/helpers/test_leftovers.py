# SPDX-License-Identifier: MIT
"""After which tests a guest is cleaned up (tests/lab/helpers/leftovers.py), with guests that only have jobs."""

from __future__ import annotations

import pytest

from tests.files import ROOT

pytest_plugins = ["pytester"]

CONFTEST = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import threading
from tests.lab.helpers import kernel_logs
from tests.lab.helpers import leftovers
import pytest
from tests.lab.helpers.leftovers import nothing_left

class Job:
    def __init__(self, name):
        self.name, self.done = name, threading.Event()
        self.done.wait = lambda seconds: False

class Guest:
    closed = False
    def __init__(self):
        self.jobs = [Job("of the module")]

class Watched:
    guest = Guest()

kernel_logs.watched.append(Watched())

@pytest.fixture
def guest():
    return Watched.guest

def end(guest, jobs):
    print("ended:", [job.name for job in jobs])
    guest.jobs = [job for job in guest.jobs if job not in jobs]

leftovers.end = end
"""

MODULE = """
from conftest import Job

def test_well(guest):
    pass

def test_left(guest):
    guest.jobs.append(Job("left"))

def test_failed(guest):
    assert False
"""


def test_a_guest_is_cleaned_up_after_a_failure_and_where_jobs_still_run(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(MODULE)
    result = pytester.runpytest_subprocess("-s", "-p", "no:cacheprovider", "-p", "no:xdist")
    assert result.parseoutcomes() == {"passed": 2, "failed": 1}
    said = [line for line in str(result.stdout).splitlines() if "ended:" in line]
    assert [line.partition("ended: ")[2] for line in said] == ["['left']", "[]"]
