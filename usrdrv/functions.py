# SPDX-License-Identifier: MIT
"""PCI functions of this machine: the usrdrv system calls where the kernel has them, else VFIO."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from usrdrv import names, usrpci, vfio
from usrdrv.base import errors
from usrdrv.pci import USRDRV, VFIO, Function

VARIABLE: Final = "USRDRV_PCI"
WAYS: Final = {"usrdrv": USRDRV, "vfio": VFIO}
CAP_SYS_RAWIO: Final = 17


def _may_claim() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> CAP_SYS_RAWIO & 1)
    return False


def way(function: Function) -> str:
    """Return which kernel driver is to have `function` while we use it.

    USRDRV_PCI (usrdrv or vfio) decides; else what has it already, else usrdrv where we can, else VFIO.
    """
    wanted = os.environ.get(VARIABLE, "auto")
    if wanted in WAYS:
        if wanted == "usrdrv" and not usrpci.available():
            raise errors.MissingToolError("this kernel has no usrdrv system calls (CONFIG_USRDRV)")
        return WAYS[wanted]
    if wanted != "auto":
        raise errors.UsageError(f"{VARIABLE}={wanted}: must be auto, {' or '.join(WAYS)}")
    if function.driver != VFIO and usrpci.available() and _may_claim():
        return USRDRV
    return VFIO


@contextmanager
def _taken(function: Function, force: bool = False) -> Iterator[str]:
    """Keep the function from its driver. Yields what has it, or will have it when it is opened."""
    through = way(function)
    # Without an IOMMU there is no use in taking it: opening says so.
    with (
        function.bound(through, force)
        if through == USRDRV or function.group is not None
        else ExitStack()
    ):
        yield through


def open_function(function: Function, stack: ExitStack) -> Any:
    """Return the struct usrdrv_dev; `stack` gives the function back to its driver."""
    through = stack.enter_context(_taken(function))
    return (usrpci if through == USRDRV else vfio).open_function(function)


@contextmanager
def kept(device: str, force: bool = False) -> Iterator[None]:
    """Keep a PCI function from its kernel driver while drivers of ours come and go; for any device's name.

    force: also one whose network interface is in use.
    """
    name = names.parse(device)
    function = Function(name.address) if isinstance(name, names.PciName) else None
    with ExitStack() as stack:
        if function is not None and function.exists:
            stack.enter_context(_taken(function, force))
        yield
