# SPDX-License-Identifier: MIT
"""The device models. Once this is imported, open_device() makes those that `model:KIND?OPTIONS` names."""

from usrdrv import modelled
from usrdrv.devices import models

modelled.register(models.create)
