# SPDX-License-Identifier: MIT
"""The kernel's driver and ours, in turn on one controller: the same bytes, and who needs less for them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.lab.helpers.referee import Referee, image
from tests.waiting import at_best
from usrdrv.device import open_device
from usrdrv.drivers import open_driver
from usrdrv.lab.models import Model

MIB = 1 << 20
SIZE = 64 * MIB
PART = 8 * MIB
"""Ours writes the first part, the kernel the second."""

COUNT = 200
"""Requests of 4 KiB, one at a time."""

Cost = dict[str, float]
"""Accesses for each request."""


def data_of(seed: int) -> bytes:
    return hashlib.shake_128(seed.to_bytes(4, "little")).digest(PART)


OURS, THEIRS = data_of(1), data_of(2)


@dataclass
class Story:
    """What the drivers saw, and what the kernel's requests cost."""

    whole: str
    """SHA-256 of the disk as the kernel read it, after it wrote."""
    part: str
    """SHA-256 of the first part as the kernel read it."""
    seen: bytes
    """The disk as ours read it afterwards."""
    kernel: dict[str, Cost]
    referee: Referee
    device: str
    """The controller, for ours."""


def cost(counters: Callable[[], dict[str, Any]], requests: Callable[[], object]) -> Cost:
    """Make COUNT requests, each of which must be one command of the drive."""
    before = counters()
    requests()
    after = counters()
    drive = {
        key: after["drives"][0][key] - before["drives"][0][key] for key in ("commands", "bytes")
    }
    assert drive == {"commands": COUNT, "bytes": COUNT * 4096}
    return {
        kind: sum(
            after[f"{where}_{kind}"] - before[f"{where}_{kind}"] for where in ("register", "config")
        )
        / COUNT
        for kind in ("reads", "writes")
    }


def the_kernel(referee: Referee) -> dict[str, Any]:
    disk = referee.disks[0, 0].path
    (referee.guest.share / "theirs").write_bytes(THEIRS)
    digest = "iflag=direct | sha256sum"
    part = referee.run(f"dd if={disk} bs=256k count={PART // 262144} {digest}").out.split()[0]
    write = f"dd if=/share/theirs of={disk} conv=notrunc"
    half = PART // 2
    referee.run(
        f"{write} oflag=direct bs=1M count={half // MIB} seek={PART // MIB} && "
        f"{write} bs=60k iflag=skip_bytes,count_bytes oflag=direct,seek_bytes "
        f"skip={half} count={half} seek={PART + half} && sync {disk}"
    )
    kernel = {
        "read": f"if={disk} of=/dev/null iflag=direct",
        "write": f"if=/share/theirs of={disk} oflag=direct seek={PART // 4096} conv=notrunc",
    }
    costs = {
        name: cost(referee.counters, partial(referee.run, f"dd bs=4k count={COUNT} {options}"))
        for name, options in kernel.items()
    }
    whole = referee.run(f"dd if={disk} bs=1M {digest}").out.split()[0]
    return {"part": part, "whole": whole, "kernel": costs}


def ours_reads(name: str) -> bytes:
    seen = bytearray(SIZE)
    with open_device(name) as device, open_driver(device) as controller:
        for at in range(0, SIZE, MIB):
            controller.drives[0].block.read_into(memoryview(seen)[at : at + MIB], at)
    return bytes(seen)


@pytest.fixture(scope="module")
def story(
    guest_factory: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Story, Path]]:
    path = image(tmp_path_factory.mktemp("bytes"), SIZE)
    with Model("cmd680", f"--image={path}") as model:
        with open_device(model.name) as device, open_driver(device) as controller:
            controller.drives[0].block.write_from(OURS, 0)
            controller.drives[0].block.flush()
        with guest_factory([model.socket]) as guest:
            referee = Referee(guest, [model])
            referee.find_disks()
            kernel = the_kernel(referee)
        seen = ours_reads(model.name)
        yield Story(**kernel, seen=seen, referee=referee, device=model.name), path


def test_the_kernel_reads_what_ours_wrote(story: tuple[Story, Path]) -> None:
    assert story[0].part == hashlib.sha256(OURS).hexdigest()


def test_ours_reads_what_the_kernel_wrote(story: tuple[Story, Path]) -> None:
    assert story[0].seen[PART : 2 * PART] == THEIRS


def test_both_and_the_image_agree_on_every_byte(story: tuple[Story, Path]) -> None:
    seen = story[0].seen
    assert len(seen) == SIZE
    assert hashlib.sha256(seen).hexdigest() == story[0].whole
    assert story[1].read_bytes() == seen


@pytest.mark.parametrize("request_", ["read", "write"])
def test_ours_needs_no_more_accesses(story: tuple[Story, Path], request_: str) -> None:
    """Counted by the model: each is a round trip, or a message, to wherever the device is."""
    kernel = story[0].kernel[request_]
    data = story[0].seen[: COUNT * 4096]

    def ours() -> Cost:
        with open_device(story[0].device) as device, open_driver(device) as controller:
            block = controller.drives[0].block

            def requests() -> None:
                for at in range(0, len(data), 4096):
                    if request_ == "read":
                        block.read_into(bytearray(4096), at)
                    else:
                        block.write_from(data[at : at + 4096], at)

            return cost(story[0].referee.counters, requests)

    # On a busy machine an interrupt may come once more, about nothing.
    at_best(
        ours,
        lambda found: all(1 <= found[kind] <= kernel[kind] for kind in kernel),
        f"as few as the kernel's {kernel}",
    )
