# SPDX-License-Identifier: MIT
"""ATA disk model: task file, resets, commands (hardware document, sections 7 and 12)."""

import errno
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.files import ROOT
from tests.unit.devices.cmd680.model_host import CTL, DATA, Machine
from usrdrv.base.errors import DeviceBusyError, NoSuchDeviceError, UsageError, UsrdrvError
from usrdrv.devices.base.images import parse_size
from usrdrv.devices.cmd680.model import DriveSpec, from_options

MIB = 1 << 20


def text(words: list[int], first: int, n: int) -> str:
    return struct.pack(f">{n}H", *words[first : first + n]).decode()


def image(path: Path, size: int) -> Path:
    with path.open("wb") as f:
        f.truncate(size)
    return path


def test_signature_and_absent_devices() -> None:
    with Machine() as m:
        assert [m.r(0x80 + i) for i in range(1, 8)] == [1, 1, 1, 0, 0, 0, 0x50]
        m.w(0x86, 0xB0)
        assert m.alt() == 0 and m.status() == 0, "phantom slave, section 12 item 25"
        m.taskfile(0xEC, dev=1)
        assert m.alt() == 0 and m.level == 0
        assert m.alt(1) == 0x7F and m.r(0xC1) == 0x7F and m.r(0xC2) == 0x7F


def test_devchk_pattern() -> None:
    with Machine(DriveSpec(ram=MIB), DriveSpec(ram=MIB)) as m:
        for dev in (0, 1):
            m.w(0x86, 0xA0 | dev << 4)
            for a, b in ((0x55, 0xAA), (0xAA, 0x55)):
                m.w(0x82, a)
                m.w(0x83, b)
                assert (m.r(0x82), m.r(0x83)) == (a, b)


def test_soft_reset() -> None:
    with Machine(DriveSpec(ram=MIB), DriveSpec(ram=MIB)) as m:
        m.w(0x86, 0xB0)
        m.taskfile(0xE5, dev=1)
        assert m.level == 1
        m.w(CTL, 4)
        assert m.alt() == 0x80 and not m.cfg(0xA1) & 8
        m.w(CTL, 0)
        assert m.r(0x86) == 0, "device 0 is selected"
        for dev in (0, 1):
            m.w(0x86, dev << 4)
            assert [m.r(0x80 + i) for i in range(1, 6)] == [1, 1, 1, 0, 0]
            assert m.alt() == 0x50


def test_channel_reset_bit() -> None:
    with Machine() as m:
        m.w(CTL, 2)
        m.udma(5)
        m.w(0xA0, 4)
        assert m.alt() == 0x80
        m.w(0xA0, 0)
        assert m.alt() == 0x50
        assert m.identify()[88] == 0x007F


def test_tristate_floats_the_bus() -> None:
    with Machine() as m:
        m.w(0xA0, 8)
        assert m.alt() == 0x7F and m.r(0x82) == 0x7F
        m.w(0xA0, 0)
        assert m.alt() == 0x50


def test_diagnostic() -> None:
    with Machine(DriveSpec(ram=MIB), DriveSpec(ram=MIB)) as m:
        m.taskfile(0x90, dev=1)
        assert m.level == 1 and m.r(0x81) == 1
        assert m.r(0x86) & 0x10 == 0 and m.r(0x82) == 1
        assert m.status() == 0x50


def test_alternate_status_keeps_the_interrupt() -> None:
    with Machine() as m:
        m.taskfile(0xE5)
        m.alt()
        assert m.cfg(0xA1) & 8
        m.status()
        assert not m.cfg(0xA1) & 8


def test_hob() -> None:
    with Machine() as m:
        for reg in range(1, 6):
            m.w(0x80 + reg, 0x10 + reg)
            m.w(0x80 + reg, 0x20 + reg)
        assert [m.r(0x80 + i) for i in range(2, 6)] == [0x22, 0x23, 0x24, 0x25]
        m.w(CTL, 0x80)
        assert [m.r(0x80 + i) for i in range(1, 6)] == [0x11, 0x12, 0x13, 0x14, 0x15]
        m.w(0x82, 0x99)
        assert m.r(0x82) == 0x99, "a write clears HOB"


