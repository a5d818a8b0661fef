# SPDX-License-Identifier: MIT
"""Labels of disks: what `usrdrv block` gives usrloop is what the udev rules make a link of."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

import pytest

from tests.files import ROOT
from usrdrv import loop
from usrdrv.bridge.block import export_usrloop

RULES = (ROOT / "loopback-kmod/60-usrloop.rules").read_text()
BEGINS, WRONG = re.findall(r'^ENV\{\.USRLOOP_LABEL\}.?="(.*?)", GOTO="usrloop_end"$', RULES, re.M)

DEVICES = (
    "0000:03:00.0",
    "10000:e1:00.0",
    "vfio-user:/tmp/ide.sock",
    "vfio-user:/tmp/caf\u00e9/\u0661\u0662.sock",
    "model:cmd680?image=disk.img",
    "model:cmd680?image=/a b/c@d,e&drive=1",
    "vfio-user:/" + "x/" * 60 + "end",
    "vfio-user:/" + "long-name/" * 40,
    *(f"model:{'y' * n}.-/-.{'z' * 60}" for n in range(8)),
)


@pytest.mark.parametrize("device", DEVICES)
def test_a_label_of_ours_becomes_a_link(device: str) -> None:
    label = export_usrloop._label(device)
    assert 0 < len(label.encode()) < loop.lib.USRLOOP_LABEL_LEN
    assert fnmatchcase(label, BEGINS) and not fnmatchcase(label, WRONG), label


@pytest.mark.parametrize("label", ["..", "../x", ".x", "-x", "a/b", "a b", "caf\u00e9", "a\tb", ""])
def test_one_that_leads_elsewhere_does_not(label: str) -> None:
    assert not fnmatchcase(label, BEGINS) or fnmatchcase(label, WRONG)
