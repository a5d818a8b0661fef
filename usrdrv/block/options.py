# SPDX-License-Identifier: MIT
"""How disks are served: what `usrdrv block` takes whichever way they are exported.

Declared here and nowhere else: one value goes from the command line to the front end in the driver's process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from usrdrv.base.options import option

REQUEST_TIME: Final = 90
"""Seconds. Together with the restart less than the kernel's limit for hung tasks (120 s), and more than the
driver's own recovery takes: three tries of a FLUSH CACHE that hangs, 15, 15 and 30 s, and resets between them."""


@dataclass(frozen=True)
class Options:
    """Each layer takes what means something to it. A driver adds what only its chip has, in a class made from this.

    counters: descriptor of a memory file to count in (usrdrv.base.counters); the supervisor shares it and reads it
    when the driver's process is dead. -1: none.
    """

    read_only: bool = option(False, "refuse writes")
    zero_copy: bool = option(
        True, "copy data, even where the device could reach the kernel's own pages (export usrloop)"
    )
    poll_us: int = option(
        0,
        "busy-poll for up to so long before sleeping: lower latency, more processor time "
        "(default %(default)s; export usrloop)",
        bounds=(0, 1000),
        unit="microseconds",
        only=("usrloop",),
    )
    restart_time: int = option(
        60,
        "when the driver dies, let requests wait for up to so long until it is restarted "
        "(default %(default)s; 0: I/O errors at once; exports usrloop and nbd)",
        bounds=(0, 3600),
        unit="seconds",
    )
    request_time: int = option(
        REQUEST_TIME,
        "kill and restart a driver that completes no request for so long while it has some "
        "(default %(default)s; 0: never)",
        bounds=(0, 3600),
        unit="seconds",
    )
    counters: int = -1


DEFAULTS: Final = Options()
