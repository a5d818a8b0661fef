# SPDX-License-Identifier: MIT
"""Zero copy: a disk of usrloop whose pages the device itself reaches, on our kernel.

    client -> /dev/usrblk0 -> usrloop.ko: maps the pages -> driver process: their addresses -> cmd680 model, slot 10

The guest has an IOMMU that translates addresses. make test-all runs all tests in a guest without one, too.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.helpers import disks
from tests.lab.helpers.disks import ADDRESS, driver, end_all, lives_through_deaths, make_image
from tests.lab.helpers.held import delivered_to_nobody
from tests.lab.helpers.kmod import DEBUG, KERNEL, SLOWER, program, quiet, wait
from tests.lab.helpers.loads import gets_on, in_flight
from tests.model_faults import broken, left
from tests.waiting import enough
from usrdrv.devices import control
from usrdrv.lab.guest import Guest, Result
from usrdrv.lab.models import Model

Boot = Callable[..., Guest]

SCRIPT = "python3 /src/tests/lab/guest/zero_copy.py"

pytestmark = pytest.mark.timeout(900 * SLOWER)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_image(tmp_path_factory.mktemp("zero-copy"))


@pytest.fixture(scope="module")
def model(image: Path) -> Iterator[Model]:
    with Model("cmd680", "--option", "strict=1", "--image", str(image)) as model:
        yield model


@pytest.fixture(scope="module", params=[pytest.param("bare", marks=pytest.mark.rare), "iommu"])
def guest(request: pytest.FixtureRequest, model: Model, guest_factory: Boot) -> Iterator[Guest]:
    iommu = request.param == "iommu"
    append = "init_on_free=1" + (" iommu=nopt" if iommu else "")
    guest = guest_factory(
        [model.socket],
        kernel=KERNEL,
        kmod=True,
        iommu=iommu,
        append=append,
        cpus=2,
        memory=2048 if DEBUG else 1024,
        timeout=120 * SLOWER,
    )
    quiet(guest)
    guest.run("modprobe usrloop", check=True)
    yield guest
    guest.run("rmmod usrloop", 60 * SLOWER, check=True)
    guest.close()


@pytest.fixture
def translated(request: pytest.FixtureRequest) -> str:
    return "iommu" if "iommu" in request.node.name else "bare"


class Served(disks.Served):
    """With zero copy, unless that is declined."""

    def __init__(self, guest: Guest, *arguments: str) -> None:
        super().__init__(guest, *arguments)
        assert self.info["export"] == "usrloop"

    @property
    def pid(self) -> int:
        """Of the driver's process that there is now."""
        return int(self.guest.run("pgrep -x usrdrv-driver", check=True).out)

    def limit(self, name: str) -> int:
        file = f"/sys/block/{Path(self.device).name}/queue/{name}"
        return int(self.guest.run(f"cat {file}", check=True).out)


@pytest.fixture(autouse=True)
def alone(guest: Guest) -> Iterator[None]:
    yield
    end_all(guest)


@pytest.fixture
def served(guest: Guest) -> Iterator[Served]:
    """A disk, whose driver's end leaves nothing."""
    served = Served(guest)
    assert served.limit("max_segments") == 256, "it is not zero copy"
    yield served
    assert served.end() == 0, served.job.err
    nothing_is_left(guest)


def nothing_is_left(guest: Guest) -> None:
    assert guest.run("pgrep -xl usrdrv-driver; ls -d /dev/usrblk* /sys/block/usrblk*").out == ""
    assert driver(guest) == "pata_sil680"


def good(result: Result) -> Result:
    assert result.code == 0, f"{result.out}\n{result.err}"
    return result


def test_no_byte_is_copied(guest: Guest, served: Served, translated: str) -> None:
    command = f"{SCRIPT} pages {served.device} {served.info['driver_pid']} {translated}"
    print(good(guest.run(command, 60 * SLOWER)).out)


def test_pieces(guest: Guest, served: Served, image: Path) -> None:
    """Requests of hundreds of pieces arrive on the drive as they were written."""
    done = json.loads(good(guest.run(f"{SCRIPT} pieces {served.device}", 120 * SLOWER)).out)
    assert done["bytes"] > 1 << 20
    assert hashlib.sha256(image.read_bytes()[: done["bytes"]]).hexdigest() == done["sha256"]


