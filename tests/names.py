# SPDX-License-Identifier: MIT
"""What all processes of a machine share: names, and network namespaces."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from usrdrv.bridge.net.netns import NAMED


def own(what: str = "test") -> str:
    """A name that no other test, worker or user has: of a cable, a namespace, an interface (up to six letters)."""
    return f"{what}-{uuid.uuid4().hex[:8]}"


@contextmanager
def namespace() -> Iterator[str]:
    """A network namespace; a test may delete it."""
    name = own("usrdrv")
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield name
    finally:
        if (NAMED / name).exists():
            subprocess.run(["ip", "netns", "del", name], check=True)
