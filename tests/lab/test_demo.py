# SPDX-License-Identifier: MIT
"""`make demo` where the host cannot do it: in a guest, with what it prints and its exit code."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from tests.files import ROOT

SCRIPTS = ROOT / "scripts"

MAIN = """
import sys
sys.path.insert(0, {folder!r})
import demo
fuse = demo.EXPORTS.get("fuse")
demo.EXPORTS.choose = lambda wanted, given: fuse()  # the host cannot do more
sys.exit(demo.main())
"""


def test_the_disk_in_a_guest() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MAIN.format(folder=str(SCRIPTS))],
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "In a guest of the lab, because " in done.stdout
    steps = re.findall(r"^(\d)\. ", done.stdout, re.M)
    assert steps == list("12345678")
    assert "Kernel driver in use: pata_sil680" in done.stdout
    assert re.search(r"UDMA ?6", done.stdout)
    assert re.search(r"^/dev/usrblk0, 128 MiB; the driver is pid \d+$", done.stdout, re.M)
    assert "the driver was killed by SIGKILL; restarted in" in done.stderr
    assert re.search(r"^\d+ files, all as written$", done.stdout, re.M)
    assert done.stdout.rstrip().endswith("Done. Nothing is left behind.")
    assert "Traceback" not in done.stderr and "the guest's kernel: " not in done.stderr
