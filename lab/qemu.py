# SPDX-License-Identifier: MIT
"""The command line of QEMU for a guest of the lab."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from usrdrv.lab.root import program

FIRST_SLOT: Final = 0x10
"""PCI slot of the first device; the others follow."""


@dataclass(frozen=True)
class Machine:
    """What a guest consists of. `devices`: vfio-user sockets, in the order of their PCI slots.

    memory: MiB. iommu: an emulated Intel IOMMU, which VFIO in the guest needs. append: more kernel parameters.
    qemu: more arguments of QEMU. posted: a write to a register returns before the model has seen it. On a bus that
    takes a microsecond, here until the model's process gets a CPU, and some drivers count on the former.
    counting: a nanosecond of the guest's time is an instruction, so that what stays inside costs the same in each
    run, whatever this machine does besides. One emulated processor; slow with devices.
    """

    devices: Sequence[Path] = ()
    memory: int = 1024
    cpus: int = 1
    iommu: bool = False
    append: str = ""
    qemu: Sequence[str] = field(default=())
    posted: bool = True
    counting: bool = False


def address(index: int) -> str:
    """Return where the guest finds device `index`, as lspci writes it."""
    return f"0000:00:{FIRST_SLOT + index:02x}.0"


def environment(root: Path) -> dict[str, str]:
    return {**os.environ, "QEMU_MODULE_DIR": str(root / "usr/lib/x86_64-linux-gnu/qemu")}


def emulator(root: Path) -> list[str]:
    """Return how QEMU of the folder is started, without any option of the machine."""
    return [
        *program(root, "usr/bin/qemu-system-x86_64"),
        *("-L", str(root / "usr/share/qemu"), "-L", str(root / "usr/share/seabios")),
    ]


def command(
    machine: Machine,
    root: Path,
    kernel: Path,
    *,
    accelerator: str,
    sockets: Mapping[str, Path],
    shares: Mapping[str, tuple[Path, bool]],
    parameters: Sequence[str],
    terminal: bool,
) -> list[str]:
    """Return the command.

    sockets: `root` of virtiofsd, `agent`, and the file `console`.
    shares: by 9p tag, the folder and whether the guest may write there.
    """
    cpu = "max"
    counting: tuple[str, ...] = ()
    if machine.counting:
        accelerator = "tcg,thread=single,tb-size=512"
        cpu = "max,-rdrand,-rdseed"
        counting = (
            "-icount",
            "shift=0,sleep=off",
            "-rtc",
            "base=2026-01-01,clock=vm",
            "-seed",
            "1",
        )
    elif accelerator == "tcg":
        accelerator = "tcg,thread=multi,tb-size=512"
        # Translated, a string instruction moves byte by byte: copying takes half as long in words.
        cpu = "max,-erms,-fsrm,-fsrs,-fzrm,-fsrc"
    line = [
        *("root=root", "rootfstype=virtiofs", "ro", "init=/init", "console=ttyS0", "loglevel=7"),
        # The kernel counts ticks in its first milliseconds, which a busy host does not deliver in time, and panics.
        *("panic=-1", "random.trust_cpu=on", "no_timer_check"),
        # Nor does a guest that a busy host leaves without a processor for half a minute hang.
        *("watchdog_thresh=60", "rcupdate.rcu_cpu_stall_timeout=300"),
        *(("intel_iommu=on", "iommu=pt") if machine.iommu else ()),
        # Without an IOMMU too a driver of ours gets its function. Kernels without our patches do not know it.
        "usrdrv.unsafe_dma=1",
        *(("norandmaps",) if machine.counting else ()),
        # A page that virtiofsd fills behind TCG's back, and that held code before, would run that code. Written to
        # by the guest when it gets it, it is translated anew. Debian's kernels do so by themselves.
        *(("init_on_alloc=1",) if accelerator.startswith("tcg") else ()),
        *parameters,
        machine.append,
    ]
    console = f"{'stdio,mux=on,signal=off' if terminal else 'null'},id=console,logfile={_value(sockets['console'])}"
    return [
        *emulator(root),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-M", "q35,kernel-irqchip=split" if machine.iommu else "q35"),
        *("-accel", accelerator, "-cpu", cpu, "-smp", str(machine.cpus)),
        *counting,
        *("-m", str(machine.memory), "-numa", "node,memdev=memory"),
        *("-object", f"memory-backend-memfd,id=memory,size={machine.memory}M,share=on"),
        *("-kernel", str(kernel), "-append", " ".join(line).strip()),
        *("-chardev", console, "-serial", "chardev:console"),
        *("-chardev", f"socket,id=agent,path={_value(sockets['agent'])},server=on,wait=off"),
        *("-serial", "chardev:agent"),
        *("-chardev", f"socket,id=root,path={_value(sockets['root'])}"),
        *("-device", "vhost-user-fs-pci,chardev=root,tag=root"),
        *(argument for tag, share in shares.items() for argument in _share(tag, *share)),
        # In front of every device that it translates for.
        *(("-device", "intel-iommu,intremap=on,caching-mode=on") if machine.iommu else ()),
        *machine.qemu,
        *(
            argument
            for i, path in enumerate(machine.devices)
            for argument in _device(i, path, machine.posted)
        ),
    ]


def _value(path: Path) -> str:
    """A path inside an option of QEMU, where a comma ends the value."""
    return str(path).replace(",", ",,")


def _share(tag: str, folder: Path, writable: bool) -> list[str]:
    readonly = "off" if writable else "on"
    return [
        "-virtfs",
        f"local,path={_value(folder)},mount_tag={tag},security_model=none,readonly={readonly},multidevs=remap",
    ]


def _device(index: int, path: Path, posted: bool) -> list[str]:
    device = {
        "driver": "vfio-user-pci",
        "id": f"device{index}",
        "bus": "pcie.0",
        "addr": f"{FIRST_SLOT + index:x}.0",
        "socket": {"type": "unix", "path": str(path)},
        "x-no-posted-writes": not posted,
    }
    return ["-device", json.dumps(device)]
