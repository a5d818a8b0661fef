# SPDX-License-Identifier: MIT
"""The source distribution has everything, and a wheel can be built from it without a network."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.files import ROOT

MADE = shutil.ignore_patterns(
    *(
        ".*",
        "build",
        "dist",
        "results",
        "__pycache__",
        "*.egg-info",
        "*.so",
        "*.o",
        "*.ko",
        "*.mod",
    ),
    *("*.mod.c", "Module.symvers", "modules.order"),
)
EXTENSIONS = (
    *("_request", "backends._access", "devices._models", "loop._loop"),
    *("drivers.ide_cmd680._cmd680", "drivers.dp83820._dp83820"),
)
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """The archive, and the names of the files that it was made of."""
    folder = tmp_path_factory.mktemp("package")
    tree = folder / "tree"
    shutil.copytree(ROOT, tree, symlinks=True, ignore=MADE)
    names = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
    done = subprocess.run(
        [sys.executable, "-c", BUILD, folder],
        cwd=tree, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return folder / done.stdout.splitlines()[-1], names


def test_a_source_distribution_has_all_files(sdist: tuple[Path, set[str]]) -> None:
    archive, names = sdist
    with tarfile.open(archive) as tar:
        packed = {name.partition("/")[2] for name in tar.getnames()}
        links = {entry.name.partition("/")[2]: entry.linkname for entry in tar if entry.issym()}
    stubs = {name for name in names if name.endswith(".pyi")} - {"usrdrv/_request.pyi"}
    assert len(stubs) > 5 and not stubs & packed, "setup writes them"
    assert names - packed == stubs
    assert links == {
        str(path.relative_to(ROOT)): str(path.readlink())
        for path in (ROOT / "usrdrv").iterdir()
        if path.is_symlink()
    }


@pytest.mark.timeout(600)
def test_a_wheel_of_it_works_and_has_its_licences(
    sdist: tuple[Path, set[str]], tmp_path: Path
) -> None:
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation"),
            *("--no-deps", "--no-index", "--wheel-dir", tmp_path, sdist[0]),
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(installed)
    (info,) = installed.glob("*.dist-info")
    metadata = (info / "METADATA").read_text()
    for path in (ROOT / "LICENSES").iterdir():
        assert (info / "licenses/LICENSES" / path.name).read_text() == path.read_text()
    assert "\nLicense-Expression: MIT AND GPL-2.0-only AND" in metadata
    for header in (ROOT / "usrdrv/include/usrdrv").iterdir():
        assert (installed / "usrdrv/include/usrdrv" / header.name).is_file()
    for folder in ("kmod", "patch"):
        sources = {p.relative_to(ROOT) for p in (ROOT / "usrdrv" / folder).glob("*.[chp]*")}
        assert {path for path in sources if not (installed / path).is_file()} == set()
    modules = [f"usrdrv.{name}" for name in EXTENSIONS]
    program = (
        "import importlib, sys; sys.path.insert(0, sys.argv[1]);"
        "print(*(importlib.import_module(name).__file__ for name in sys.argv[2:]), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, installed, *modules],
        cwd=tmp_path, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert all(path.startswith(str(installed)) for path in done.stdout.splitlines())
