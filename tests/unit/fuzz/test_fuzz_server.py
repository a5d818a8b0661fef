# SPDX-License-Identifier: MIT
"""A hostile client against the vfio-user server and the model behind it, under ASan and UBSan."""

import pytest

from tests.sanitized import build, counts, seconds
from tests.waiting import enough

SECONDS = seconds(3)


@pytest.mark.timeout(600 + SECONDS)
def test_fuzz_server() -> None:
    sources = ["devices/cmd680/*.c", "devices/vfio_user/*.c"]
    sources += ["devices/base/faults.c", "devices/base/peer_signal.c"]
    program = build("fuzz_server", sources, ("devices",))
    enough(
        lambda: counts(program, SECONDS),
        [1000, 10, 100],
        "messages, connections, signals of vectors",
    )
