# SPDX-License-Identifier: MIT
"""The system calls of usrdrv-patch in a guest with our kernel: their self-tests, real devices, deaths, unplugging.

    slot 10, 11   cmd680 models: what a driver of ours drives; slow on request
    slot 12, 16   QEMU's edu: interrupts and DMA on request; on one interrupt line
    slot 17       a bridge with two more, which share an IOMMU group

Without an IOMMU, and with one that translates where that makes a difference; make test-all has all of it with both.
USRDRV_LAB_KERNEL=debug: on the kernel that checks itself.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.files import GUEST
from tests.lab.helpers.held import delivered_to_nobody
from tests.lab.helpers.kernel_logs import says
from tests.lab.helpers.kmod import DEBUG, KERNEL, SLOWER, leaks, quiet
from tests.waiting import enough, until
from usrdrv.lab import kernel, toolchain
from usrdrv.lab.guest import Guest, Result
from usrdrv.lab.models import Model

Boot = Callable[..., Guest]

DISK, SPARE = "0000:00:10.0", "0000:00:11.0"
EDU, EDU_BESIDE = "0000:00:12.0", "0000:00:16.0"
GROUPED, NEIGHBOUR = "0000:01:01.0", "0000:01:02.0"

pytestmark = pytest.mark.timeout(600 * SLOWER)

USER_TAINT = 1 << 6
"""TAINT_USER, Documentation/admin-guide/tainted-kernels.rst."""

FEW = 512
"""Mappings that a kernel may have ready: two slabs for each CPU and a half-full one."""

ALIKE = ("registers", "file_intx", "file_blocks", "eventfds", "msi", "shared_line", "reset")
"""Scenarios to which an IOMMU makes no difference."""

BOTH = pytest.mark.parametrize("guest", ["bare", "iommu"], indirect=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Model]]:
    image = tmp_path_factory.mktemp("usrdrv") / "disk.img"
    image.write_bytes(b"\xee" * (16 << 20))
    with (
        Model("cmd680", "--image", str(image)) as disk,
        Model("cmd680", "--ram", "1M") as spare,
    ):
        yield [disk, spare]


@pytest.fixture(scope="module", params=["bare", pytest.param("iommu", marks=pytest.mark.rare)])
def guest(
    request: pytest.FixtureRequest, models: list[Model], guest_factory: Boot
) -> Iterator[Guest]:
    iommu = request.param == "iommu"
    extra = [
        word
        for slot in (0x12, 0x16)
        for word in ("-device", f"edu,dma_mask=0xffffffff,bus=pcie.0,addr={slot:x}.0")
    ]
    extra += ["-device", "pci-bridge,id=behind,chassis_nr=1,bus=pcie.0,addr=17.0"]
    for slot in (1, 2):
        extra += ["-device", f"edu,dma_mask=0xffffffff,bus=behind,addr={slot}.0"]
    guest = guest_factory(
        [model.socket for model in models],
        kernel=KERNEL,
        timeout=120 * SLOWER,
        memory=2048 if DEBUG else 1024,
        iommu=iommu,
        # What the lab has as a rule leaves addresses as they are.
        append="iommu=nopt" if iommu else "",
        extra=extra,
        cpus=2,
    )
    for name in ("scenario.py", "usr_pci.py", "usr_pci_edu.py", "usr_pci_faults.py"):
        shutil.copy(GUEST / name, guest.share)
    shutil.copytree(kernel.build(KERNEL) / "selftests", guest.share / "selftests")
    quiet(guest)
    for address in (DISK, SPARE):
        guest.run(f"echo {address} >/sys/bus/pci/devices/{address}/driver/unbind", check=True)
    yield guest
    if DEBUG:
        assert leaks(guest, "usrdrv_", "usr_pci") == ""
    guest.close()


def good(result: Result) -> Result:
    assert result.code == 0, f"{result.out}\n{result.err}"
    return result


EACH_DEVICE = pytest.mark.parametrize("device", [DISK, EDU])


@EACH_DEVICE
@pytest.mark.parametrize("test", ["claim_test", "irq_test"])
def test_kselftests(guest: Guest, test: str, device: str) -> None:
    result = good(guest.run(f"USRDRV_DEVICE={device} /share/selftests/{test}", 300 * SLOWER))
    totals = re.search(r"# Totals: pass:(\d+) fail:0 xfail:0 xpass:0 skip:(\d+)", result.out)
    assert totals and int(totals[1]) > 5 and int(totals[2]) <= 1, result.out


@BOTH
@EACH_DEVICE
def test_kselftest_of_dma(guest: Guest, device: str) -> None:
    test_kselftests(guest, "dma_test", device)


@pytest.mark.parametrize("scenario", ALIKE)
def test_device(guest: Guest, scenario: str) -> None:
    good(guest.run(f"python3 /share/usr_pci_edu.py {scenario} {EDU} {EDU_BESIDE}", 120 * SLOWER))


@BOTH
@pytest.mark.parametrize("scenario", ["consistent", "streaming"])
def test_memory_of_a_device(guest: Guest, scenario: str) -> None:
    test_device(guest, scenario)


@pytest.fixture
def claim_user(guest: Guest, tmp_path: Path) -> Iterator[None]:
    """Its module is loaded."""
    shutil.copy(GUEST / "claim_user.c", tmp_path)
    (tmp_path / "Makefile").write_text("obj-m := claim_user.o\n")
    shutil.copy(toolchain.build_module(tmp_path, KERNEL), guest.share)
    guest.run("insmod /share/claim_user.ko", check=True)
    yield
    guest.run("rmmod claim_user", check=True)


@pytest.mark.usefixtures("claim_user")
def test_a_user_in_the_kernel(guest: Guest) -> None:
    for scenario in ("user_in_the_kernel", "user_of_msi", "ended_by_the_kernel"):
        command = f"python3 /share/usr_pci_edu.py {scenario} {EDU} {EDU_BESIDE}"
        good(guest.run(command, 120 * SLOWER))


@pytest.mark.usefixtures("claim_user")
@pytest.mark.parametrize("error", ["recovered", "lost"])
def test_a_claim_does_not_outlive_an_error_on_the_bus(guest: Guest, error: str) -> None:
    good(guest.run(f"python3 /share/usr_pci_faults.py bus {error} {EDU}", 120 * SLOWER))


@pytest.mark.usefixtures("claim_user")
@pytest.mark.parametrize("how", ["reset", "unharmed"])
def test_an_error_on_the_bus_and_the_claim_that_follows(guest: Guest, how: str) -> None:
    good(guest.run(f"python3 /share/usr_pci_faults.py next_claim {how} {EDU}", 120 * SLOWER))


@pytest.mark.usefixtures("claim_user")
def test_a_claim_does_not_outlive_the_sleep_of_the_system(guest: Guest) -> None:
    place = guest.console.position()
    good(guest.run(f"python3 /share/usr_pci_faults.py sleep {EDU} {EDU_BESIDE}", 120 * SLOWER))
    says(guest, "the claim of usrdrv ends: the system sleeps", place)


UNSAFE_DMA = "/sys/module/usrdrv/parameters/unsafe_dma"


@pytest.fixture
def safe(guest: Guest) -> Iterator[None]:
    """Only what is confined can be claimed."""
    guest.run(f"echo 0 >{UNSAFE_DMA}", check=True)
    yield
    guest.run(f"echo 1 >{UNSAFE_DMA}", check=True)


def claim_error(guest: Guest, address: str) -> str:
    """The error of a claim; "" if it can be made."""
    claim = "import sys; sys.path.insert(0, '/share'); from usr_pci import *; "
    return good(
        guest.run(["python3", "-c", f"{claim}print(error_of(Claim, '{address}'))"])
    ).out.strip()


def user_taint(guest: Guest) -> bool:
    return bool(int(good(guest.run("cat /proc/sys/kernel/tainted")).out) & USER_TAINT)


@BOTH
def test_what_no_iommu_confines_is_for_the_administrator_to_allow(
    guest: Guest, request: pytest.FixtureRequest
) -> None:
    bare = request.node.callspec.params["guest"] == "bare"
    guest.run(f"echo 0 >{UNSAFE_DMA}", check=True)
    try:
        refused = claim_error(guest, SPARE)
        told = guest.run(f"usrdrv identify {SPARE}", 60 * SLOWER)
    finally:
        guest.run(f"echo 1 >{UNSAFE_DMA}", check=True)
    assert refused == ("EACCES" if bare else "")
    if bare:
        assert told.code and UNSAFE_DMA in told.err and len(told.err.splitlines()) == 1, told.err
    else:
        good(told)
    assert claim_error(guest, SPARE) == ""
    assert user_taint(guest) == bare


@pytest.mark.parametrize("guest", ["iommu"], indirect=True)
@pytest.mark.usefixtures("safe")
def test_a_function_is_not_confined_that_shares_its_group(guest: Guest) -> None:
    """A neighbour reaches what is mapped for it. The bridge, which is in the group as well, does not count."""
    groups = {
        good(guest.run(f"basename $(readlink /sys/bus/pci/devices/{address}/iommu_group)")).out
        for address in (GROUPED, NEIGHBOUR, "0000:00:17.0")
    }
    assert len(groups) == 1
    place = guest.console.position()
    assert claim_error(guest, GROUPED) == "EACCES"
    says(guest, "not confined: its IOMMU group has other devices", place)
    guest.run(f"echo 1 >/sys/bus/pci/devices/{NEIGHBOUR}/remove", check=True)
    try:
        assert claim_error(guest, GROUPED) == ""
        assert not user_taint(guest)
    finally:
        guest.run("echo 1 >/sys/bus/pci/rescan", check=True)


def test_the_dma_mask_is_as_before(guest: Guest) -> None:
    """The next driver may rely on the default."""
    masks = f"cd /sys/bus/pci/devices/{SPARE}; cat dma_mask_bits consistent_dma_mask_bits"
    before = good(guest.run(masks)).out
    look = "import subprocess, sys; sys.path.insert(0, '/share'); from usr_pci import Claim; "
    look += f"claim = Claim('{SPARE}', mask=2**64 - 1); print(subprocess.getoutput('{masks}'))"
    assert good(guest.run(["python3", "-c", look])).out.split() == ["64", "64"]
    assert good(guest.run(masks)).out == before


@pytest.mark.parametrize("guest", ["iommu"], indirect=True)
@pytest.mark.kernel_log(allow=[r"DMAR: "])
def test_direction_is_enforced_by_an_iommu(guest: Guest) -> None:
    place = guest.console.position()
    good(guest.run(f"python3 /share/usr_pci_edu.py direction {EDU} {EDU_BESIDE}", 120 * SLOWER))
    says(guest, rf"DMA Write.*Request device \[{EDU[5:]}\]", place)


def test_claim_and_kernel_drivers(guest: Guest) -> None:
    """Not while a driver has it, and no driver while we have it; lspci shows who."""
    sysfs = f"/sys/bus/pci/devices/{SPARE}"
    start = "import sys, time\nsys.path.insert(0, '/share')\nfrom usr_pci import *\n"
    (guest.share / "claim.py").write_text(f"{start}print(error_of(Claim, '{SPARE}'))\n")
    hold = f"claim = Claim('{SPARE}')\nprint('held', flush=True)\ntime.sleep(1000)\n"
    (guest.share / "hold.py").write_text(start + hold)
    guest.run(f"echo {SPARE} >/sys/bus/pci/drivers/pata_sil680/bind", 60, check=True)
    assert good(guest.run("python3 /share/claim.py")).out.strip() == "EBUSY"
    guest.run(f"echo vfio-pci >{sysfs}/driver_override", check=True)
    guest.run(f"echo {SPARE} >{sysfs}/driver/unbind", check=True)
    assert good(guest.run("python3 /share/claim.py")).out.strip() == "EBUSY", "kept for vfio-pci"
    guest.run(f"echo >{sysfs}/driver_override", check=True)
    holder = guest.start("python3 /share/hold.py")
    until(lambda: "held" in holder.out, "a claim")
    assert "Kernel driver in use: usrdrv" in guest.run(f"lspci -k -s {SPARE}").out
    for driver in ("pata_sil680", "usrdrv"):
        assert guest.run(f"echo {SPARE} >/sys/bus/pci/drivers/{driver}/bind").code
    guest.run(f"echo {SPARE} >/sys/bus/pci/drivers_probe")
    assert "usrdrv" in guest.run(f"readlink {sysfs}/driver").out
    assert good(guest.run("python3 /share/claim.py")).out.strip() == "EBUSY"
    holder.signal(signal.SIGKILL)
    holder.wait()
    assert guest.run(f"test -e {sysfs}/driver").code
    assert good(guest.run(f"cat {sysfs}/driver_override")).out.strip() in ("", "(null)")
    guest.run(f"echo usrdrv >{sysfs}/driver_override; echo {SPARE} >/sys/bus/pci/drivers_probe")
    assert guest.run(f"test -e {sysfs}/driver").code, "nobody has claimed it"
    assert good(guest.run("python3 /share/claim.py")).out.strip() == ""
    assert good(guest.run(f"cat {sysfs}/driver_override")).out.strip() == "usrdrv"
    guest.run(f"echo >{sysfs}/driver_override", check=True)


@pytest.mark.parametrize(
    ("scenario", "how"),
    [
        *((scenario, "unplug") for scenario in ("readers", "mappings", "load")),
        pytest.param("readers", "unbind", marks=pytest.mark.rare),
        pytest.param("mappings", "unbind", marks=pytest.mark.rare),
        ("load", "unbind"),
    ],
)
def test_the_function_goes(guest: Guest, scenario: str, how: str) -> None:
    """Removed in sysfs, or unbound, with somebody in every call; then it can be had again."""
    command = f"python3 /share/usr_pci_faults.py {scenario} {how} {EDU}"
    good(guest.run(command, 120 * SLOWER))
    few_mappings(guest)
    good(guest.run(f"python3 /share/usr_pci_edu.py registers {EDU} {EDU_BESIDE}"))


def few_mappings(guest: Guest) -> None:
    """Wait until the kernel has no more of them than those that CPUs keep ready, which count as well."""
    cache = "/sys/kernel/slab/usrdrv_mapping"

    def slabs() -> int:
        return int(good(guest.run(f"echo 1 >{cache}/shrink; cat {cache}/objects")).out.split()[0])

    until(lambda: slabs() < FEW, lambda: f"the end of {slabs()} mappings")


def test_threads_against_close_and_signals(guest: Guest) -> None:

    def race() -> list[int]:
        """Claims that were had, and calls that worked."""
        result = good(guest.run(f"USRDRV_DEVICE={EDU} /share/selftests/race 5", 120 * SLOWER))
        words = result.out.split()
        found = dict(zip(words[::2], map(int, words[1::2]), strict=True))
        return [found["claims"], found["worked"]]

    enough(race, [5 // SLOWER, 1000 // SLOWER], "claims, calls that worked", 200 * SLOWER)


def test_mmap_against_unbind(guest: Guest) -> None:
    """What mmap() returns while the function goes reaches no memory either."""
    result = good(guest.run(f"USRDRV_DEVICE={EDU} /share/selftests/revoke 20", 300 * SLOWER))
    assert re.fullmatch(r"rounds 20 made [1-9]\d* reached 0\n", result.out), result.out


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.rare)])
def test_fuzz(guest: Guest, seed: int) -> None:
    seconds = int(os.environ.get("USRDRV_FUZZ_SECONDS", "10"))
    command = f"USRDRV_DEVICE={EDU} /share/selftests/fuzz {seconds} {seed}"

    def fuzz() -> list[int]:
        """Calls that worked, of each kind; all calls. edu can be reset nowhere (1), but can be opened (12)."""
        said = good(guest.run(command, seconds + 120 * SLOWER)).out
        counts = [list(map(int, re.findall(r"\d+", line)[1:])) for line in said.splitlines()[1:]]
        assert len(counts) == 13
        worked = [done for kind, (done, _) in enumerate(counts) if kind not in (1, 9)]
        return [*worked, sum(tried for _, tried in counts)]

    enough(fuzz, [0] * 11 + [5000 // SLOWER], "calls of each kind", 200 * SLOWER)


@pytest.mark.kernel_log(
    allow=[
        r"kmemleak: Cannot allocate",
        r"DMA-API: cacheline tracking ENOMEM, dma-debug disabled",
    ]
)
def test_out_of_memory(guest: Guest) -> None:
    """Each allocation of each call fails once: an error, and nothing is lost."""
    good(guest.run(f"python3 /share/usr_pci_faults.py failslab - {EDU}", 300 * SLOWER))
    few_mappings(guest)


READ = f"""
import os, sys
os.environ["USRDRV_PCI"] = "usrdrv"
from usrdrv.device import open_device
from usrdrv.drivers import open_driver
device = open_device("{DISK}")
controller = open_driver(device)
print("reading", flush=True)
controller.drives[0].block.read_into(bytearray(1 << 20), 0)
print("read", flush=True)
"""


def test_killed_in_a_transfer(guest: Guest, models: list[Model]) -> None:
    """The drive is about to deliver; the process dies; what its memory becomes keeps its contents.

    Then the function can be had again.
    """
    (guest.share / "read_slowly.py").write_text(READ)

    def kill(asked: Callable[[], None]) -> None:
        job = guest.start(["python3", "/share/read_slowly.py"])
        asked()
        job.signal(signal.SIGKILL)
        job.wait()
        assert "read\n" not in job.out

    delivered_to_nobody(guest, models[0].control, kill)
    assert "read\n" in good(guest.run("python3 /share/read_slowly.py", 60 * SLOWER)).out


def test_kunit(guest: Guest) -> None:
    guest.run("modprobe usrdrv_test", check=True)
    results = good(guest.run("cat /sys/kernel/debug/kunit/usrdrv/results")).out
    assert results.count("\n    ok ") >= 7 and "not ok" not in results, results
    guest.run("rmmod usrdrv_test", check=True)
