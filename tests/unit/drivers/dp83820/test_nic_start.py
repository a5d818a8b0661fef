# SPDX-License-Identifier: MIT
"""When the DP83820 driver has started."""

import time
from typing import Any

from tests.names import own
from tests.unit.drivers.dp83820.nic_pair import End
from usrdrv.device import Device
from usrdrv.drivers.dp83820._dp83820 import ffi
from usrdrv.drivers.dp83820.driver import Options


class SlowStart:
    """Delays the writes that turn a chip's receiver and its interrupt on, and notes when they are made."""

    def __init__(self, steps: list[str]) -> None:
        self._steps = steps
        self._ops = ffi.new("struct usrdrv_dev_ops *")
        self._slow = ffi.callback(
            "int(struct usrdrv_dev *, const struct usrdrv_write *, unsigned int)", self._unmask
        )

    def __call__(self, device: Device) -> None:
        pointer = ffi.cast("struct usrdrv_dev *", device.pointer)
        self._real = pointer.ops.irq_unmask
        ffi.memmove(self._ops, pointer.ops, ffi.sizeof("struct usrdrv_dev_ops"))
        self._ops.irq_unmask = self._slow
        pointer.ops = self._ops

    def _unmask(self, dev: Any, writes: Any, n: int) -> int:
        time.sleep(0.2)  # in which a start that does not wait is over
        self._steps.append("receives")
        return int(self._real(dev, writes, n))


def test_what_has_started_receives() -> None:
    """The first frame may come at once: if the link was up before, nothing else has the sender wait."""
    steps: list[str] = []
    slow = SlowStart(steps)
    end = End(own(), bytes.fromhex("020000000001"), "", Options(), slow)
    steps.append("started")
    end.close()
    assert steps[:2] == ["receives", "started"]
