# SPDX-License-Identifier: MIT
"""What tests need of the machine, as the machine says: what is tested might, if broken, skip its own tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import files

ROOT = os.geteuid() == 0
PTRACE_SCOPE = Path("/proc/sys/kernel/yama/ptrace_scope")
"""Where a kernel lets users trace their children only."""


def opens(device: str) -> bool:
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def needs(what: str, there: bool) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not there, reason=f"needs {what}")


NEEDS_ROOT = needs("root", ROOT)
NEEDS_TRACING = needs(
    "to trace other processes",
    ROOT or not PTRACE_SCOPE.exists() or PTRACE_SCOPE.read_text() == "0\n",
)
NEEDS_TAP = needs("root and /dev/net/tun", ROOT and opens("/dev/net/tun"))
NEEDS_LOOP = needs("/dev/loop-control", opens("/dev/loop-control"))
NEEDS_FUSE = needs(
    "root, /dev/fuse and /dev/loop-control",
    ROOT and opens("/dev/fuse") and opens("/dev/loop-control"),
)


def need_reach(user: int) -> None:
    """Skip where a user may not read the project's files or start our Python."""
    probe = ["test", "-r", str(files.ROOT / "pyproject.toml"), "-a", "-x", sys.executable]
    if subprocess.run(probe, user=user, group=user, extra_groups=[], cwd="/").returncode:
        pytest.skip(f"user {user} cannot reach {files.ROOT} or {sys.executable}")
