# SPDX-License-Identifier: MIT
"""The lab. Once this is imported, `qemu:` names work without a QEMU of this machine's."""

from usrdrv.qemu import register


def _emulator() -> tuple[list[str], dict[str, str]]:
    from usrdrv.lab import root
    from usrdrv.lab.qemu import emulator, environment

    folder = root.build()
    return emulator(folder), environment(folder)


register(_emulator)
