# SPDX-License-Identifier: MIT
"""What the files here share: a guest with a drive, and how the drive gets into its kernel.

The driver uses VFIO on Debian's kernel, and the usrdrv calls on ours, in a guest without an IOMMU. The disk is
/dev/nbd0 or /dev/usrblk0 (fixture `way`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.lab.block.ways import NBD, USRLOOP, Way
from tests.lab.helpers.disks import end_all, make_image
from usrdrv.lab.guest import Guest
from usrdrv.lab.models import Model
from usrdrv.pci import USRDRV, VFIO

Boot = Callable[..., Guest]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    image = make_image(tmp_path_factory.mktemp("block"))
    with Model("cmd680", "--option", "strict=1", "--image", str(image)) as model:
        yield model


@pytest.fixture(scope="module", params=[VFIO, pytest.param(USRDRV, marks=pytest.mark.rare)])
def through(request: pytest.FixtureRequest) -> str:
    """The kernel driver that has the controller, because that is the best way there."""
    return str(request.param)


@pytest.fixture(scope="module")
def guest(  # in this order: the model outlives it
    model: Model, guest_factory: Boot, through: str
) -> Iterator[Guest]:
    kernel = "base" if through == USRDRV else "stock"
    guest = guest_factory([model.socket], kernel=kernel, iommu=through == VFIO, kmod=True)
    yield guest
    guest.close()  # the next one wants the model


@pytest.fixture(autouse=True)
def alone(guest: Guest) -> Iterator[None]:
    yield
    end_all(guest)


@pytest.fixture(
    params=[pytest.param(NBD, marks=pytest.mark.rare), USRLOOP], ids=lambda way: way.export
)
def way(request: pytest.FixtureRequest) -> Way:
    chosen: Way = request.param
    return chosen
