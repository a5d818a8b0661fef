# SPDX-License-Identifier: MIT
"""A hostile client against the vfio-user server and the model behind it, under ASan and UBSan."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from compiled import sanitized
from waiting import enough

ROOT = Path(__file__).resolve().parents[2]
SECONDS = int(os.environ.get("USRDRV_FUZZ_SECONDS", "3"))


@pytest.mark.timeout(600 + SECONDS)
def test_fuzz_server() -> None:
    folders = (ROOT / "devices/cmd680", ROOT / "devices/vfio_user")
    sources = [ROOT / "tests/fuzz/fuzz_server.c", ROOT / "devices/base/peer_signal.c"]
    sources += [path for folder in folders for path in sorted(folder.glob("*.c"))]
    program = sanitized("address,undefined", sources, ["usrdrv/include", "devices"])

    def run() -> tuple[int, int]:
        done = subprocess.run(
            [program, str(SECONDS), "1"],
            capture_output=True, text=True, timeout=120 + SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        counts = re.fullmatch(r"(\d+) messages, (\d+) connections\n", done.stdout)
        assert counts is not None
        return int(counts[1]), int(counts[2])

    enough(run, [1000, 10], "messages, connections")
