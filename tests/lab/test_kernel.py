# SPDX-License-Identifier: MIT
"""Our own small kernel: it boots, has both ways to a disk, and modules can be built against it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.helpers.kernel_logs import says
from usrdrv.base import errors
from usrdrv.lab import kernel
from usrdrv.lab.guest import Guest
from usrdrv.lab.models import Model

Boot = Callable[..., Guest]

MODULE = """
#include <linux/module.h>
static int __init hello_init(void) { pr_info("hello from a module\\n"); return 0; }
static void __exit hello_exit(void) { }
module_init(hello_init);
module_exit(hello_exit);
MODULE_DESCRIPTION("a test");
MODULE_LICENSE("GPL");
"""


@pytest.fixture(scope="module")
def guest(guest_factory: Boot) -> Iterator[Guest]:
    with Model("cmd680", "--ram", "16M") as model:
        with guest_factory([model.socket], kernel="base", iommu=True) as guest:
            yield guest


def test_it_boots_and_drives_the_model_both_ways(guest: Guest) -> None:
    version = (kernel.build("base") / "version").read_text().strip()
    assert guest.run("uname -r").out.strip() == version
    guest.run("head -c 1M /dev/urandom >/tmp/data", check=True)
    guest.run("dd if=/tmp/data of=/dev/sda bs=64k oflag=direct status=none", check=True)
    data = guest.run("sha256sum /tmp/data", check=True).out.split()[0]
    (guest.share / "read.py").write_text(
        "from usrdrv.device import open_device\n"
        "from usrdrv.drivers import open_driver\n"
        "data = bytearray(1 << 20)\n"
        "with open_device('0000:00:10.0') as device, open_driver(device) as controller:\n"
        "    controller.drives[0].block.read_into(data, 0)\n"
        "open('/share/data', 'wb').write(data)\n"
    )
    guest.run("python3 /share/read.py", 60, check=True)
    assert hashlib.sha256((guest.share / "data").read_bytes()).hexdigest() == data
    guest.run("modprobe -a nbd ublk_drv null_blk tun kunit ns83820", check=True)
    # What suites of others need: xfstests, blktests, those of device mapper.
    guest.run("modprobe -a dm-crypt dm-flakey dm-log-writes dm-thin-pool", check=True)
    guest.run(
        "command -v gawk && command -v setfacl && command -v setfattr && hexdump -V", check=True
    )


def test_programs_are_what_they_are_when_memory_was_others(guest: Guest) -> None:
    """Their files are read again, into pages that held other programs."""
    programs = ("python3 -c 'import json, ctypes'", "perl -e 1", "fio --version", "lspci --version")
    for _ in range(5):
        guest.run(" && ".join(programs), 60, check=True)
        guest.run("sync; echo 3 >/proc/sys/vm/drop_caches", check=True)


def test_modules_can_be_built_against_it(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "hello.c").write_text(MODULE)
    (tmp_path / "Makefile").write_text("obj-m := hello.o\n")
    build = kernel.build("base") / "build"
    subprocess.run(["make", "-s", "-C", build, f"M={tmp_path}", "modules"], check=True)
    shutil.copy(tmp_path / "hello.ko", guest.share)
    place = guest.console.position()
    guest.run("insmod /share/hello.ko && rmmod hello", check=True)
    says(guest, "hello from a module", place)


def test_an_option_that_does_not_stick_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a source tree that always ends with the same configuration."""
    scripts = tmp_path / "scripts/kconfig"
    scripts.mkdir(parents=True)
    merge = scripts / "merge_config.sh"
    merge.write_text("#!/bin/sh\n")
    merge.chmod(0o755)
    (tmp_path / "Makefile").write_text("tinyconfig olddefconfig:\n\techo CONFIG_64BIT=y >.config\n")
    with pytest.raises(errors.LabError, match=r"did not stick: .*CONFIG_SMP=y"):
        kernel.configure(tmp_path, "base")
