# SPDX-License-Identifier: MIT
"""Where the device models come from: the access layer opens them, and is below them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from usrdrv.base import errors
from usrdrv.names import ModelName


class Model(Protocol):
    """What open_device() takes of a model."""

    @property
    def pointer(self) -> int:
        """Address of its struct usrdrv_model (model.h)."""

    def close(self) -> None: ...


_makers: list[Callable[[str, str], Model]] = []


def register(make: Callable[[str, str], Model]) -> None:
    """Have `make(kind, options)` make the models of this process; usrdrv.devices does this when it is imported."""
    _makers[:] = [make]


def create(name: ModelName) -> Model:
    """Make the model that `name` names. UsageError if nothing here makes models."""
    if not _makers:
        raise errors.UsageError(f"model:{name.kind}: no models here: import usrdrv.devices")
    return _makers[0](name.kind, name.options)