def test_task_file_as_a_dword() -> None:
    with Machine() as m:
        m.w(0x84, 0xE5E0_0201, 4)
        assert m.level == 1
        assert m.r(0x84, 4) == 0x50E00201
        assert not m.cfg(0xA1) & 8


def test_writes_while_busy_are_ignored() -> None:
    with Machine() as m:
        m.taskfile(0xEC)
        m.w(0x82, 0x77)
        m.w(0x87, 0xE5)
        assert m.r(0x82) == 0 and m.status() == 0x58


@pytest.mark.parametrize("width", [2, 4])
def test_identify(width: int) -> None:
    spec = DriveSpec(ram=64 * MIB, serial="SN42", model="A MODEL", firmware="9.9", rpm=1)
    with Machine(spec, cable80=(False, True)) as m:
        m.taskfile(0xEC)
        assert m.alt() == 0x58 and m.level == 1
        m.status()
        m.w(2, 4)
        data = m.pio_in(512, width=width)
        assert m.alt() == 0x50 and m.level == 0, "no interrupt at the end of PIO in"
    w = list(struct.unpack("<256H", data))
    assert sum(data) & 0xFF == 0 and data[510] == 0xA5
    assert w[0] == 0x0040
    assert text(w, 10, 10) == "SN42".ljust(20)
    assert text(w, 23, 4) == "9.9".ljust(8)
    assert text(w, 27, 20) == "A MODEL".ljust(40)
    assert w[47] == 0x8010 and w[49] == 0x2F00 and w[53] == 7 and w[59] == 0x0110
    assert w[60] | w[61] << 16 == 131072
    assert w[63] == 7 and w[64] == 3 and w[88] == 0x7F
    assert w[75:80] == [0] * 5
    assert w[80] == 0xF0
    assert w[83] == 0x7408 and w[84] == 0x4040 and w[87] == 0x4040
    assert w[85] & 0x61 == 0x61 and w[86] == 0x3400
    assert w[93] == 0x400B
    assert w[100] | w[101] << 16 == 131072
    assert w[106] == 0 and w[169] == 1 and w[217] == 1


def test_identify_of_small_drives() -> None:
    spec = DriveSpec(ram=MIB, lba48=False, max_udma=None, max_mwdma=None, physical_4k=True)
    with Machine(spec, DriveSpec(ram=MIB)) as m:
        w = m.identify()
        assert w[49] == 0x2E00 and w[53] == 3 and w[63] == 0 and w[88] == 0
        assert w[83] == 0x5008 and w[84] == 0x4000 and w[100:104] == [0] * 4
        assert w[106] == 0x6003 and w[169] == 0
        assert m.identify(1)[93] == 0x6B00
        m.taskfile(0xC8, 0, 1)
        assert (m.status(), m.error()) == (0x51, 4)
        m.taskfile(0x25, 0, 1, ext=True)
        assert (m.status(), m.error()) == (0x51, 4)


def test_capacity_saturates_at_28_bits() -> None:
    with Machine(DriveSpec(ram=200 << 30)) as m:
        w = m.identify()
        assert w[60] | w[61] << 16 == 0x0FFFFFFF
        assert struct.unpack("<Q", struct.pack("<4H", *w[100:104]))[0] == (200 << 30) // 512
        assert m.command(0xF8) == 0x50
        assert [m.r(0x83 + i) for i in range(4)][:3] == [0xFF] * 3 and m.r(0x86) & 15 == 15
        assert m.command(0x27, ext=True) == 0x50
        assert m.lba48() == (200 << 30) // 512 - 1


def test_transfer_modes() -> None:
    with Machine(DriveSpec(ram=MIB, max_udma=5)) as m:
        assert m.command(0xEF, count=0x45, feature=3) == 0x50
        w = m.identify()
        assert (w[63], w[88]) == (0x0007, 0x203F)
        assert m.command(0xEF, count=0x22, feature=3) == 0x50
        w = m.identify()
        assert (w[63], w[88]) == (0x0407, 0x003F)
        for bad in (0x46, 0x23, 0x0D, 0x10, 0x02, 0x80):
            assert m.command(0xEF, count=bad, feature=3) == 0x51 and m.error() == 4
        assert m.command(0xEF, count=0x0C, feature=3) == 0x50


