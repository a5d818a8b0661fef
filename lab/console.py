# SPDX-License-Identifier: MIT
"""What a guest's kernel said, on its serial console, and what of it must never be seen."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ALARMS: Final = re.compile(
    r"WARNING: |BUG: |kernel BUG at |Oops: |KASAN: |UBSAN: |KCSAN: |kmemleak: "
    r"|possible circular locking|possible recursive locking|inconsistent lock state"
    r"|suspicious RCU usage|rcu: INFO: |blocked for more than|soft lockup|hard LOCKUP"
    r"|nobody cared|Disabling IRQ|general protection fault|Kernel panic|DMA-API: "
    r"|refcount_t: |Unable to handle|Call Trace:"
)
PANIC: Final = re.compile(r"Kernel panic - not syncing")
HARMLESS: Final = re.compile(
    # An emulated machine's clock, on a host with other things to do, is what it is.
    r"clocksource: .*(marked|skewed)|TSC .*unstable"
    # The debug kernel's checkers say that they are there.
    r"|DMA-API: (preallocated|debugging enabled)"
    r"|kmemleak: (Kernel memory leak detector initialized|Automatic memory scanning thread (started|ended))"
)


class Console:
    """The console's file, while the guest writes it; what was in it, after keep()."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept: bytes | None = None

    def _read(self, since: int) -> bytes:
        if self._kept is not None:
            return self._kept[since:]
        try:
            with self.path.open("rb") as file:
                file.seek(since)
                return file.read()
        except FileNotFoundError:
            return b""

    def keep(self) -> None:
        """The guest has ended and its file goes: remember what it said."""
        self._kept = self._read(0)

    def text(self, since: int = 0) -> str:
        """Return what was said after byte `since`."""
        return _decode(self._read(since))

    def lines(self, since: int = 0) -> tuple[str, int]:
        """Return the whole lines after byte `since`, and where they end; once kept, also an unfinished one."""
        data = self._read(since)
        if self._kept is None:
            data = data[: data.rfind(b"\n") + 1]
        return _decode(data), since + len(data)

    def position(self) -> int:
        if self._kept is not None:
            return len(self._kept)
        return self.path.stat().st_size if self.path.exists() else 0

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.text().splitlines()[-lines:])


def _decode(data: bytes) -> str:
    return data.decode(errors="replace").replace("\r", "")


def alarms(log: str, allow: Sequence[str] = ()) -> list[str]:
    """Return the lines of a kernel log that must not be there, less those that match `allow`."""
    return [
        line
        for line in log.splitlines()
        if ALARMS.search(line)
        and not HARMLESS.search(line)
        and not any(re.search(pattern, line) for pattern in allow)
    ]
