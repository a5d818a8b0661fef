# SPDX-License-Identifier: MIT
"""Mount points, and who uses a disk, as the kernel's tables say."""

import os
from pathlib import Path

from usrdrv import mounts


def test_users_of_the_root_file_system(tmp_path: Path) -> None:
    """Our own root's device number stands in for a mounted disk."""
    line = next(
        line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if line.split()[4] == "/"
    )
    disk = tmp_path / "disk9"
    (disk / "holders").mkdir(parents=True)
    (disk / "holders" / "dm-7").mkdir()
    (disk / "dev").write_text("999:999\n")
    assert mounts.users(disk) == ["/dev/dm-7"]
    (disk / "dev").write_text(line.split()[2] + "\n")
    assert mounts.users(disk)[:2] == ["/dev/dm-7", "/"]


def test_mount_points_of_any_bytes(tmp_path: Path) -> None:
    """Only the newline is no part of a name."""
    lines = [b"36 25 8:1 / /a\xff rw - ext4 /dev/sda1 rw", "37 25 8:2 / /b\u2028\x0cc rw".encode()]
    (tmp_path / "mountinfo").write_bytes(b"\n".join([*lines, b""]))
    assert [os.fsencode(line) for line in mounts.table(tmp_path)] == lines


def test_mount_points_with_spaces() -> None:
    assert mounts.unescape(r"/a\040b\134c") == "/a b\\c"