def test_features() -> None:
    with Machine() as m:
        for off, on, bit in ((0x82, 2, 5), (0x55, 0xAA, 6)):
            assert m.command(0xEF, feature=off) == 0x50
            assert not m.identify()[85] >> bit & 1
            assert m.command(0xEF, feature=on) == 0x50
            assert m.identify()[85] >> bit & 1
        assert m.command(0xEF, feature=5, count=0x80) == 0x50
        w = m.identify()
        assert w[86] & 8 and w[91] == 0x80
        for bad in (0x10, 0x90, 0x42, 0xFF):
            assert m.command(0xEF, feature=bad) == 0x51


def test_soft_reset_reverts_unless_told() -> None:
    with Machine() as m:
        for keep, expected in ((0xCC, 1), (0x66, 0)):
            m.command(0xEF, feature=keep)
            m.command(0xEF, feature=0x82)
            m.w(CTL, 4)
            m.w(CTL, 0)
            assert m.identify()[85] >> 5 & 1 == expected


@pytest.mark.parametrize("op", [0x00, 0x08, 0x2F, 0x3F, 0x45, 0xA1, 0xB1, 0xF1, 0xF5, 0xFF])
def test_aborted_commands(op: int) -> None:
    with Machine() as m:
        m.taskfile(op)
        assert m.level == 1
        assert m.status() == 0x51 and m.error() == 4


def test_harmless_commands() -> None:
    with Machine() as m:
        for op in (0x10, 0x1F, 0x70, 0x7F, 0xE0, 0xE1, 0xE2, 0xE3, 0x94, 0x95, 0xE7, 0xEA, 0x91):
            assert m.command(op, count=16) == 0x50, hex(op)
        assert m.command(0x91, count=0) == 0x51


def test_power_modes() -> None:
    with Machine() as m:
        m.command(0xE5)
        assert m.r(0x82) == 0xFF
        m.command(0xE0)
        m.command(0xE5)
        assert m.r(0x82) == 0
        m.dma(0xC8, 0, 1)
        m.command(0xE5)
        assert m.r(0x82) == 0xFF
        assert m.command(0xE6) == 0x50
        m.taskfile(0xE5)
        assert m.level == 0, "asleep"
        m.w(CTL, 4)
        m.w(CTL, 0)
        assert m.command(0xE5) == 0x50


def test_buffers() -> None:
    with Machine() as m:
        data = os.urandom(512)
        m.taskfile(0xE8)
        assert m.level == 0 and m.status() == 0x58
        m.pio_out(data)
        assert m.status() == 0x50
        m.taskfile(0xE4)
        assert m.pio_in(512) == data


@pytest.mark.parametrize(
    ("write", "read", "ext", "block"),
    [(0x30, 0x20, False, 1), (0x34, 0x24, True, 1), (0xC5, 0xC4, False, 16), (0x39, 0x29, True, 16),
     (0xCE, 0x29, True, 16)],
)  # fmt: skip
def test_pio(write: int, read: int, ext: bool, block: int) -> None:
    """Section 7.2: which blocks interrupt and which do not."""
    n = 20
    data = os.urandom(n * 512)
    with Machine() as m:
        m.taskfile(write, 100, n, ext=ext)
        for first in range(0, n, block):
            assert m.cfg(0xA1) & 8 == (8 if first else 0), "none for the first block"
            assert m.status() == 0x58
            m.pio_out(data[first * 512 : (first + block) * 512])
        assert m.cfg(0xA1) & 8 and m.status() == 0x50
        m.w(2, 4)
        m.taskfile(read, 100, n, ext=ext)
        got = b""
        for first in range(0, n, block):
            assert m.r(2) & 4 and m.level == 1
            assert m.status() == 0x58
            m.w(2, 4)
            got += m.pio_in(min(block, n - first) * 512)
        assert m.alt() == 0x50 and m.level == 0
        assert got == data


