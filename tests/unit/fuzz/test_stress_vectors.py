# SPDX-License-Identifier: MIT
"""Interrupts connected anew while they come, under TSan and ASan: none is lost, none comes twice."""

from pathlib import Path

import pytest

from tests.sanitized import MEMORY, THREADS, build, counts, seconds
from tests.waiting import enough

SECONDS = seconds(2)


@pytest.mark.parametrize("sanitizer", [MEMORY, THREADS])
@pytest.mark.parametrize("way", ["in the process", "vfio-user"])
@pytest.mark.timeout(600 + SECONDS)
def test_stress_vectors(tmp_path: Path, way: str, sanitizer: str) -> None:
    sources = ["tests/fuzz/irq_model.c", "devices/vfio_user/*.c", "devices/base/peer_signal.c"]
    sources += [f"usrdrv/backends/{n}.c" for n in ("areas", "inproc", "vfio_user*")]
    folders = ("devices", "usrdrv/backends", "tests/fuzz")
    program = build("stress_vectors", sources, folders, sanitizer=sanitizer)

    def once() -> list[int]:
        socket = [str(tmp_path / "s")] if way == "vfio-user" else []
        (tmp_path / "s").unlink(missing_ok=True)
        return counts(program, SECONDS, *socket)

    enough(once, [100, 100], "rounds, changes")
