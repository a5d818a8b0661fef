# SPDX-License-Identifier: MIT
"""Kernel modules, loaded when something needs them."""

from __future__ import annotations

import os
import shutil
import subprocess


def load(name: str) -> None:
    """Load a module if we may. Whether that helped shows in what the module brings."""
    modprobe = shutil.which("modprobe", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if modprobe and os.geteuid() == 0:
        subprocess.run([modprobe, "-q", name], stderr=subprocess.DEVNULL, check=False)
