# SPDX-License-Identifier: MIT
"""usrloop.ko for guests, and what a kernel maintainer would check of its sources."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import usrdrv
from usrdrv.base import errors
from usrdrv.base.process import find_tool
from usrdrv.lab import cache, kernel, kernels, root, toolchain

_CHECKED: Final = ("*.[ch]", "include/uapi/*.h", "Kbuild", "Makefile")
_IGNORED: Final = {
    "compat.h": "LINUX_VERSION_CODE,CONSTANT_COMPARISON",
    "Makefile": "EMBEDDED_FILENAME",
    "usrloop.h": "EMBEDDED_FILENAME",
}
"""What checkpatch sees in some files and is not there: versions are compared on purpose outside the kernel's
tree, and a file's name in a sentence or an #include is not the file's title."""


SOURCE: Final = Path(usrdrv.__path__[0]) / "kmod"


def build(name: str, *, selftest: bool = False, report: cache.Report = cache.silent) -> Path:
    """Return usrloop.ko for a kernel of `toolchain.KERNELS`."""
    return toolchain.build_module(SOURCE, name, selftest=selftest, report=report)


def folder(name: str, module: Path) -> Path:
    """Return what belongs over the modules of a guest's kernel so that `modprobe` finds one more.

    That is the module, in updates/, and the indices, which take an emulated machine too long to make.
    """
    base = root.build()
    _, modules = kernels.find(name, base)
    if modules is None:
        modules = base / "usr/lib/modules" / root.release(base)

    def make(path: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="usrdrv-modules-") as top:
            tree = Path(top) / "lib/modules" / modules.name
            tree.mkdir(parents=True)
            (Path(top) / "usr").symlink_to(".")
            (tree / "kernel").symlink_to(modules / "kernel")
            for file in modules.glob("modules.*"):
                if file.name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
                    shutil.copy(file, tree)
            (tree / "updates").mkdir()
            stripped = tree / "updates" / module.name
            _run([find_tool("strip", "binutils"), "-g", str(module), "-o", str(stripped)])
            _run([*root.program(base, "usr/sbin/depmod"), "-b", top, modules.name])
            (tree / "kernel").unlink()
            shutil.copytree(tree, path, dirs_exist_ok=True)

    # A module's folder has a hash of its sources and its kernel in its name.
    key = cache.digest([name, module.parent.name, base.name])
    return cache.cached("guest-modules", key, make)


def check(name: str) -> list[str]:
    """Return what the compiler with all warnings, and sparse, say of the sources."""
    found = []
    for selftest in (False, True) if (SOURCE / "selftest.c").exists() else (False,):
        found += toolchain.check(SOURCE, name, selftest=selftest)
    return list(dict.fromkeys(found))


def check_style(folder: Path | None = None) -> list[str]:
    """Return what checkpatch --strict of the kernel's own scripts says of the sources."""
    folder = folder or SOURCE
    script = kernel.build("base") / "build/scripts/checkpatch.pl"
    found = []
    for path in sorted(path for pattern in _CHECKED for path in folder.glob(pattern)):
        if path.name.endswith(".mod.c"):
            continue
        ignored = [f"--ignore={_IGNORED[path.name]}"] if path.name in _IGNORED else []
        command = [find_tool("perl", "perl"), str(script), "--strict", "--no-tree", "--terse"]
        command += ["--no-summary", *ignored, "-f", str(path.relative_to(folder))]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        lines = done.stdout.splitlines() + done.stderr.splitlines()
        found += [line for line in lines if line] or (
            [f"{path.name}: checkpatch ended with status {done.returncode}"]
            if done.returncode
            else []
        )
    return found


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise errors.LabError(f"{Path(command[0]).name}: {done.stderr.strip()}")
