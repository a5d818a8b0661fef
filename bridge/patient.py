# SPDX-License-Identifier: MIT
"""Standard error of a process that must go on while nobody reads what it says.

A terminal after Ctrl-S, a pager, a log whose own disk is the one that waits for us: a write may block for ever.
"""

from __future__ import annotations

import io
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

LIMIT: Final = 1000
"""Lines that wait for a reader; later ones are counted, not kept."""
LAST: Final = 2.0
"""Seconds that the last lines have for it when the process ends."""


class Patient(io.TextIOBase):
    """A text stream to the descriptor `fd`, by whole lines, whose write() never waits. Thread-safe."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lines: deque[str] = deque()
        self._left_out = 0
        self._changed = threading.Condition()
        self._begun = threading.local()
        self._writing = False
        threading.Thread(target=self._drain, name="stderr", daemon=True).start()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def write(self, text: str) -> int:
        """Keep what is no whole line yet for the thread's next call."""
        whole, newline, rest = (getattr(self._begun, "text", "") + text).rpartition("\n")
        self._begun.text = rest
        if newline:
            self._add(whole.split("\n"))
        return len(text)

    def _add(self, lines: list[str]) -> None:
        with self._changed:
            room = LIMIT - len(self._lines)
            self._lines.extend(lines[:room])
            self._left_out += len(lines[room:])
            self._changed.notify_all()

    def _drain(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._left_out)
                text = "".join(f"{line}\n" for line in self._lines)
                if self._left_out:
                    text += f"usrdrv: {self._left_out} lines are left out here: nobody read them\n"
                self._lines.clear()
                self._left_out = 0
                self._writing = True
            self._put(text.encode(errors="replace"))
            with self._changed:
                self._writing = False
                self._changed.notify_all()

    def _put(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:  # another process that shares the file set O_NONBLOCK
                select.select([], [self._fd], [])
            except OSError:  # the reader has gone
                return

    def settle(self, seconds: float) -> None:
        """Wait until all is written, so long at most."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._lines or self._writing), seconds)


@contextmanager
def stderr() -> Iterator[None]:
    """Within the context nothing that this process says on its standard error makes it wait."""
    before = sys.stderr
    try:
        patient = Patient(before.fileno())
    except (AttributeError, OSError, ValueError):  # it is closed, or no descriptor
        yield
        return
    before.flush()
    sys.stderr = patient
    try:
        yield
    finally:
        patient.settle(LAST)
        sys.stderr = before
