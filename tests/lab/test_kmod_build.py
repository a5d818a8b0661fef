# SPDX-License-Identifier: MIT
"""Modules for kernels that are not running: built, checked, loaded in guests.

With a small module that stands in for usrloop.ko; then usrloop.ko itself: it builds for every kernel without a
warning, and sparse and checkpatch have nothing to say.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from tests.files import ROOT
from tests.lab.helpers.kernel_logs import says
from usrdrv.base import errors
from usrdrv.lab import kernel, kmod, toolchain
from usrdrv.lab.guest import Guest

Boot = Callable[..., Guest]

RELEASES = {
    "stock-6.1": r"6\.1\.0-",
    "stock": r"6\.12\.",
    "newest": r"([7-9]|6\.1[3-9])\.",
    "base": r"6\.12\.",
}

EACH_RELEASE = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.rare if name in ("stock-6.1", "newest") else ())
        for name in RELEASES
    ],
)
"""All of Debian's are built for in the same way: see toolchain.py."""
WITH_OUR_KERNEL = pytest.mark.parametrize(
    "name", ["stock", pytest.param("base", marks=pytest.mark.rare)]
)

MAIN = """// SPDX-License-Identifier: GPL-2.0
#include <linux/module.h>

#include <uapi/standin.h>

static int __init standin_init(void)
{
	pr_info("standin: answer %d\\n", STANDIN_ANSWER);
	return 0;
}

static void __exit standin_exit(void)
{
}

module_init(standin_init);
module_exit(standin_exit);
MODULE_DESCRIPTION("A test");
MODULE_LICENSE("GPL");
"""
HEADER = """/* SPDX-License-Identifier: GPL-2.0 */
#ifdef STANDIN_SELFTEST
#define STANDIN_ANSWER	43
#else
#define STANDIN_ANSWER	42
#endif
"""
KBUILD = """# SPDX-License-Identifier: GPL-2.0
obj-m := standin.o
standin-y := main.o
ccflags-y := -I$(src)/include
ifeq ($(SELFTEST),1)
ccflags-y += -DSTANDIN_SELFTEST
endif
"""


@pytest.fixture
def standin(tmp_path: Path) -> Path:
    """The sources of a module of one file and a header."""
    source = tmp_path / "standin"
    (source / "include/uapi").mkdir(parents=True)
    (source / "main.c").write_text(MAIN)
    (source / "include/uapi/standin.h").write_text(HEADER)
    (source / "Kbuild").write_text(KBUILD)
    return source


@EACH_RELEASE
def test_a_module_is_built_for_each_kernel(standin: Path, name: str) -> None:
    module = toolchain.build_module(standin, name)
    assert module.name == "standin.ko"
    magic = subprocess.run(
        ["modinfo", "-F", "vermagic", module], capture_output=True, text=True, check=True
    ).stdout
    assert re.match(RELEASES[name], magic), magic
    assert toolchain.check(standin, name) == []


def test_it_is_built_again_when_a_source_changed_and_only_then(standin: Path) -> None:
    first = toolchain.build_module(standin, "base")
    (standin / "notes.txt").write_text("no source")
    (standin / "main.mod.c").write_text("left by a build")
    assert toolchain.build_module(standin, "base") == first
    assert toolchain.build_module(standin, "base", selftest=True) != first
    header = standin / "include/uapi/standin.h"
    header.write_text(HEADER.replace("42", "44"))
    assert toolchain.build_module(standin, "base") != first
    left = {path.name for path in standin.iterdir()}
    assert left == {"main.c", "main.mod.c", "include", "Kbuild", "notes.txt"}


