# SPDX-License-Identifier: MIT
"""The patches for Linux, without a kernel's source: what can be said of them as they are."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.files import ROOT
from usrdrv.lab import kernel

PATCHES = kernel.patches()


def test_the_series_is_complete() -> None:
    assert len(PATCHES) > 5
    for number, patch in enumerate(PATCHES, 1):
        assert patch.name.startswith(f"{number:04}-")
        assert f"[PATCH {number:02}/{len(PATCHES):02}]" in patch.read_text()


@pytest.mark.parametrize("patch", PATCHES, ids=lambda path: path.name[:4])
def test_a_patch_is_signed_and_says_why(patch: Path) -> None:
    head, _, _ = patch.read_text().partition("\n---\n")
    assert "Signed-off-by: usrdrv maintainers <maintainers@usrdrv.example>" in head
    subject = " ".join(
        re.findall(r"^Subject: \[PATCH [\d/]+\] (.*(?:\n .*)*)", head, re.M)[0].split()
    )
    readme = " ".join((ROOT / "usrdrv-patch/README.md").read_text().split())
    assert subject in readme
    assert len(head.partition("\n\n")[2].split()) > 15


def test_the_backend_has_the_header_of_the_patches(tmp_path: Path) -> None:
    """The header is put together from the patches that make and change it."""
    header = tmp_path / "include/uapi/linux/usrdrv.h"
    for patch in PATCHES:
        parts = re.split(r"(?m)^(?=diff --git )", patch.read_text())
        mine = [
            part
            for part in parts
            if part.startswith(f"diff --git a/{header.relative_to(tmp_path)} ")
        ]
        if mine:
            done = subprocess.run(
                ["patch", "-p1", "--batch"],
                cwd=tmp_path,
                input=mine[0],
                text=True,
                capture_output=True,
            )
            assert done.returncode == 0, done.stdout
    assert header.read_text() == (ROOT / "usrdrv/backends/usr_pci.h").read_text()
