# SPDX-License-Identifier: MIT
"""Runs in the guest: our driver with stray_dma.c between it and the device. Prints one line of JSON."""

import ctypes
import json
import sys

from usrdrv.base import errors
from usrdrv.device import open_device
from usrdrv.drivers import open_driver

stray = ctypes.CDLL(sys.argv[2])
before, during, after = bytearray(4096), bytearray(4096), bytearray(4096)
outcome = 0
with open_device(sys.argv[1]) as device:
    stray.stray_install(ctypes.c_void_p(device.pointer))
    with open_driver(device) as controller:
        block = controller.drives[0].block
        block.read_into(before, 0)
        stray.stray_arm(1)
        try:
            block.read_into(during, 0)
        except errors.UsrdrvError as error:
            outcome = error.errno
        stray.stray_arm(0)
        block.read_into(after, 0)
found = {"diverted": stray.stray_count(), "errno": outcome, "same": before == after}
print(json.dumps({**found, "empty": not any(before)}))
