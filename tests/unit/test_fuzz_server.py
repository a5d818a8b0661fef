# SPDX-License-Identifier: MIT
"""A hostile client against the vfio-user server and the model behind it, under ASan and UBSan."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from waiting import enough

ROOT = Path(__file__).resolve().parents[2]
SECONDS = int(os.environ.get("USRDRV_FUZZ_SECONDS", "5"))


@pytest.mark.timeout(600 + SECONDS)
def test_fuzz_server(tmp_path: Path) -> None:
    program = tmp_path / "fuzz_server"
    folders = (ROOT / "devices/cmd680", ROOT / "devices/vfio_user")
    sources = [path for folder in folders for path in sorted(folder.glob("*.c"))]
    subprocess.run(
        [
            *("gcc", "-g", "-O1", "-std=gnu11", "-fsanitize=address,undefined"),
            *("-fno-sanitize-recover=all", "-o", program),
            *(f"-I{ROOT / folder}" for folder in ("usrdrv/include", "devices")),
            *(
                ROOT / "tests/fuzz/fuzz_server.c",
                *(ROOT / "devices/base" / name for name in ("faults.c", "peer_signal.c")),
                *sources,
                "-lpthread",
            ),
        ],
        check=True,
    )

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
