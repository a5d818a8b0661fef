# SPDX-License-Identifier: MIT
"""Builds usrdrv.devices._models."""

import sys
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "usrdrv"))
from _cffi import INCLUDE, cdef  # noqa: E402

SHARED = ["model.h", "dev.h", "ata.h", "cmd680_regs.h", "dp83820_regs.h"]
HEADERS = [
    "cmd680.h",
    "dp83820/dp83820.h",
    "testhost.h",
    "vfio_user_server.h",
]
NIC = [
    "nic",
    "engine",
    "config",
    "regs",
    "eeprom",
    "mii",
    "link",
    "filter",
    "offload",
    "tx",
    "rx",
    "pause",
    "wake",
    "fault",
]
PRIVATE = ["cmd680_priv.h", "dp83820/nic.h", "wire/wire.h", "wire/ring.h", "peer_signal.h"]
SOURCES = [
    "cmd680.c",
    "regs.c",
    "config.c",
    "bmdma.c",
    "ata.c",
    "ata_data.c",
    "ata_cmds.c",
    "ata_features.c",
    "ata_identify.c",
    "ata_smart.c",
    "store.c",
    "worker.c",
    "fault.c",
    "spin.c",
    "strict.c",
    "say.c",
    "testhost.c",
    "vfio_user_dma.c",
    "vfio_user_irq.c",
    "peer_signal.c",
    "vfio_user_messages.c",
    "vfio_user_server.c",
    *(f"dp83820/{name}.c" for name in NIC),
    *(f"wire/{name}.c" for name in ("ring", "loop", "cable", "tap", "pcap")),
]

ffibuilder = FFI()
for header in SHARED:
    ffibuilder.cdef(cdef(INCLUDE / "usrdrv" / header))
for header in HEADERS:
    ffibuilder.cdef(cdef(HERE / header))
ffibuilder.set_source(
    "usrdrv.devices._models",
    "".join(f'#include "usrdrv/{header}"\n' for header in SHARED)
    + "".join(f'#include "{header}"\n' for header in HEADERS),
    sources=[str(HERE.joinpath(source).relative_to(HERE.parent)) for source in SOURCES],
    include_dirs=[str(INCLUDE), str(HERE)],
    depends=[
        *(str(HERE / header) for header in [*HEADERS, *PRIVATE]),
        *(str(INCLUDE / "usrdrv" / header) for header in SHARED),
    ],
    libraries=["pthread"],
    extra_compile_args=[
        "-O2", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter",
    ],
)  # fmt: skip
