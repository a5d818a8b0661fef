# SPDX-License-Identifier: MIT
"""How interfaces are served: what `usrdrv net` takes whichever way they are exported.

Declared here and nowhere else: one value goes from the command line to the driver in its process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from usrdrv.base.options import option


@dataclass(frozen=True)
class Options:
    """Each layer takes what means something to it. A driver adds what only its chip has, in a class made from this.

    counters: descriptor of a memory file to count in (usrdrv.base.counters); the supervisor shares it and reads it
    when the driver's process is dead. -1: none.
    """

    mtu: int = option(
        1500,
        "bytes (default %(default)s; the driver sets the maximum: 9000 for the DP83820)",
        bounds=(68, 65521),
    )
    offload: bool = option(True, "disable checksum, VLAN and segmentation offload")
    zero_copy: bool = option(
        True,
        "copy packets, even where the device could reach the kernel's own pages (export usrloop)",
    )
    restart_time: int = option(
        60,
        "when the driver dies, keep the interface for so long until another works; 0: remove it at once "
        "(default %(default)s)",
        bounds=(0, 86400),
        unit="seconds",
    )
    counters: int = -1


DEFAULTS: Final = Options()