def test_set_multiple() -> None:
    with Machine() as m:
        for bad in (3, 32, 17):
            assert m.command(0xC6, count=bad) == 0x51
        assert m.command(0xC6, count=8) == 0x50 and m.identify()[59] == 0x108
        assert m.command(0xC6, count=0) == 0x50 and m.identify()[59] == 0
        assert m.command(0xC4, count=1) == 0x51 and m.error() == 4


def test_counts_of_zero() -> None:
    """Section 12 item 18."""
    with Machine(DriveSpec(ram=64 * MIB)) as m:
        m.put(DATA, b"q" * 131072)
        entries = [(DATA, 65536), (DATA + 65536, 65536)]
        assert m.dma(0xCA, 0, 256, entries, write=True)[:2] == (4, 0x50)
        assert m.dma(0xC8, 255, 1)[:2] == (4, 0x50)
        assert m.get(DATA, 512) == b"q" * 512
        assert m.command(0x42, 0, 65536, ext=True) == 0x50
        assert m.command(0x42, 65537, 65536, ext=True) == 0x51


def test_chs() -> None:
    with Machine(DriveSpec(ram=64 * MIB)) as m:
        m.put(DATA, b"c" * 512)
        lba = (5 * 16 + 3) * 63 + 7 - 1
        m.dma(0xCA, lba, 1, write=True)
        for reg, value in ((2, 1), (3, 7), (4, 5), (5, 0), (6, 0xA3)):
            m.w(0x80 + reg, value)
        m.w(0x87, 0x20)
        assert m.pio_in(512) == b"c" * 512
        m.w(0x83, 0)
        m.w(0x87, 0x20)
        assert m.status() == 0x51 and m.error() == 0x10


@pytest.mark.parametrize("op", [0x20, 0x30, 0xC8, 0xCA, 0x40])
def test_beyond_the_end(op: int) -> None:
    with Machine() as m:
        m.taskfile(op, 2047, 2)
        assert m.status() == 0x51 and m.error() == 0x10
        m.taskfile(op, 2048, 1)
        assert m.status() == 0x51 and m.error() == 0x10
    with Machine(DriveSpec(ram=MIB)) as m:
        m.taskfile(0x25, (1 << 48) - 1, 0, ext=True)
        assert m.status() == 0x51 and m.error() == 0x10


def test_host_protected_area() -> None:
    with Machine() as m:
        assert m.command(0xF9, 999) == 0x51, "not without READ NATIVE MAX"
        m.command(0xF8)
        assert m.command(0xF9, 999) == 0x50
        assert m.identify()[60] == 1000
        assert m.command(0x40, 1000, 1) == 0x51
        m.command(0xF8)
        assert m.r(0x83) | m.r(0x84) << 8 == 2047
        m.w(0xA0, 4)
        m.w(0xA0, 0)
        assert m.identify()[60] == 2048, "volatile"
        m.command(0x27, ext=True)
        assert m.command(0x37, 499, 1, ext=True) == 0x50
        m.w(0xA0, 4)
        m.w(0xA0, 0)
        assert m.identify()[100] == 500


def test_smart() -> None:
    key = 0xC24F00
    with Machine() as m:
        assert m.command(0xB0, 0, feature=0xDA) == 0x51
        assert m.command(0xB0, key, feature=0xDA) == 0x50
        assert (m.r(0x84), m.r(0x85)) == (0x4F, 0xC2)
        for sub in (0xD0, 0xD1):
            m.taskfile(0xB0, key, feature=sub)
            assert m.status() == 0x58
            data = m.pio_in(512)
            assert sum(data) & 0xFF == 0 and data[2] == 197
        assert m.command(0xB0, key, feature=0xD9) == 0x50
        assert m.identify()[85] & 1 == 0
        assert m.command(0xB0, key, feature=0xDA) == 0x51
        assert m.command(0xB0, key, feature=0xD8) == 0x50
        assert m.command(0xB0, key, feature=0xD5) == 0x51


