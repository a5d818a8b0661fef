# SPDX-License-Identifier: MIT
"""Mount points, and who uses a disk, as the kernel's tables say."""

import os
from pathlib import Path

import pytest

from tests.unit.access.recorded_proc import Proc
from usrdrv import mounts

# As Debian 13 has them.
ROOT = "29 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,discard,errors=remount-ro"
DATA = r"67 29 8:145 / /srv/my\040data rw,relatime shared:35 master:2 - xfs /dev/sdj1 rw,attr2"
BTRFS = "71 29 0:44 /@home /home rw,relatime shared:37 - btrfs /dev/sdj1 rw,subvol=/@home"
BOUND = "80 29 8:144 /in /out rw,relatime - ext4 /dev/sdj rw"
SWAP = "/dev/sdj2                               partition\t999420\t\t0\t\t-2"


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proc:
    return Proc(tmp_path / "proc", monkeypatch)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Two partitions."""
    disk = tmp_path / "block/sdj"
    for number, folder in enumerate((disk, disk / "sdj1", disk / "sdj2")):
        folder.mkdir(parents=True)
        (folder / "dev").write_text(f"8:{144 + number}\n")
        if number:
            (folder / "partition").write_text(f"{number}\n")
    return disk


def test_a_disk_that_nobody_uses(proc: Proc, disk: Path) -> None:
    proc.process("self", 1, ROOT)
    assert mounts.users(disk) == []


def test_mounts_are_found_by_number_and_by_name(proc: Proc, disk: Path) -> None:
    """btrfs has a device number of its own."""
    proc.process("self", 1, ROOT, DATA, BTRFS, BOUND)
    assert mounts.users(disk) == ["/srv/my data", "/home", "/out"]


def test_each_mount_namespace_is_looked_at_once(proc: Proc, disk: Path) -> None:
    """One process of each; a path in another one leads through its root."""
    ours = proc.process("self", 1, ROOT, DATA)
    proc.process("17", 1, BOUND)
    theirs = proc.process("18", 2, ROOT, BTRFS)
    ended = proc.process("19", 3)
    (ended / "mountinfo").unlink()
    assert list(mounts.mounts(disk)) == [
        mounts.Mount("/srv/my data", ours / "root/srv/my data"),
        mounts.Mount("/home", theirs / "root/home"),
    ]


def test_holders_come_first_and_swap_last(proc: Proc, disk: Path) -> None:
    proc.process("self", 1, ROOT, BOUND)
    proc.swaps("/dev/vda2 partition\t1\t0\t-3", SWAP)
    (disk / "sdj1/holders/dm-7").mkdir(parents=True)
    assert mounts.users(disk) == ["/dev/dm-7", "/out", "swap"]


def test_this_machines_own_tables_are_read() -> None:
    """Our root is mounted on something."""
    assert "/" in [line.split()[4] for line in mounts.table(Path("/proc/self"))]
    assert mounts.users(Path("/sys/block/none")) == []


def test_mount_points_of_any_bytes(tmp_path: Path) -> None:
    """Only the newline is no part of a name."""
    lines = [b"36 25 8:1 / /a\xff rw - ext4 /dev/sda1 rw", "37 25 8:2 / /b\u2028\x0cc rw".encode()]
    (tmp_path / "mountinfo").write_bytes(b"\n".join([*lines, b""]))
    assert [os.fsencode(line) for line in mounts.table(tmp_path)] == lines


def test_mount_points_with_spaces() -> None:
    assert mounts.unescape(r"/a\040b\134c") == "/a b\\c"
