# SPDX-License-Identifier: MIT
"""The device models by name: each folder here that has a `model.py`.

That has the class of the model, MODEL, and from_options(), which makes one. An `arguments.py`
beside it declares what the model adds to the command line of `usrdrv model`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from usrdrv import devices
from usrdrv.base.errors import UsageError
from usrdrv.base.parts import parts

if TYPE_CHECKING:
    from usrdrv.devices.base.c_model import Model
    from usrdrv.devices.base.command_line import Arguments


def kinds() -> list[str]:
    """Return the names of the models."""
    return parts(devices, "model")


def _module(kind: str) -> Any:
    """Import a model; now, as its C part takes a while to load."""
    if kind not in kinds():
        raise UsageError(f"no model of {kind!r}: there are {', '.join(kinds())}")
    return importlib.import_module(f"{devices.__name__}.{kind}.model")


def arguments() -> list[Arguments]:
    """Return what the models add to the command line of `usrdrv model`."""
    names = (f"{devices.__name__}.{kind}.arguments" for kind in parts(devices, "arguments"))
    return [importlib.import_module(name).ARGUMENTS for name in names]


def create(kind: str, options: str | Mapping[str, Sequence[str]] = "") -> Model:
    """Make the model that `model:KIND?OPTIONS` names."""
    model: Model = _module(kind).from_options(options)
    return model


def parse_fault(kind: str, words: Sequence[str]) -> Any:
    """A fault of that kind of model, from the words of a command line."""
    return _module(kind).MODEL.fault_type.parse(words)
