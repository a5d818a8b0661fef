# SPDX-License-Identifier: MIT
"""The device models by name."""

from collections.abc import Callable, Mapping, Sequence

from usrdrv.devices import cmd680
from usrdrv.devices.cmd680 import Cmd680Model
from usrdrv.errors import UsageError

MODELS: dict[str, Callable[[str | Mapping[str, Sequence[str]]], Cmd680Model]] = {
    "cmd680": cmd680.from_options,
}


def create(kind: str, options: str | Mapping[str, Sequence[str]] = "") -> Cmd680Model:
    """Make the model that `model:KIND?OPTIONS` names."""
    if kind not in MODELS:
        raise UsageError(f"no model of {kind!r}: there are {', '.join(MODELS)}")
    return MODELS[kind](options)
