# SPDX-License-Identifier: MIT
"""What a process says while nobody reads it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.waiting import until
from usrdrv.bridge import patient
from usrdrv.bridge.patient import Patient


class Pipe:
    def __init__(self) -> None:
        self.out, self.into = os.pipe()

    def fill(self) -> int:
        """Have the next write wait; return how many bytes are in front of it."""
        os.set_blocking(self.into, False)
        filled = 0
        try:
            while True:
                filled += os.write(self.into, b"." * 4096)
        except BlockingIOError:
            os.set_blocking(self.into, True)
        return filled

    def read(self, length: int) -> bytes:
        data = b""
        while len(data) < length and (part := os.read(self.out, length - len(data))):
            data += part
        return data


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    os.close(pipe.out)  # which also ends a write that waits
    os.close(pipe.into)


def test_what_is_said_arrives(pipe: Pipe) -> None:
    stream = Patient(pipe.into)
    print("one line", file=stream)
    print("another", "line", file=stream)
    stream.settle(60)
    assert pipe.read(22) == b"one line\nanother line\n"


def test_lines_of_two_threads_are_not_mixed(pipe: Pipe) -> None:
    stream = Patient(pipe.into)
    stream.write("begun here, ")
    thread = threading.Thread(target=print, args=("said there",), kwargs={"file": stream})
    thread.start()
    thread.join()
    stream.write("ended here\n")
    stream.settle(60)
    assert pipe.read(33 + 1) == b"said there\nbegun here, ended here\n"[:34]


def test_nobody_who_speaks_waits_for_a_reader(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too much is left out and counted; what was said first comes first."""
    monkeypatch.setattr(patient, "LIMIT", 10)
    filled = pipe.fill()
    stream = Patient(pipe.into)
    print("first", file=stream)  # with which it waits
    until(lambda: stream._writing, "the first line being written")
    for number in range(100):
        print(number, file=stream)
    stream.settle(0.01)
    kept = "".join(f"{number}\n" for number in range(10))
    expected = f"first\n{kept}usrdrv: 90 lines are left out here: nobody read them\n".encode()
    assert pipe.read(filled + len(expected))[filled:] == expected
    print("read again", file=stream)
    assert pipe.read(11) == b"read again\n"


def test_a_reader_that_goes_is_no_error(pipe: Pipe) -> None:
    stream = Patient(pipe.into)
    os.close(pipe.out)
    print("to nobody", file=stream)
    stream.settle(60)
    print("still to nobody", file=stream)
    stream.settle(60)
    pipe.out = os.open(os.devnull, os.O_RDONLY)


def test_it_stands_for_standard_error_for_a_while(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(pipe.into, "w", closefd=False) as before:
        monkeypatch.setattr(sys, "stderr", before)
        with patient.stderr():
            assert sys.stderr is not before
            print("said", file=sys.stderr)
        assert sys.stderr is before
        assert pipe.read(5) == b"said\n"


def test_what_is_no_descriptor_stays(capsys: pytest.CaptureFixture[str]) -> None:
    with patient.stderr():
        print("said", file=sys.stderr)
    assert capsys.readouterr().err == "said\n"


def test_a_standard_error_that_is_closed_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with patient.stderr():
        assert sys.stderr is None
