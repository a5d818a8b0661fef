# SPDX-License-Identifier: MIT
"""The vfio-user server judged by QEMU's client and, behind it, VFIO of Debian's kernel: interrupts of all kinds, a
BAR of 64 bits, the configuration space of PCI Express."""

import json
from collections.abc import Callable, Iterator

import pytest

from tests.irq_model import LAST, LEVEL, MESSAGE, irq_model, serving
from usrdrv.lab.guest import Guest
from usrdrv.lab.qemu import FIRST_SLOT

Boot = Callable[..., Guest]

ADDRESS = f"0000:00:{FIRST_SLOT:x}.0"
SCRIPT = f"""
import json
import select
from usrdrv.device import open_device

def each_alone(device, count, kind):
    irqs = device.irqs(count, kind)
    rows = []
    for irq in irqs:
        device.write32(0, {LEVEL} if kind == "intx" else {MESSAGE}, 1 if kind == "intx" else irq.number)
        assert irq.wait(120), (kind, irq.number)
        device.write32(0, {LEVEL}, 0)
        device.irq_unmask()
        rows.append([irq.number, [other.number for other in irqs if other.wait(0)]])
    return rows

with open_device("{ADDRESS}") as device:
    device.config_write(4, 2, 6)
    device.write64(0, {LAST}, 0x0123456789abcdef)
    found = {{
        "vectors": device.vectors,
        "bars": [[bar.size, bar.wide, bar.prefetchable] for bar in device.bars],
        "wide": device.read64(0, {LAST}),
        "extended": device.config_read(0x100, 4),
    }}
    kinds = ((20, "msix"), (4, "msi"), (1, "intx"), (3, "msix"), (20, "msix"))
    found["rows"] = [each_alone(device, *kind) for kind in kinds]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory, guest_factory: Boot) -> Iterator[Guest]:
    path = tmp_path_factory.mktemp("vectors") / "s"
    with irq_model() as model, serving(model, path):
        guest = guest_factory([path], iommu=True)
        yield guest
        guest.close()


def test_a_model_with_vectors_in_a_guest(guest: Guest) -> None:
    (guest.share / "vectors.py").write_text(SCRIPT)
    found = json.loads(guest.run("python3 /share/vectors.py", 300, check=True).out)
    assert found["vectors"] == {"msix": 20, "msi": 4, "intx": 1}
    assert found["bars"][:3] == [[0x20000, True, True], [0, False, False], [0x10000, False, False]]
    assert (found["wide"], found["extended"]) == (0x0123456789ABCDEF, 0x00010003)
    alone = [[[vector, []] for vector in range(count)] for count in (20, 4, 1, 3, 20)]
    assert found["rows"] == alone
