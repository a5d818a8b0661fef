# SPDX-License-Identifier: MIT
"""The device models. Once this is imported, open_device() makes those that `model:KIND?OPTIONS` names."""

from usrdrv import modelled
from usrdrv.modelled import Model


def _make(kind: str, options: str) -> Model:
    from usrdrv.devices import models  # now: the models' C part takes a while to load

    return models.create(kind, options)


modelled.register(_make)
