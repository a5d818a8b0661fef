# SPDX-License-Identifier: MIT
"""Kernels of our own: Debian 13's source, a small configuration, patches of ours.

Kept of a build: `vmlinuz`, `config`, `version`, the modules (`modules/lib/modules/RELEASE`) and what it takes to
build modules against it (`build`), and the self-tests of our patches (`selftests`); not the objects, for which
there is ccache.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Final

from usrdrv.base import errors
from usrdrv.base.process import find_tool
from usrdrv.lab import cache, root

SOURCE: Final = "linux-source-6.12"
FRAGMENTS: Final = {"base": ("base.config",), "debug": ("base.config", "debug.config")}
LINES: Final = {"base": 2700, "debug": 2900}
"""Lines that make prints in a build, about; for the progress bar."""

_FILES: Final = resources.files("usrdrv.lab") / "kernel"
_PATCHES: Final = resources.files("usrdrv") / "patch"
TOOLS: Final = {
    "make": "make",
    "gcc": "gcc",
    "ccache": "ccache",
    "bc": "bc",
    "bison": "bison",
    "flex": "flex",
    "xz": "xz-utils",
    "patch": "patch",
    "rsync": "rsync",
    "perl": "perl",
    "mmdebstrap": "mmdebstrap",
}


def patches() -> list[Path]:
    """Return what is applied to Debian's source, in order."""
    return sorted(Path(str(_PATCHES)).glob("*.patch"))


def _key(name: str, applied: Sequence[Path]) -> str:
    fragments = [(_FILES / file).read_text() for file in FRAGMENTS[name]]
    compiler = run([find_tool("gcc", "gcc"), "-dumpfullversion"], Path("/"))
    return cache.digest([SOURCE, compiler, *fragments, *(path.read_text() for path in applied)])


def is_built(name: str) -> bool:
    """Whether build() has nothing to do."""
    return (cache.folder() / f"kernel-{name}-{_key(name, patches())}").exists()


def build(name: str, report: cache.Report = cache.silent, more: Sequence[Path] = ()) -> Path:
    """Return the folder of kernel `base` or `debug`; it takes minutes to make. more: patches besides ours."""
    applied = [*patches(), *more]

    def make(path: Path) -> None:
        for tool, package in TOOLS.items():
            find_tool(tool, package)
        tree = path / "source"
        unpack(tree, report)
        for patch in applied:
            run(["patch", "-p1", "--batch", "-i", str(patch)], tree)
        configure(tree, name)
        _compile(tree, LINES[name], report)
        _keep(tree, path)
        shutil.rmtree(tree)

    return cache.cached(f"kernel-{name}", _key(name, applied), make)


def _environment() -> dict[str, str]:
    """What makes two builds of the same inputs the same, and the second one quick."""
    return {
        **os.environ,
        "LC_ALL": "C",
        "KBUILD_BUILD_TIMESTAMP": "2026-01-01",
        "KBUILD_BUILD_USER": "usrdrv",
        "KBUILD_BUILD_HOST": "lab",
        "CCACHE_DIR": str(cache.folder() / "ccache"),
        "CCACHE_MAXSIZE": "1G",
        "CCACHE_NOHASHDIR": "1",
        "CCACHE_DEPEND": "1",
    }


def run(command: Sequence[str], folder: Path, env: Mapping[str, str] | None = None) -> str:
    """Run one of the build's commands; return its output. LabError, with the reason in it, if it fails."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=env or _environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise errors.LabError(
            f"kernel: {Path(command[0]).name}: {_reason(done.stdout.splitlines())}"
        )
    return done.stdout


def _reason(lines: Sequence[str]) -> str:
    """The first line that says what is wrong, else the last one."""
    wrong = (line for line in lines if re.search(r"error:|\*\*\*|^E: |FAILED", line))
    return next(wrong, lines[-1] if lines else "no reason given")


def unpack(tree: Path, report: cache.Report) -> None:
    """Make `tree` Debian's source, without patches of ours. Its parent is used for what comes in between."""
    report("Linux: fetching the source", 0.0)
    tree.mkdir()
    archive = tree.with_name("source.tar")
    run(
        [
            *("mmdebstrap", "--variant=extract", "--format=tar", f"--include={SOURCE}"),
            *("--aptopt=APT::Install-Recommends false", root.SUITE, str(archive)),
            f"deb {root.mirror()} {root.SUITE} main",
        ],
        tree,
    )
    report("Linux: unpacking the source", 0.02)
    inner = f"usr/src/{SOURCE}.tar.xz"
    run(["tar", "-xf", str(archive), f"./{inner}"], tree)
    archive.unlink()
    run(["tar", "-xf", inner, "--strip-components=1"], tree)
    shutil.rmtree(tree / "usr/src")


def configure(tree: Path, name: str, strict: bool = True) -> None:
    """Merge the fragments over tinyconfig. If `strict`, LabError names the options that did not stick."""
    fragments = [str(_FILES / file) for file in FRAGMENTS[name]]
    run(["make", "tinyconfig"], tree)
    run(["scripts/kconfig/merge_config.sh", "-m", ".config", *fragments], tree)
    run(["make", "olddefconfig"], tree)
    result = set((tree / ".config").read_text().splitlines())
    wanted = {}
    for file in fragments:
        for line in Path(file).read_text().splitlines():
            if match := re.match(r"(?:# )?(CONFIG_\w+)(?:=| is not set)", line):
                wanted[match[1]] = line
    lost = [
        line
        for option, line in wanted.items()
        # An option that cannot be chosen at all is not in the file: it is not set.
        if line not in result
        and not (
            line.endswith("is not set") and not any(x.startswith(f"{option}=") for x in result)
        )
    ]
    if lost and strict:
        raise errors.LabError(f"kernel {name}: these options did not stick: {', '.join(lost)}")


def _compile(tree: Path, total: int, report: cache.Report) -> None:
    command = ["make", f"-j{len(os.sched_getaffinity(0))}", "CC=ccache gcc", "bzImage", "modules"]
    lines: list[str] = []
    with subprocess.Popen(
        command,
        cwd=tree,
        env={**_environment(), "CCACHE_BASEDIR": str(tree)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            report(f"Linux: {line.strip()}", 0.05 + 0.93 * min(1.0, len(lines) / total))
    if process.returncode:
        raise errors.LabError(f"kernel: {_reason(lines)}")


def _keep(tree: Path, path: Path) -> None:
    """Take out of the tree what is wanted of it."""
    modules = path / "modules"
    strip = "INSTALL_MOD_STRIP=1"
    run(["make", "modules_install", f"INSTALL_MOD_PATH={modules}", strip], tree)
    for link in modules.glob("lib/modules/*/build"):
        link.unlink()
    shutil.copy(tree / "arch/x86/boot/bzImage", path / "vmlinuz")
    shutil.copy(tree / ".config", path / "config")
    (path / "version").write_text(run(["make", "-s", "kernelrelease"], tree))
    script = (
        f"KBUILD_RUN_COMMAND=${{srctree}}/scripts/package/install-extmod-build {path / 'build'}"
    )
    run(["make", "run-command", "CC=ccache gcc", script], tree)
    _self_tests(tree, path / "selftests")


def _self_tests(tree: Path, path: Path) -> None:
    """Build those of usrdrv, against the headers that the kernel has for programs."""
    path.mkdir()
    run(["make", "headers"], tree)
    includes = f"KHDR_INCLUDES=-isystem {tree}/usr/include"
    run(["make", "-C", "tools/testing/selftests/usrdrv", f"OUTPUT={path}", includes], tree)
