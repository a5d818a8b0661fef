# SPDX-License-Identifier: MIT
"""The lab itself: commands, output, files, exit codes, signals, deaths."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.helpers.kernel_logs import says
from tests.waiting import until
from usrdrv.base import errors
from usrdrv.lab.guest import Guest

Boot = Callable[..., Guest]


@pytest.fixture(scope="module")
def guest(guest_factory: Boot) -> Guest:
    return guest_factory()


def test_output_and_exit_code_come_back(guest: Guest) -> None:
    result = guest.run("echo out; echo err >&2; exit 7")
    assert (result.code, result.out, result.err) == (7, "out\n", "err\n")


def test_words_are_not_the_shells(guest: Guest) -> None:
    assert guest.run(["printf", "%s|", "a b", "$HOME", "'"]).out == "a b|$HOME|'|"


def test_a_failure_is_an_error_where_success_is_asked_for(guest: Guest) -> None:
    with pytest.raises(errors.LabError, match="no-such-program"):
        guest.run("no-such-program", check=True)


def test_files_go_both_ways(guest: Guest) -> None:
    data = os.urandom(3_000_001)
    (guest.share / "there").write_bytes(data)
    guest.run("cp /share/there /tmp/there && cp /tmp/there /share/back", check=True)
    assert (guest.share / "back").read_bytes() == data


def test_commands_run_beside_each_other(guest: Guest) -> None:
    waiting = guest.start("until [ -e /tmp/go ]; do sleep 0.1; done; echo went")
    guest.run("touch /tmp/go", check=True)
    assert waiting.wait(30).out == "went\n"


def test_a_signal_reaches_all_of_a_command(guest: Guest) -> None:
    job = guest.start("sleep 1000 & echo $!; wait")
    until(lambda: job.out, "its first words")
    job.signal(signal.SIGKILL)
    assert job.wait(30).code == 128 + signal.SIGKILL
    until(lambda: guest.run(f"kill -0 {job.out.strip()}").code, "the end of what it had started")


def test_one_that_takes_too_long_is_an_error_with_what_it_said(guest: Guest) -> None:
    job = guest.start("echo so far; sleep 1000")
    until(lambda: job.out, "its first words")
    with pytest.raises(errors.LabError, match="so far"):
        job.wait(1)
    job.signal(signal.SIGKILL)


def test_the_root_is_as_built_in_every_guest(guest: Guest) -> None:
    guest.run("rm /usr/bin/fio && echo changed >/etc/hostname", check=True)
    from usrdrv.lab import root

    assert (root.build() / "usr/bin/fio").exists()


def test_our_package_and_pytest_run_in_the_guest(guest: Guest) -> None:
    assert guest.run("usrdrv --version").out.startswith("usrdrv ")
    guest.run("printf 'def test_it(): assert 6 * 7 == 42\\n' >/tmp/test_it.py", check=True)
    result = guest.run("python3 -m pytest -q -p no:cacheprovider /tmp/test_it.py", timeout=120)
    assert result.code == 0 and "1 passed" in result.out


def test_what_the_kernel_says_comes_back(guest: Guest) -> None:
    before = guest.console.position()
    guest.run("echo 'a word from the test' >/dev/kmsg", check=True)
    says(guest, "a word from the test", before)


@pytest.mark.rare
def test_a_guest_that_has_no_processor_for_a_while_does_not_warn(guest: Guest) -> None:
    """Of soft lockups and stalls (fixture kernel_log), with somebody who keeps it busy."""
    busy = guest.start("while :; do ls /proc >/dev/null; done")
    os.kill(guest.pid, signal.SIGSTOP)
    time.sleep(45)  # twice what they are taken for by default
    os.kill(guest.pid, signal.SIGCONT)
    for _ in range(2):  # until its next look has come and gone
        guest.run("sleep 10", check=True)
    busy.signal(signal.SIGKILL)


@pytest.mark.kernel_log(allow=[r"WARNING: made by the test"])
def test_a_warning_can_be_allowed(guest: Guest) -> None:
    guest.run("echo 'WARNING: made by the test' >/dev/kmsg", check=True)


@pytest.mark.kernel_log(allow=[".*"])
def test_a_panic_is_an_error_with_the_console_and_at_once(guest_factory: Boot) -> None:
    with guest_factory() as doomed:
        job = doomed.start("echo c >/proc/sysrq-trigger")
        with pytest.raises(errors.LabError, match="the guest died") as caught:  # not: not done
            job.wait(120)
        assert "sysrq triggered crash" in str(caught.value)


def children() -> set[int]:
    return {
        int(pid)
        for task in Path("/proc/self/task").iterdir()
        for pid in (task / "children").read_text().split()
    }


@pytest.mark.rare
def test_a_guest_that_hangs_while_it_boots_is_an_error_with_the_console(
    guest: Guest, guest_factory: Boot
) -> None:
    before = children()
    with pytest.raises(errors.LabError, match="not up after 90 s") as caught:
        guest_factory(
            append="init=/usr/bin/cat", timeout=90
        )  # many times what it takes to get there
    assert "Run /usr/bin/cat as init process" in str(caught.value)
    assert children() == before


def test_qemus_death_is_an_error_at_once_and_leaves_nothing(guest_factory: Boot) -> None:
    with guest_factory() as doomed:
        folder = doomed.share
        job = doomed.start("sleep 1000")
        os.kill(doomed.pid, signal.SIGKILL)
        with pytest.raises(errors.LabError, match="SIGKILL"):
            job.wait(120)
    assert not folder.exists()
