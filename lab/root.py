# SPDX-License-Identifier: MIT
"""The guest's root: a folder with Debian 13, its stock kernel, our Python packages, and QEMU itself.

QEMU and virtiofsd of this folder run on the host through the folder's own loader, so that every host
has the same ones, whatever its own are.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Final

from usrdrv.base import errors
from usrdrv.base.process import find_tool
from usrdrv.lab import cache

SUITE: Final = "trixie"
BACKPORTS: Final = "trixie-backports"
PYTHON: Final = "3.13"
"""The suite's interpreter; wheels are fetched for it."""

MIRROR: Final = "http://deb.debian.org/debian"
STEPS: Final = 16
"""Lines that mmdebstrap begins with "I: " in a build."""

_FILES: Final = resources.files("usrdrv.lab")


def mirror() -> str:
    """Return the Debian mirror: USRDRV_MIRROR, else the one this host's apt has, else the default."""
    if given := os.environ.get("USRDRV_MIRROR"):
        return given
    query = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Created-By: Packages"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    except OSError:
        return MIRROR  # no Debian
    for line in found.splitlines():
        origin, _, uri = line.partition(" ")
        if origin == "Debian" and uri.rstrip("/").endswith("/debian"):
            return uri.rstrip("/")
    return MIRROR


def _packages() -> list[str]:
    lines = (_FILES / "root-packages.txt").read_text().splitlines()
    names = [line for line in lines if line and not line.startswith("#")]
    return [name.replace("~bpo", f"/{BACKPORTS}") for name in names]


def _requirements() -> list[str]:
    """The Python packages that usrdrv runs with, and those that run tests in the guest."""
    wanted = []
    for line in metadata.requires("usrdrv") or []:
        requirement, _, condition = line.partition(";")
        if not condition or requirement.startswith(("pytest=", "pytest-timeout=")):
            wanted.append(requirement.strip())
    return wanted


def build(report: cache.Report = cache.silent) -> Path:
    """Return the folder; it takes a minute or two to make."""
    files = [(_FILES / name).read_bytes() for name in ("root-hook.sh", "guest/stub")]
    inputs: list[str | bytes] = [SUITE, BACKPORTS, PYTHON, *_packages(), *_requirements(), *files]

    def make(path: Path) -> None:
        hook, stub = (str(_FILES / name) for name in ("root-hook.sh", "guest/stub"))
        hooks = [hook, f"upload {stub} /init", 'chmod 755 "$1/init"']
        bootstrap(path, _packages(), (SUITE, BACKPORTS), hooks, report)
        report("Python packages", 0.9)
        _python_packages(path)

    return cache.cached("root", cache.digest(inputs), make)


def bootstrap(
    path: Path,
    packages: Sequence[str],
    suites: Sequence[str],
    hooks: Sequence[str],
    report: cache.Report,
) -> None:
    """Unpack what mmdebstrap makes of SUITE. By way of a tar archive: so it needs no root.

    suites: where packages may come from. hooks: mmdebstrap's customize hooks.
    """
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
    sources = [f"deb {mirror()} {suite} main" for suite in suites]
    command = [
        *(find_tool("mmdebstrap", "mmdebstrap"), "--variant=minbase", "--format=tar"),
        *("--aptopt=APT::Install-Recommends false", *excluded),
        f"--include={','.join(packages)}",
        *(f"--customize-hook={hook}" for hook in hooks),
        *(SUITE, "-", *sources),
    ]
    unpack = ["tar", "-x", "-C", str(path), "--exclude=./dev/*"]
    with (
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
        ) as maker,
        subprocess.Popen(unpack, stdin=maker.stdout, stderr=subprocess.DEVNULL) as unpacker,
    ):
        assert maker.stdout is not None and maker.stderr is not None
        maker.stdout.close()
        lines = []
        for line in maker.stderr:
            lines.append(line.rstrip())
            if line.startswith("I: "):
                steps = sum(line.startswith("I: ") for line in lines)
                report(line[3:].strip(), min(0.9 * steps / STEPS, 0.9))
    if maker.returncode or unpacker.returncode:
        said = next((line for line in reversed(lines) if line.startswith("E: ")), "no reason given")
        raise errors.LabError(f"a root folder could not be built: mmdebstrap: {said}")


def _python_packages(path: Path) -> None:
    command = [
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"),
        *("--target", str(path / "opt/python"), "--python-version", PYTHON, "--no-compile"),
        *("--platform", "manylinux2014_x86_64", "--platform", "manylinux_2_28_x86_64"),
        *("--only-binary=:all:", *_requirements()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise errors.LabError(f"cannot install the guest's Python packages: {said}")
    compile_python(path, path / "opt/python")


def compile_python(root: Path, folder: Path) -> None:
    """Compile with the interpreter that will run it: an emulated machine would need seconds for that.

    compileall does not follow links, so those in the folder are named. A folder that we may not write
    stays as it is, and each process compiles what it imports.
    """
    links = [str(path) for path in folder.iterdir() if path.is_symlink() and path.is_dir()]
    compiler = ["-m", "compileall", "-q", str(folder), *links]
    command = [*program(root, "usr/bin/python3"), *compiler]
    env = {**os.environ, "PYTHONHOME": str(root / "usr")}
    subprocess.run(command, env=env, capture_output=True, check=False)


def release(root: Path) -> str:
    """Return what the stock kernel of the folder calls itself."""
    return next((root / "usr/lib/modules").iterdir()).name


def program(root: Path, name: str) -> list[str]:
    """Return how a program of the folder is run on this host."""
    libraries = root / "usr/lib/x86_64-linux-gnu"
    return [
        str(root / "usr/lib64/ld-linux-x86-64.so.2"),
        *("--library-path", str(libraries), str(root / name)),
    ]
