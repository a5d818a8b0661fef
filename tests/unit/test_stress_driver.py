# SPDX-License-Identifier: MIT
"""The driver's data path and the model, many threads, under ASan and UBSan, then under TSan."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECONDS = int(os.environ.get("USRDRV_FUZZ_SECONDS", "3"))
INCLUDES = (
    *("usrdrv/include", "loopback-kmod/include/uapi", "drivers/ide_cmd680", "devices"),
    *("usrdrv/backends", "tests/fuzz"),
)
GENERATED = ("_cmd680.c", "_models.c", "testhost.c")


def sources() -> list[Path]:
    found = [ROOT / "tests/fuzz/stress_driver.c", ROOT / "tests/fuzz/stress_rig.c"]
    found += [ROOT / "usrdrv/backends" / name for name in ("areas.c", "inproc.c")]
    found.append(ROOT / "usrdrv/loop/loop.c")
    for folder in ("drivers/ide_cmd680", "devices"):
        found += [
            path
            for path in sorted((ROOT / folder).glob("*.c"))
            if path.name not in GENERATED and not path.name.startswith("vfio_user")
        ]
    return found


@pytest.mark.timeout(SECONDS + 240)
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_stress(sanitizer: str, tmp_path: Path) -> None:
    program = tmp_path / "stress"
    subprocess.run(
        [
            *("gcc", "-g", "-O1", "-std=gnu11", f"-fsanitize={sanitizer}"),
            *("-fno-sanitize-recover=all", "-o", program),
            *(f"-I{ROOT / folder}" for folder in INCLUDES),
            *sources(),
            "-lpthread",
        ],
        check=True,
    )
    done = subprocess.run(
        [program, str(SECONDS), "1"],
        capture_output=True,
        text=True,
        timeout=SECONDS + 120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout.split()[0]) > 1000
