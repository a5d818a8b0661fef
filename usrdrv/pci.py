# SPDX-License-Identifier: MIT
"""PCI functions of this machine, as sysfs shows them (Linux, Documentation/ABI/testing/sysfs-bus-pci).

See docs/design/taking-a-function.md.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from usrdrv import claim, disks, interfaces, modules
from usrdrv.base import errors
from usrdrv.claim import Claim

BUS: Final = Path("/sys/bus/pci")
VFIO: Final = "vfio-pci"
USRDRV: Final = "usrdrv"
"""The driver of usrdrv-patch; what it has was claimed by a process."""
OPTION: Final = {
    VFIO: "CONFIG_VFIO_PCI, module vfio-pci",
    USRDRV: "CONFIG_USRDRV, patches of usrdrv-patch",
}
"""What a kernel that lacks the driver was built without."""
PATIENCE: Final = 10.0
"""Seconds that a driver may take to let a function go or take it."""

# Its standard input ends when we let go or are no more, however that came about: then it gives the
# function back. A shell, so that it owes nothing to our process, and deaf to what ends a session.
# Until its end it has our turn: nobody takes the function for free that will be given back.
_GUARD: Final = """
trap '' HUP INT QUIT TERM
bus=$1 address=$2 driver=$3 probe=$4
cat >/dev/null
echo >"$bus/devices/$address/driver_override"
echo "$address" >"$bus/drivers/$driver/unbind"
[ -z "$probe" ] || echo "$address" >"$bus/drivers_probe"
"""


@dataclass(frozen=True)
class Function:
    """One PCI function; `address` is complete: 0000:03:00.0."""

    address: str
    bus: Path = BUS

    @property
    def path(self) -> Path:
        return self.bus / "devices" / self.address

    @property
    def exists(self) -> bool:
        return self.path.exists()

    @property
    def driver(self) -> str | None:
        """The kernel driver that has it."""
        link = self.path / "driver"
        return link.resolve().name if link.exists() else None

    @property
    def group(self) -> int | None:
        """Its IOMMU group: what can only be given away together. None: there is no IOMMU in front of it."""
        link = self.path / "iommu_group"
        return int(link.resolve().name) if link.exists() else None

    @property
    def neighbours(self) -> list[Function]:
        """The other functions of its group."""
        found = (self.path / "iommu_group/devices").glob("*")
        return [Function(p.name, self.bus) for p in sorted(found) if p.name != self.address]

    @property
    def ids(self) -> tuple[int, int]:
        """PCI vendor and device id."""
        vendor, device = (int((self.path / name).read_text(), 16) for name in ("vendor", "device"))
        return vendor, device

    @property
    def disks(self) -> list[Path]:
        """The folders in sysfs of the kernel's disks on it."""
        # Links are not followed: the disks of other functions are behind them.
        return sorted(
            file.parent
            for file in self.path.resolve().rglob("dev")
            if (file.parent / "subsystem").resolve().name == "block"
            and not (file.parent / "partition").exists()
        )

    def _claim_disks(self, held: ExitStack) -> list[str]:
        """Keep others from using its disks while `held` lasts. Return who uses one already, in words."""
        found = []
        for disk in self.disks:
            try:
                held.callback(os.close, disks.claim(disk))
            except disks.InUseError as error:
                found.append(str(error))
            except OSError as error:
                if error.errno not in disks.ABSENT:
                    raise errors.DeviceError(f"{self.address}: {disk.name}: {error}") from error
        return found

    def _check_free(self, held: ExitStack, force: bool) -> None:
        """DeviceBusyError if the kernel uses the function; while `held` lasts nobody begins to use its disks.

        force: interfaces that are up are no reason.
        """
        try:
            used = self._claim_disks(held)
        except errors.PermissionDeniedError as error:
            raise self._no_right(f"; {error}") from error
        if not force and (up := interfaces.in_use(self.path.resolve())):
            used += up
            used[-1] += "; --force takes it all the same"
        if used:
            raise errors.DeviceBusyError(f"{self.address}: {self.driver} has it: {', '.join(used)}")

    def _no_right(self, why: str = "") -> errors.PermissionDeniedError:
        return errors.PermissionDeniedError(
            f"{self.address}: no right to take it from {self.driver or 'the kernel'} (be root, "
            f"or have root bind it to {VFIO} and give you its /dev/vfio/{self.group}){why}"
        )

    def _write(self, path: Path, text: str) -> None:
        try:
            path.write_text(text)
        except PermissionError as error:
            raise self._no_right() from error
        except OSError as error:
            raise errors.DeviceError(f"{self.address}: {path.name}: {error.strerror}") from error

    def _reserved(self, driver: str) -> bool:
        """Whether `driver` has it, or nobody else can have it."""
        if driver == VFIO:
            return self.driver == VFIO
        return (self.path / "driver_override").read_text().strip() == driver

    @contextmanager
    def bound(self, driver: str = VFIO, force: bool = False) -> Iterator[None]:
        """Keep the function bound to vfio-pci, or free for usrdrv to be claimed.

        Then its driver has it again, also if we are killed. One that is so already is left as it is.
        DeviceBusyError: the kernel uses it. force: also if an interface of it is up; disks are never taken.
        """
        with self._turn() as turn:
            if turn is None or self._reserved(driver):
                yield
                return
            with ExitStack() as held:
                self._check_free(held, force)
                with self._given(driver, held, turn):
                    yield

    @contextmanager
    def _turn(self) -> Iterator[Claim | None]:
        """The right to take it and give it back; None: the process that claims of ours name has it.

        Whoever ends before its guard leaves it to that, until the function is given back, which is waited for.
        """
        deadline = time.monotonic() + PATIENCE
        turn = None
        while turn is None:
            try:
                turn = Claim(f"{self.address} guard")
            except claim.TakenError as taken:
                if taken.by == claim.owner():
                    break
                if taken.by is not None and (taken.by.lives or not taken.by.here):
                    raise claim.TakenError(self.address, taken.by) from None
                if time.monotonic() > deadline:
                    raise errors.DeviceBusyError(
                        f"{self.address}: is still being given back: a process has it open"
                    ) from None
                time.sleep(0.01)
        try:
            yield turn
        finally:
            if turn is not None:
                turn.bequeath()

    @contextmanager
    def _given(self, driver: str, held: ExitStack, turn: Claim) -> Iterator[None]:
        """Take it from its driver, which has it again at the end. `held`: what keeps it free until it is taken."""
        before = self.driver
        if not (self.bus / "drivers" / driver).exists():
            modules.load(driver)
        if not (self.bus / "drivers" / driver).exists():
            raise errors.MissingToolError(f"the kernel has no driver {driver} ({OPTION[driver]})")
        words = [str(self.bus), self.address, driver, before or ""]
        guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "usrdrv-guard", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[turn.fileno()],
            start_new_session=True,
        )
        try:
            self._write(self.path / "driver_override", driver)
            if before is not None:
                self._write(self.path / "driver/unbind", self.address)
            held.close()
            if driver == VFIO:
                self._write(self.bus / "drivers_probe", self.address)
                self._await(driver)
            yield
        finally:
            assert guard.stdin is not None
            guard.stdin.close()
            try:
                guard.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                raise errors.DeviceBusyError(
                    f"{self.address}: {driver} does not let it go: a process has it open"
                ) from None
        if before is not None and self.exists and self.driver != before:
            raise errors.DeviceError(
                f"{self.address}: {before} did not take it back (see the kernel's log)"
            )

    def _await(self, driver: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while self.driver != driver:
            if time.monotonic() > deadline:
                raise errors.DeviceError(
                    f"{self.address}: {driver} did not take it (see the kernel's log)"
                )
            time.sleep(0.01)