@pytest.mark.kernel_log(allow=[r"I/O error, dev usrblk0, sector 65544 ", r"Buffer I/O error"])
def test_what_does_not_end_well_is_the_driver_s_to_see_to(
    guest: Guest, served: Served, model: Model
) -> None:
    """One request at a time, most of which end without it."""
    faults: list[dict[str, Any]] = [
        {"kind": "crc", "count": 2},
        {"kind": "spurious-irq", "count": 20},
        {"kind": "lost-irq", "count": 2},
        {"kind": "dma-abort", "count": 1},
    ]
    load = (
        f"fio --name=v --filename={served.device} --rw=randwrite --bsrange=4k-128k --direct=1 --size=8M "
        "--ioengine=psync --verify=crc32c --verify_fatal=1 --output-format=json"
    )
    with broken(model.control, *faults):
        (job,) = json.loads(good(guest.run(load, 240 * SLOWER)).out)["jobs"]
        unmet = left(model.control)
    assert job["error"] == 0
    assert job["write"]["io_bytes"] == job["read"]["io_bytes"] == 8 << 20
    assert not unmet, "faults that nobody met"
    read = f"dd if={served.device} of=/dev/null bs=4k skip=%d count=1 iflag=direct"
    with broken(model.control, {"kind": "bad-sector", "lba": 8193 * 8 + 3, "on": "read"}):
        for place, fails in ((8192, False), (8193, True), (8194, False)):
            assert (guest.run(read % place, 60 * SLOWER).code != 0) == fails, place


def test_zeroes_and_trim(guest: Guest, served: Served, model: Model, image: Path) -> None:
    guest.run(
        f"dd if=/dev/urandom of={served.device} bs=1M seek=16 count=4 oflag=direct conv=fsync",
        60,
        check=True,
    )
    assert image.read_bytes()[16 << 20 :][: 4 << 20].count(0) < 1 << 20
    before = control.call(model.control, {"op": "counters"})
    guest.run(f"blkdiscard -z -o 16M -l 2M {served.device}", 60 * SLOWER, check=True)
    guest.run(
        f"blkdiscard -o 18M -l 2M {served.device} && sync {served.device}", 60 * SLOWER, check=True
    )
    after = control.call(model.control, {"op": "counters"})
    assert image.read_bytes()[16 << 20 :][: 4 << 20].count(0) == 4 << 20
    assert trims(after) > trims(before)


def trims(counters: Any) -> int:
    """The number under that name, wherever it is."""
    if isinstance(counters, dict):
        return int(counters.get("trims", 0)) + sum(map(trims, counters.values()))
    return sum(map(trims, counters)) if isinstance(counters, list) else 0


def test_a_file_system_lives_through_deaths_of_its_driver(guest: Guest, served: Served) -> None:
    guest.run(f"mkfs.ext4 -q {served.device}", 60 * SLOWER, check=True)
    guest.run(f"mount {served.device} /mnt", 60 * SLOWER, check=True)
    lives_through_deaths(served, "/mnt")
    guest.run("umount /mnt", 60 * SLOWER, check=True)
    good(guest.run(f"fsck.ext4 -fn {served.device}", 60 * SLOWER))


@pytest.mark.parametrize("who", [pytest.param("alone", marks=pytest.mark.rare), "with_another"])
@pytest.mark.kernel_log(allow=[r"I/O error, dev usrblk0"])
def test_killed_in_a_transfer(guest: Guest, model: Model, who: str) -> None:
    """The driver dies as the drive is about to deliver: the request fails, its pages' next use keeps its contents.

    with_another: a process that has the claim open as well, which therefore does not end by itself.
    """

    served = Served(guest, "--restart-time", "0")
    good(guest.run(f"{SCRIPT} held {served.device}", 60 * SLOWER))  # and looks for partitions
    keeper = guest.start(f"{SCRIPT} keep_claim {served.pid}" if who != "alone" else "true")
    wait(lambda: "kept" in keeper.out or keeper.done.is_set(), 60, "a copy of the claim")

    def kill(asked: Callable[[], None]) -> None:
        job = guest.start(f"{SCRIPT} held {served.device}")
        asked()
        served.job.signal(signal.SIGSTOP)  # nobody gives the function to another driver
        served.signal_driver("KILL")
        done = json.loads(good(job.wait(120 * SLOWER)).out.splitlines()[-1])
        assert done["errno"] == "EIO"

    delivered_to_nobody(guest, model.control, kill)
    good(keeper.wait(120 * SLOWER))
    served.job.signal(signal.SIGCONT)
    assert served.job.wait(60 * SLOWER).code == 1
    nothing_is_left(guest)


def test_killed_with_its_claim_kept_it_is_started_again(guest: Guest, served: Served) -> None:
    """A request is under way, so the claim is ended for good: it can be had by the next driver."""
    keeper = guest.start(f"{SCRIPT} keep_claim {served.pid}")
    wait(lambda: "kept" in keeper.out, 60, lambda: f"a copy of the claim: {keeper.err}")
    guest.run(f"kill -STOP {served.pid}", check=True)
    job = guest.start(f"{SCRIPT} held {served.device}")
    wait(lambda: in_flight(guest, served.device) == 1, 60, "a request under way")
    served.signal_driver("KILL")
    done = json.loads(good(job.wait(60 * SLOWER)).out.splitlines()[-1])
    assert done["errno"] == "", "it was sent again"
    assert good(keeper.wait(60 * SLOWER)).out.split() == ["kept", "ended"]
    served.restarted(1)


