# SPDX-License-Identifier: MIT
"""Checks of usrloop: what udev calls its disks, with the rules that are installed beside the module. Run in a guest
(usrloop_calls.py)."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from scenario import PATIENCE
from usrloop_rig import SIZE, USER, USERS, Ram, check, run, served, wait

from usrdrv.loop import Control, Disk, Server, lib

RULES = Path("/src/loopback-kmod/60-usrloop.rules")
PLACE = Path("/run/udev/rules.d")
UUID = "7a1f8a52-5a5d-4a6e-9b1c-0d5c1f0e2b11"
LABEL = "model_cmd680_image=disk.img"
DISK = Disk(4 * SIZE, max_io=64 << 10, depth=8, label=LABEL)


@contextlib.contextmanager
def udev() -> Iterator[None]:
    """systemd-udevd with Debian's rules and ours."""
    PLACE.mkdir(parents=True, exist_ok=True)
    shutil.copy(RULES, PLACE)
    daemon = subprocess.Popen(["/usr/lib/systemd/systemd-udevd"], stderr=subprocess.DEVNULL)
    try:
        wait(answers, "udevd listens")
        yield
    finally:
        daemon.terminate()
        daemon.wait(PATIENCE)


def answers() -> bool:
    """Not before it hears the kernel's messages."""
    ping = ["udevadm", "control", "--ping", "--timeout=60"]
    return subprocess.run(ping, capture_output=True, check=False).returncode == 0


def settled() -> None:
    run("udevadm", "settle", "--timeout=60")


def leads_to(link: str, device: str) -> bool:
    return os.path.realpath(link) == device


def fields(device: str, names: str) -> list[str]:
    return run("lsblk", "-ndo", names, device).split()


@check
def udev_names_a_disk_by_what_is_on_it() -> None:
    with udev(), served(DISK) as (_, _, device):
        settled()
        assert leads_to(f"/dev/usrdrv/{LABEL}", device)
        assert leads_to(f"/dev/disk/by-id/usrloop-{LABEL}", device)
        run("mkfs.ext4", "-q", "-F", "-L", "backup", "-U", UUID, device)
        # Nobody says so: udev watches who writes.
        wait(lambda: leads_to(f"/dev/disk/by-uuid/{UUID}", device), "a link in by-uuid")
        settled()
        assert leads_to("/dev/disk/by-label/backup", device)
        assert fields(device, "FSTYPE,LABEL,UUID") == ["ext4", "backup", UUID]
        assert run("findfs", f"UUID={UUID}") == device


@check
def udev_names_partitions() -> None:
    table = b"label: gpt\nstart=2048, size=2048, name=spare, uuid=" + UUID.encode() + b"\n"
    with udev(), served(DISK) as (_, _, device):
        settled()
        done = subprocess.run(
            ["sfdisk", "-q", device], input=table, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        wait(
            lambda: leads_to(f"/dev/disk/by-partuuid/{UUID}", f"{device}p1"),
            "a link in by-partuuid",
        )
        settled()
        assert leads_to("/dev/disk/by-partlabel/spare", f"{device}p1")
        assert leads_to(f"/dev/usrdrv/{LABEL}-part1", f"{device}p1")
        assert leads_to(f"/dev/disk/by-id/usrloop-{LABEL}-part1", f"{device}p1")


@contextlib.contextmanager
def users_disk(label: str) -> Iterator[str]:
    device = dataclasses.replace(
        USERS, size=DISK.size, label=label, flags=lib.USRLOOP_OWNER, owner=USER
    )
    with Control() as control:
        number = control.create(device).id
        ram = Ram(Server(control, control.attach()), bytearray(device.size))
        control.start()
        yield f"/dev/usrblk{number}"
        control.delete(force=True)
        ram.join(PATIENCE)
        ram.server.close()


@check
def udev_gives_no_users_disk_a_name_that_others_rely_on() -> None:
    """It has a name by its label, unless root's has that, and none by what it says it has on it."""
    with udev(), users_disk("twice") as theirs:
        settled()
        assert leads_to("/dev/usrdrv/twice", theirs)
        assert os.stat(theirs).st_uid == USER
        run("mkfs.ext4", "-q", "-F", "-L", "root", "-U", UUID, theirs)
        run("udevadm", "trigger", "--settle", "--action=change", theirs)
        said = run("udevadm", "info", "--query=property", theirs)
        assert "ID_FS" not in said, "md, LVM and btrfs go by that"
        for link in (f"by-uuid/{UUID}", "by-label/root", "by-id/usrloop-twice"):
            assert not os.path.lexists(f"/dev/disk/{link}")
        with served(dataclasses.replace(DISK, label="twice")) as (_, _, ours):
            settled()
            assert leads_to("/dev/usrdrv/twice", ours)
            with users_disk("twice"):
                settled()
                assert leads_to("/dev/usrdrv/twice", ours), "also if the user's comes later"
        settled()
        wait(lambda: leads_to("/dev/usrdrv/twice", theirs), "the user's disk gets the name back")


@check
def udev_makes_no_name_of_a_label_that_leads_elsewhere() -> None:
    with udev():
        for label in ("..", ".hidden", "-x", "a/b", "../disk/by-uuid/x", "two words", "caf\u00e9"):
            with served(dataclasses.replace(DISK, label=label)) as (_, _, device):
                settled()
                names = run("udevadm", "info", "--query=symlink", device)
                assert "usrdrv" not in names and "by-id" not in names, names