@pytest.mark.parametrize("kind", ["ram", "file"])
def test_trim(kind: str, tmp_path: Path) -> None:
    disk = tmp_path / "d.img"
    spec = DriveSpec(ram=MIB) if kind == "ram" else DriveSpec(image=image(disk, MIB))
    with Machine(spec) as m:
        m.put(DATA, b"t" * 131072)
        big = [(DATA, 65536), (DATA + 65536, 65536)]
        m.dma(0xCA, 0, 256, big, write=True)
        payload = struct.pack("<4Q", 3 | 100 << 48, 0, 200 | 1 << 48, 0).ljust(512, b"\0")
        m.put(DATA, payload)
        assert m.dma(0x06, 0, 1, write=True, feature=1, ext=True)[:2] == (4, 0x50)
        m.dma(0xC8, 0, 256, big)
        got = m.get(DATA, 131072)
        for sector in range(256):
            gone = 3 <= sector < 103 or sector == 200
            assert got[sector * 512 : sector * 512 + 512] == (b"\0" if gone else b"t") * 512
        m.put(DATA, struct.pack("<2Q", 1 << 48, 2047 | 2 << 48).ljust(512, b"\0"))
        assert m.dma(0x06, 0, 1, write=True, feature=1, ext=True)[1:] == (0x51, 0x14)
        m.dma(0xC8, 0, 1)
        assert m.get(DATA, 512) == b"t" * 512, "checked before anything is trimmed"
        for feature, count in ((0, 1), (1, 9), (1, 0)):
            m.taskfile(0x06, 0, count, feature=feature, ext=True)
            assert m.status() == 0x51
    if kind == "file":
        assert disk.stat().st_blocks * 512 < 131072


def test_no_trim() -> None:
    with Machine(DriveSpec(ram=MIB, trim=False)) as m:
        assert m.identify()[169] == 0
        m.taskfile(0x06, 0, 1, feature=1, ext=True)
        assert m.status() == 0x51


def test_read_only(tmp_path: Path) -> None:
    disk = image(tmp_path / "d.img", MIB)
    disk.chmod(0o444)
    with Machine(DriveSpec(image=disk, read_only=True)) as m:
        for op, ext in ((0x30, False), (0xCA, False), (0x35, True), (0xC5, False)):
            m.taskfile(op, 0, 1, ext=ext)
            assert m.status() == 0x51 and m.error() == 4
        assert m.dma(0xC8, 0, 1)[:2] == (4, 0x50)
        assert m.command(0xE7) == 0x50


def test_truncated_image_is_a_media_error(tmp_path: Path) -> None:
    disk = image(tmp_path / "d.img", MIB)
    with Machine(DriveSpec(image=disk)) as m:
        os.truncate(disk, 10 * 512)
        m.put(DATA, b"x" * 8192)
        bm, status, error = m.dma(0x25, 4, 16, ext=True)
        assert (bm & 4, status, error) == (4, 0x51, 0x40)
        assert m.lba48() == 10
        assert m.get(DATA, 3072) == bytes(3072)
        m.taskfile(0x20, 10, 1)
        assert (m.status(), m.error()) == (0x51, 0x40)


def test_durability(tmp_path: Path) -> None:
    """FLUSH, FUA and a disabled write cache reach fdatasync; plain writes do not."""
    program = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from tests.unit.devices.cmd680.model_host import Machine
from usrdrv.devices.cmd680.model import DriveSpec
with Machine(DriveSpec(image=Path(sys.argv[1]))) as m:
    def mark(n):
        try: open(f"/nonexistent-{n}")
        except OSError: pass
    mark(0); m.dma(0xCA, 0, 1, write=True)
    mark(1); m.command(0xE7)
    mark(2); m.command(0xEA, ext=True)
    mark(3); m.dma(0x3D, 0, 1, write=True, ext=True)
    mark(4); m.command(0xEF, feature=0x82); m.dma(0xCA, 0, 1, write=True)
    mark(5)
