# SPDX-License-Identifier: MIT
"""usrloop.ko against a server that writes at random to all that it shares and calls what there is, I/O going on.

Whatever it does, each client comes to an end, nothing is left, and the kernel has nothing to say of it
(usrdrv.lab.console; on the debug kernel KASAN, lockdep and kmemleak are among those that look).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest

from tests.lab.helpers.kmod import DEBUG, SLOWER, boot, unload
from tests.waiting import enough
from usrdrv.lab.guest import Guest

Boot = Callable[..., Guest]

SECONDS = int(os.environ.get("USRDRV_HOSTILE_SECONDS", "60" if DEBUG else "5"))
SEED = int(os.environ.get("USRDRV_HOSTILE_SEED", "1"))


@pytest.mark.timeout(600 + SECONDS * 4)
def test_a_hostile_server_hurts_nobody(guest_factory: Boot) -> None:
    guest = boot(guest_factory, "usrloop_hostile")
    names = ("lives", "succeeded", "completed", "received", "scribbled", "disk", "packets")

    def life() -> list[int]:
        words = ["/share/usrloop_hostile", str(SEED), str(SECONDS), "-1", str(SLOWER)]
        result = guest.run(words, 60 * SLOWER + SECONDS * 4)
        assert result.code == 0, result.out + result.err
        done: dict[str, int] = json.loads(result.out)
        assert done["left"] == 0
        return [done[name] for name in names]

    enough(life, [3] * len(names), f"{names}", 200)
    unload(guest)
