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
)


class Console:
    """The console's file, while the guest writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def text(self, since: int = 0) -> str:
        """Return what was said after byte `since`."""
        try:
            with self.path.open("rb") as file:
                file.seek(since)
                return file.read().decode(errors="replace").replace("\r", "")
        except FileNotFoundError:
            return ""

    def position(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.text().splitlines()[-lines:])


def alarms(log: str, allow: Sequence[str] = ()) -> list[str]:
    """Return the lines of a kernel log that must not be there, less those that match `allow`."""
    return [
        line
        for line in log.splitlines()
        if ALARMS.search(line)
        and not HARMLESS.search(line)
        and not any(re.search(pattern, line) for pattern in allow)
    ]