"""
    disk = image(tmp_path / "d.img", MIB)
    trace = tmp_path / "trace"
    subprocess.run(
        ["strace", "-f", "-e", "trace=fdatasync,open,openat", "-o", trace, sys.executable, "-c",
         program, disk, ROOT],
        check=True,
        timeout=60,
    )  # fmt: skip
    counts, at = [0] * 7, 0
    for line in trace.read_text().splitlines():
        if "/nonexistent-" in line:
            at += 1
        elif "fdatasync(" in line:
            counts[at] += 1
    assert counts == [0, 0, 1, 1, 1, 2, 0]


def test_image_errors(tmp_path: Path) -> None:
    with pytest.raises(NoSuchDeviceError, match="nope.img"):
        Machine(DriveSpec(image=tmp_path / "nope.img"))
    odd = tmp_path / "odd.img"
    odd.write_bytes(b"x" * 513)
    with pytest.raises(UsageError, match="odd.img"):
        Machine(DriveSpec(image=odd))
    with pytest.raises(UsageError, match="not a regular file|Is a directory"):
        Machine(DriveSpec(image=tmp_path))
    disk = image(tmp_path / "d.img", MIB)
    with Machine(DriveSpec(image=disk)):
        with pytest.raises(
            DeviceBusyError, match=rf"d\.img is in use by process {os.getpid()}"
        ) as e:
            Machine(DriveSpec(image=disk))
        assert e.value.errno == errno.EBUSY
        with pytest.raises(DeviceBusyError):
            Machine(DriveSpec(image=disk, read_only=True))
    with (
        Machine(DriveSpec(image=disk, read_only=True)),
        Machine(DriveSpec(image=disk, read_only=True)),
    ):
        pass
    Machine(DriveSpec(image=disk)).close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("ram=64M&colour=red", "colour"),
        ("ram=64Q", "64Q"),
        ("ram=100", "100"),
        ("ram=0", "0"),
        ("ram=1M&image=x", "either"),
        ("ro1=1", "drive 1"),
        ("ram=1M&ram0=2M", "ram0"),
        ("ram=1M&ram=2M", "2 times"),
        ("ram=1M&cable0=60", "cable0"),
        ("ram=1M&bar5=no2", "bar5"),
        ("ram=1M&ro=maybe", "maybe"),
        ("ram=1M&udma=7", "7"),
        ("ram=1M&class=0200", "0x"),
        ("ram=1M&serial=" + "x" * 21, "serial"),
        ("ram4=1M", "ram4"),
        ("nonsense", "nonsense"),
        ("ram=1M&rpm=7", "7"),
        ("ram=1M&mwdma=x", "mwdma"),
    ],
)
def test_bad_options(options: str, message: str) -> None:
    with pytest.raises(UsrdrvError, match=message):
        from_options(options)


def test_options(tmp_path: Path) -> None:
    disk = image(tmp_path / "d.img", MIB)
    with from_options(f"ram=64M&image3={disk}&ro3=1&cable1=40&udma=2&class=0104") as model:
        status = model.status()["drives"]
        assert [d is not None for d in status] == [True, False, False, True]
        assert status[3]["read_only"] and model.drives[0] == DriveSpec(ram=64 * MIB, max_udma=2)
    with from_options("") as model:
        assert model.drives == (None,) * 4


def test_sizes() -> None:
    assert [parse_size(s) for s in ("512", "64k", "64M", "2GiB", "1T")] == [
        512, 65536, 64 * MIB, 2 << 30, 1 << 40,
    ]  # fmt: skip
    for bad in ("", "M", "-1", "1.5G", "1X"):
        with pytest.raises(UsageError):
            parse_size(bad)


def test_serial_is_stable_and_differs(tmp_path: Path) -> None:
    a, b = image(tmp_path / "a.img", MIB), image(tmp_path / "b.img", MIB)
    serials = []
    for path in (a, a, b):
        with Machine(DriveSpec(image=path)) as m:
            serials.append(text(m.identify(), 10, 10))
    assert serials[0] == serials[1] != serials[2]