def test_taken_from_a_driver_that_lives(guest: Guest, served: Served) -> None:
    """DETACH with a request under way: the next driver does it."""
    detach = "from usrdrv.loop import *; Control().detach(lib.USRLOOP_BLOCK, 0)"
    guest.run(f"kill -STOP {served.pid}", check=True)
    stopped = served.pid
    job = guest.start(f"{SCRIPT} held {served.device}")
    wait(lambda: in_flight(guest, served.device) == 1, 60, "a request under way")
    guest.run(["python3", "-c", detach], check=True)
    guest.run(f"kill -CONT {stopped}", check=True)
    done = json.loads(good(job.wait(60 * SLOWER)).out.splitlines()[-1])
    assert done["errno"] == "", done
    served.restarted(1)
    assert served.pid != stopped


@pytest.mark.kernel_log(
    allow=[
        r"I/O error, dev usrblk0",
        r"Buffer I/O error on dev usrblk0",
        # QEMU has its line raised until somebody touches a BAR; pata_sil680 looks in configuration space.
        *([r"irq \d+: nobody cared", r"Call Trace:", r"Disabling IRQ"] if DEBUG else []),
    ]
)
def test_unplugged_under_load(guest: Guest) -> None:
    """The function goes: errors for who uses the disk, an end for its driver; then it can be had again."""
    served = Served(guest)
    fio = guest.start(
        f"fio --name=r --filename={served.device} --rw=randrw --bs=16k --direct=1 --ioengine=libaio "
        "--iodepth=16 --size=32M --time_based --runtime=1000000"
    )
    gets_on(guest, served.device, fio, sectors=500)
    guest.run(f"echo 1 >/sys/bus/pci/devices/{ADDRESS}/remove", check=True)
    try:
        assert fio.wait(60 * SLOWER).code
        result = served.job.wait(60 * SLOWER)
        # It is told of it, or met it at a register, of which it dies (SIGBUS).
        assert result.code and "its device is gone" in result.err, result.err
        assert "restarted in" not in result.err
    finally:
        guest.run("echo 1 >/sys/bus/pci/rescan", check=True)
    wait(lambda: driver(guest) == "pata_sil680", 30, "pata_sil680")
    nothing_is_left(guest)


@pytest.fixture
def unbound(guest: Guest) -> Iterator[None]:
    """The function is nobody's."""
    guest.run(
        f"echo {ADDRESS} >/sys/bus/pci/devices/{ADDRESS}/driver/unbind", 60 * SLOWER, check=True
    )
    yield
    guest.run(f"echo {ADDRESS} >/sys/bus/pci/drivers/pata_sil680/bind", 60 * SLOWER, check=True)


@pytest.mark.kernel_log(allow=[r"I/O error, dev usrblk\d", r"Buffer I/O error on dev usrblk\d"])
@pytest.mark.parametrize(
    "scenario",
    [
        "table",
        "idle",
        "finish",
        *(f"taken {how}" for how in ("timeout", "detach", "stop", "delete", "claim")),
    ],
)
def test_server(guest: Guest, unbound: None, scenario: str) -> None:
    name, _, how = scenario.partition(" ")
    good(guest.run(f"{SCRIPT} {name} {ADDRESS} {how}", 120 * SLOWER))


def test_the_module_stays_as_long_as_it_is_needed(guest: Guest, served: Served) -> None:
    result = guest.run("rmmod usrloop")
    assert result.code and "in use" in result.err


def test_declined(guest: Guest) -> None:
    served = Served(guest, "--no-zero-copy")
    assert served.limit("max_segments") > 256
    guest.run(
        f"dd if={served.device} of=/dev/null bs=1M count=4 iflag=direct", 60 * SLOWER, check=True
    )
    assert served.end() == 0


@pytest.mark.kernel_log(allow=[r"I/O error, dev usrblk\d", r"Buffer I/O error on dev usrblk\d"])
def test_a_hostile_server_hurts_nobody(guest: Guest, unbound: None) -> None:
    """It has a claim, says of requests that they are done, or not, as it likes, and has its chip say so."""
    shutil.copy(program("usrloop_hostile"), guest.share / "usrloop_hostile")
    command = ["/share/usrloop_hostile", "3", str(60 if DEBUG else 6), "0x10", str(SLOWER)]
    names = ("lives", "claims", "succeeded", "completed", "scribbled", "disk", "ended")

    def life() -> list[int]:
        done = json.loads(good(guest.run(command, 240 * SLOWER)).out)
        assert done["left"] == 0
        return [done[name] for name in names]

    enough(life, [1 if DEBUG else 5] * len(names), f"{names}", 200 * SLOWER)