@WITH_OUR_KERNEL
def test_it_is_loaded_and_unloaded(
    standin: Path, name: str, guest_factory: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By modprobe, beside the kernel's own modules; and with its tests, by insmod."""
    monkeypatch.setattr(kmod, "build", lambda kernel: toolchain.build_module(standin, kernel))
    guest = guest_factory(kernel=name, kmod=True)
    place = guest.console.position()
    guest.run("modprobe standin && test -d /sys/module/standin && rmmod standin", check=True)
    says(guest, "standin: answer 42", place)
    guest.run("modprobe null_blk && test -e /dev/nullb0 && rmmod null_blk", check=True)
    shutil.copy(toolchain.build_module(standin, name, selftest=True), guest.share)
    guest.run("insmod /share/standin.ko && rmmod standin", check=True)
    says(guest, "standin: answer 43", place)


@EACH_RELEASE
def test_warnings_are_found(standin: Path, name: str) -> None:
    """The compiler's, one of W=1 in a header, sparse's, and those of the last step."""
    with (standin / "main.c").open("a") as file:
        file.write("int not_declared(int __user *there)\n{\n\treturn *there;\n}\n")
    with (standin / "include/uapi/standin.h").open("a") as file:
        file.write("static inline void f(void) { int unused; unused = 1; }\n")
    source = (standin / "main.c").read_text().replace('MODULE_DESCRIPTION("A test");\n', "")
    (standin / "main.c").write_text(source)
    found = "\n".join(toolchain.check(standin, name))
    assert re.search(r"^main\.c:\d+:\d+: warning: no previous prototype", found, re.M)
    assert re.search(r"^include/uapi/standin\.h:\d+:\d+: warning: .*unused", found, re.M)
    if name not in toolchain.WITHOUT_SPARSE:
        assert re.search(r"^main\.c:\d+:\d+: warning: dereference of noderef", found, re.M)
    if name != "stock-6.1":  # it had no such warning
        assert "missing MODULE_DESCRIPTION" in found


@WITH_OUR_KERNEL
def test_what_the_compiler_says_is_in_the_error(standin: Path, name: str) -> None:
    (standin / "main.c").write_text(MAIN.replace("STANDIN_ANSWER", "NO_SUCH_NAME"))
    with pytest.raises(errors.LabError, match=r"main\.c:8:\d+: error: .NO_SUCH_NAME. undeclared"):
        toolchain.build_module(standin, name)


def test_checkpatch_is_strict(standin: Path) -> None:
    assert kmod.check_style(standin) == []
    with (standin / "main.c").open("a") as file:
        file.write("int x=1;\n")
    assert any(
        re.match(r"main\.c:\d+: ERROR: spaces required", line) for line in kmod.check_style(standin)
    )


def test_a_kernel_that_is_not_there_is_named() -> None:
    with pytest.raises(errors.UsageError, match="no kernel 'old': there are stock-6.1, stock"):
        toolchain.build_module(ROOT, "old")


def test_without_headers_make_says_what_to_install() -> None:
    done = subprocess.run(
        ["make", "-C", ROOT / "loopback-kmod", "KDIR=/no/such"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert (
        "usrloop: /no/such is missing: install the kernel's headers (Debian package linux-headers-"
        in done.stderr
    )


def test_dkms_has_our_version() -> None:
    conf = (ROOT / "loopback-kmod/dkms.conf").read_text()
    assert f'PACKAGE_VERSION="{metadata.version("usrdrv")}"\n' in conf
    main = (ROOT / "loopback-kmod/main.c").read_text()
    assert f'MODULE_VERSION("{metadata.version("usrdrv")}")' in main


def test_dkms_builds_for_what_is_tested_and_nothing_else() -> None:
    conf = (ROOT / "loopback-kmod/dkms.conf").read_text()
    match = re.search(r'^BUILD_EXCLUSIVE_KERNEL="(.*)"$', conf, re.MULTILINE)
    assert match, (
        "dkms would build for every kernel, and fail an upgrade to one that it cannot build for"
    )
    tested = dict(line.split() for line in (toolchain.build() / "kernels").read_text().splitlines())
    tested["base"] = (kernel.build("base") / "version").read_text().strip()
    for name in ("stock-6.1", "stock", "base"):
        assert re.search(match[1], tested[name]), tested[name]
    for other in (
        "5.15.0-100",
        "6.6.1",
        "6.9.7-amd64",
        "6.10.1",
        "6.11.0",
        "6.15.0",
        "6.18.44",
        "6.120.0",
    ):
        assert not re.search(match[1], other), other


@pytest.mark.parametrize("name", toolchain.KERNELS)
def test_usrloop_builds_without_a_warning(name: str) -> None:
    if name in toolchain.OWN and not kernel.is_built(name):
        pytest.skip(f"kernel {name} is not built (usrdrv lab build --kernel {name})")
    assert kmod.build(name).name == "usrloop.ko"
    assert kmod.check(name) == []


def test_checkpatch_finds_nothing_in_usrloop() -> None:
    assert kmod.check_style() == []


def test_the_commands_that_build_it_and_load_it_in_a_guest() -> None:
    lab = (sys.executable, "-m", "usrdrv", "lab")
    built = subprocess.run(
        [*lab, "kmod", "--kernel", "base"], capture_output=True, text=True, check=True
    )
    assert built.stdout == f"base {kmod.build('base')}\n"
    command = "modprobe usrloop && modinfo -F filename usrloop && rmmod usrloop"
    done = subprocess.run(
        [*lab, "run", "--kernel", "base", "--kmod", "--", command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("/updates/usrloop.ko\n")
