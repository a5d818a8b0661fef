# SPDX-License-Identifier: MIT
"""Drives as the command line of `usrdrv model` names them."""

import argparse
from pathlib import Path

import pytest

from tests.files import ROOT
from usrdrv.base import errors
from usrdrv.bridge.cli import cmd_model, main
from usrdrv.devices import models
from usrdrv.devices.cmd680.model import DRIVE_OPTIONS


def parse(*drives: str) -> dict[str, list[str]]:
    args: argparse.Namespace = main._parser(main.COMMANDS).parse_args(
        ["model", "cmd680", "--socket", "/s", *drives]
    )
    return cmd_model.options(args)


def test_a_drive_takes_options_and_a_number() -> None:
    assert parse("--image", "a,b.img,ro,udma=4", "--ram", "1M,drive=3,4k=1", "--ram", "2M") == {
        "image0": ["a,b.img"],
        "ro0": ["1"],
        "udma0": ["4"],
        "ram3": ["1M"],
        "4k3": ["1"],
        "ram2": ["2M"],
    }


def test_a_name_that_only_looks_like_options() -> None:
    assert parse("--image", "a,x=1/b.img") == {"image0": ["a,x=1/b.img"]}


@pytest.mark.parametrize(
    ("drives", "message"),
    [
        (("--ram", "1M,speed=9"), "--ram 1M,speed=9: unknown option 'speed'"),
        (("--ram", "1M,drive=4"), "drive=4 is not in 0 to 3"),
        (("--ram", "1M,drive=1", "--ram", "1M"), "option ram1 is given 2 times"),
        (("--ram", "1M,udma=7"), "UDMA mode 7"),
    ],
)
def test_mistakes(drives: tuple[str, ...], message: str) -> None:
    with pytest.raises(errors.UsageError, match=message):
        models.create("cmd680", parse(*drives))


def test_the_command_knows_no_model() -> None:
    """What a model adds to the command line is the model's, so one more model changes no file of the command."""
    text = Path(cmd_model.__file__).read_text()
    assert models.kinds()
    assert not [kind for kind in models.kinds() if kind in text]


def test_the_manual_names_every_option_of_a_drive() -> None:
    for page in ("docs/man/usrdrv.1.md", "devices/README.md"):
        text = (ROOT / page).read_text()
        unnamed = [key for key in DRIVE_OPTIONS if f"`{key}`" not in text]
        assert unnamed in ([], ["read_only"]), page  # that is the other name of `ro`
