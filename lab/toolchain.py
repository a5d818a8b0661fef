# SPDX-License-Identifier: MIT
"""Builds kernel modules for every kernel that matters here, with the compiler that each was built with.

For Debian's kernels in a folder of Debian 13 that has make, the compilers, sparse and the headers; one changes its
root into it, which in a user namespace needs no root. For our own kernels on this host, where they were built too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Final

from usrdrv.base import errors
from usrdrv.base.process import find_tool
from usrdrv.lab import cache, kernel, root

OLD_SUITE: Final = "bookworm"
PACKAGES: Final = ("make", "libelf1t64", "pahole", "perl-base", "sparse")
OWN: Final = tuple(kernel.FRAGMENTS)
KERNELS: Final = ("stock-6.1", "stock", "newest", *OWN)
"""Debian 12's, Debian 13's (that of the guests), the newest for Debian 13 (backports); ours."""
WITHOUT_SPARSE: Final = ("newest",)
"""Its headers come without what `make C=2` starts."""

_FILES: Final = resources.files("usrdrv.lab")
_INSIDE: Final = """
set -e
root=$1
mount --rbind /dev "$root/dev"
mount --rbind /proc "$root/proc"
mount -t tmpfs tmpfs "$root/tmp"
mount --bind "$2" "$root/work"
shift 2
exec chroot "$root" "$@"
"""


def build(report: cache.Report = cache.silent) -> Path:
    """Return the folder with compilers and headers; it takes two minutes to make."""
    guest = root.build(report)
    # The guests' kernel must be met exactly: its headers come from their root.
    stock = root.release(guest)
    variables = (guest / f"usr/src/linux-headers-{stock}/.kernelvariables").read_text()
    packages = [*PACKAGES, *re.findall(r"gcc-\d+", variables)[:1]]
    hook = _FILES / "toolchain-hook.sh"
    suites = (root.SUITE, root.BACKPORTS, OLD_SUITE)
    inputs = [*suites, *packages, stock, hook.read_bytes()]

    def make(path: Path) -> None:
        root.bootstrap(path, packages, suites, [str(hook)], report)
        for folder in [
            *guest.glob(f"usr/src/linux-headers-{stock.rpartition('-')[0]}-*"),
            *guest.glob(f"usr/lib/linux-kbuild-{stock.rpartition('-')[0]}"),
        ]:
            shutil.copytree(folder, path / folder.relative_to(guest), symlinks=True)
        with (path / "kernels").open("a") as file:
            file.write(f"stock {stock}\n")

    return cache.cached("toolchain", cache.digest(inputs), make)


def build_module(
    source: Path, name: str, *, selftest: bool = False, report: cache.Report = cache.silent
) -> Path:
    """Return the path of the .ko that `source`, a folder with one Kbuild or Makefile, makes for kernel `name`.

    Built once for each state of the sources. LabError has what the compiler said.
    """
    base = _kernel(name, report)
    arguments = ["SELFTEST=1"] if selftest else []
    files = [part for path in _files(source) for part in (path.name, path.read_bytes())]
    key = cache.digest([name, base.name, *arguments, *files])

    def make(path: Path) -> None:
        report(f"module for kernel {name}", 0.99)
        with tempfile.TemporaryDirectory(prefix="usrdrv-module-") as folder:
            work = Path(folder)
            _make(source, work, name, base, arguments)
            for module in work.glob("*.ko"):
                shutil.copy(module, path)

    found = list(cache.cached("module", key, make).glob("*.ko"))
    if len(found) != 1:
        raise errors.LabError(f"{source} makes {len(found)} modules for kernel {name}, not one")
    return found[0]


def check(source: Path, name: str, *, selftest: bool = False) -> list[str]:
    """Build with all warnings (W=1) and sparse (C=2). Return what is said of the sources."""
    base = _kernel(name, cache.silent)
    arguments = ["W=1", *(["SELFTEST=1"] if selftest else [])]
    if name in OWN:
        find_tool("sparse", "sparse")
    if name not in WITHOUT_SPARSE:
        arguments.append("C=2")
    with tempfile.TemporaryDirectory(prefix="usrdrv-module-") as folder:
        output = _make(source, Path(folder), name, base, arguments)
    ours = {str(path.relative_to(source)) for path in _files(source)}
    # Headers of old kernels have warnings of their own.
    theirs = ("/usr/src/", f"{base}/", "include/", "arch/")
    found = []
    for line in output.splitlines():
        path, colon, rest = line.removeprefix(f"{folder}/").removeprefix("/work/").partition(":")
        path = os.path.normpath(path)
        if re.search(r"\b(warning|error): ", rest) and (
            path in ours or not path.startswith(theirs)
        ):
            found.append(path + colon + rest)
        elif line.startswith("WARNING: modpost"):
            found.append(line)
    return found


def _kernel(name: str, report: cache.Report) -> Path:
    """Build what is needed for modules of that kernel; return the folder."""
    if name not in KERNELS:
        raise errors.UsageError(f"no kernel {name!r}: there are {', '.join(KERNELS)}")
    return kernel.build(name, report) if name in OWN else build(report)


def _files(source: Path) -> Iterator[Path]:
    """What a module is built from, in order."""
    for path in sorted(source.rglob("*")):
        wanted = path.suffix in (".c", ".h") or path.name in ("Kbuild", "Makefile")
        if wanted and not path.name.endswith(".mod.c"):
            yield path


def _make(source: Path, work: Path, name: str, base: Path, arguments: Sequence[str]) -> str:
    """Build in `work`, a copy of the source. Return what make printed."""
    for path in _files(source):
        target = work / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    jobs = len(os.sched_getaffinity(0))
    common = ["modules", f"-j{jobs}", "--output-sync=target", *arguments]
    if name in OWN:
        command = [find_tool("make", "make"), "-C", str(base / "build"), f"M={work}", *common]
        env = {**os.environ, "LC_ALL": "C"}
    else:
        releases = dict(line.split() for line in (base / "kernels").read_text().splitlines())
        headers = f"/usr/src/linux-headers-{releases[name]}"
        user = [] if os.geteuid() == 0 else ["--map-root-user"]
        # As a slave: what others unmount meanwhile is gone here, too, not kept in use by a compiler.
        unshare = (find_tool("unshare", "util-linux"), "--mount", "--propagation", "slave", *user)
        command = [
            *(*unshare, "sh", "-c", _INSIDE, "sh"),
            *(str(base), str(work), "make", "-C", headers, "M=/work", *common),
        ]
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/tmp"}
    done = subprocess.run(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        lines = done.stdout.splitlines()
        wrong = [line for line in lines if re.search(r"error:|ERROR:|warning:", line)] or lines[-5:]
        raise errors.LabError(f"{source.name} for kernel {name}:\n" + "\n".join(wrong[:40]))
    return done.stdout
