# SPDX-License-Identifier: MIT
"""The device models by name."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from usrdrv.base.errors import UsageError
from usrdrv.devices import cmd680, dp83820
from usrdrv.devices.base import Model

MODELS: dict[str, tuple[type[Model], Callable[[str | Mapping[str, Sequence[str]]], Model]]] = {
    "cmd680": (cmd680.Cmd680Model, cmd680.from_options),
    "dp83820": (dp83820.Dp83820Model, dp83820.from_options),
}


def _known(kind: str) -> None:
    if kind not in MODELS:
        raise UsageError(f"no model of {kind!r}: there are {', '.join(MODELS)}")


def create(kind: str, options: str | Mapping[str, Sequence[str]] = "") -> Model:
    """Make the model that `model:KIND?OPTIONS` names."""
    _known(kind)
    return MODELS[kind][1](options)


def parse_fault(kind: str, words: Sequence[str]) -> Any:
    """A fault of that kind of model, from the words of a command line."""
    _known(kind)
    return MODELS[kind][0].parse_fault(words)
