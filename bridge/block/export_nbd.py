# SPDX-License-Identifier: MIT
"""Export nbd: the kernel's NBD client."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from usrdrv import modules
from usrdrv.base import errors
from usrdrv.block.options import Options
from usrdrv.bridge.block.contract import ATTACH_TIME, Attachment
from usrdrv.bridge.block.export_socket import NbdExport
from usrdrv.bridge.block.nbd_server import NbdServer


def kernel_has_nbd(module: Path = Path("/sys/module/nbd")) -> bool:
    """Whether the kernel's NBD client is there; loads it if we may."""
    if not module.exists():
        modules.load("nbd")
    return module.exists()


@dataclass(frozen=True)
class Nbd(NbdExport):
    """/dev/nbdX."""

    name = "nbd"
    why = "the kernel has an NBD client"
    again = True

    def available(self) -> bool:
        return kernel_has_nbd()

    def check(self) -> None:
        if not kernel_has_nbd():
            raise errors.MissingToolError(
                "this kernel has no NBD client: module nbd (CONFIG_BLK_DEV_NBD)"
            )

    def attach(self, server: NbdServer, drive: int, options: Options) -> Attachment:
        # Here, as other exports do without: pyroute2 takes long to import.
        from usrdrv.bridge.block.nbd_client import NbdAttachment

        return NbdAttachment(
            server.endpoint.address,
            server.name(drive),
            timeout=ATTACH_TIME,
            patience=options.restart_time,
        )


EXPORT = Nbd
