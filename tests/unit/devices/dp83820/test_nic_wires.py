# SPDX-License-Identifier: MIT
"""The DP83820 model's wires and what happens on them: cable, TAP, pcap files, pause frames, wake-up."""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from scapy.utils import PcapReader

from tests.names import namespace, own
from tests.needs import NEEDS_TAP
from tests.unit.devices.dp83820.nic_host import ACCEPT_ALL, MAC, OTHER, RXCFG, Chip, frame, words
from tests.waiting import PATIENCE, at_best, until
from usrdrv.base import errors
from usrdrv.bridge.net import netns
from usrdrv.devices._models import lib
from usrdrv.devices.dp83820.model import from_options

GROUP = bytes.fromhex("0180c2000001")


def ready(chip: Chip, count: int = 16, **kw: int) -> Chip:
    chip.enable(**kw)
    chip.receive_into(count)
    chip.linked()
    return chip


@contextmanager
def cabled() -> Iterator[tuple[Chip, Chip]]:
    """Both ends of a cable."""
    cable = own()
    with Chip(cable=cable) as a, Chip(cable=cable, mac=OTHER) as b:
        yield ready(a), ready(b)


def test_cable_carries_both_ways() -> None:
    with cabled() as (a, b):
        a.send(frame(OTHER, MAC, fill=1))
        b.send(frame(MAC, OTHER, fill=2))
        until(lambda: a.filled() and b.filled())
        assert a.received().data == frame(MAC, OTHER, fill=2)
        assert b.received().data == frame(OTHER, MAC, fill=1)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_cables_end_keeps_no_descriptor_of_a_listener_that_sends_a_wrong_number(
    count: int,
) -> None:
    cable = own()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"\0usrdrv-cable/{cable}")
        listener.listen()
        with Chip(cable=cable):
            with listener.accept()[0] as connection:
                reader, writer = os.pipe()
                socket.send_fds(connection, [b"cable"], [writer] * count)
                os.close(writer)
                # Were a copy left in the model (this process), the pipe would not be at its end.
                assert select.select([reader], [], [], PATIENCE)[0]
                assert os.read(reader, 1) == b""
                os.close(reader)


def test_one_end_of_a_cable_has_no_link_until_the_other_is_there() -> None:
    cable = own()
    with Chip(cable=cable) as a:
        time.sleep(0.06)  # nothing is to happen
        assert a.model.link == 0
        with Chip(cable=cable, mac=OTHER):
            a.linked()
        until(lambda: a.model.link == 0)


def test_mac_in_the_wrong_mode_loses_frames() -> None:
    with cabled() as (a, _):
        a.w("CFG", a.r("CFG") & ~lib.DP83820_CFG_MODE_1000)
        assert a.send(frame(OTHER))[0] & lib.DP83820_OK and a.counter("tx_no_link") == 1


def test_rate_of_the_wire() -> None:
    with Chip(loop=True, rate=10) as chip:
        ready(chip)
        began = time.monotonic()
        for i in range(5):
            chip.send(frame(length=1514, fill=i))
            until(lambda i=i: chip.filled(i))  # type: ignore[misc]
        assert time.monotonic() - began > 0.9 * 4 * 1538 * 8 / 10e6


def records(path: Path) -> list[bytes]:
    with PcapReader(str(path)) as reader:
        return [bytes(packet) for packet in reader]


def write_pcap(path: Path, frames: list[bytes], gap: float, *, nano: bool, endian: str) -> None:
    unit = 10**9 if nano else 10**6
    out = struct.pack(endian + "IHHiIII", 0xA1B23C4D if nano else 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    for i, data in enumerate(frames):
        seconds, fraction = divmod(round(i * gap * unit), unit)
        out += struct.pack(endian + "IIII", seconds, fraction, len(data), len(data)) + data
    path.write_bytes(out)


@pytest.mark.parametrize("nano", (False, True))
@pytest.mark.parametrize("endian", ("<", ">"))
def test_pcap_files(tmp_path: Path, nano: bool, endian: str) -> None:
    sent = [frame(fill=i, length=60 + 200 * i) for i in range(7)]
    write_pcap(tmp_path / "in.pcap", sent, 0.01, nano=nano, endian=endian)
    with Chip(replay=tmp_path / "in.pcap", record=tmp_path / "out.pcap") as chip:
        ready(chip)
        until(lambda: chip.filled(6))
        assert [chip.received(i).data for i in range(7)] == sent
        for data in sent:
            chip.send(data)
    assert records(tmp_path / "out.pcap") == sent


def test_pcap_with_its_own_times(tmp_path: Path) -> None:
    write_pcap(tmp_path / "in.pcap", [frame(fill=i) for i in range(3)], 0.1, nano=False, endian="<")
    began = time.monotonic()
    with Chip(replay=tmp_path / "in.pcap", paced=True) as chip:
        ready(chip)
        until(lambda: chip.filled(2))
        assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize("content", (b"", b"x" * 10, b"x" * 100, b"\xd4\xc3\xb2\xa1" + bytes(20)))
def test_files_that_are_not_pcap(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "in.pcap"
    path.write_bytes(content)
    with pytest.raises(errors.UsageError, match=r"in\.pcap: not a pcap file of Ethernet frames"):
        Chip(replay=path)


def test_pcap_that_ends_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "in.pcap"
    write_pcap(path, [frame(fill=i) for i in range(3)], 0, nano=False, endian="<")
    path.write_bytes(path.read_bytes()[:-5])
    with Chip(replay=path) as chip:
        ready(chip)
        until(lambda: chip.filled(1))
        time.sleep(0.02)  # nothing is to happen
        assert not chip.filled(2)


@NEEDS_TAP
def test_tap() -> None:
    """In a namespace of our own: elsewhere somebody may speak on each interface that comes up."""
    name = own("tap")
    with namespace() as where, netns.inside(where), Chip(tap=name) as chip:
        ready(chip)
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5)) as kernel:
            kernel.bind((name, 0x88B5))
            kernel.settimeout(PATIENCE)
            kernel.send(frame(fill=3))
            until(chip.filled)
            assert chip.received().data == frame(fill=3)
            kernel.send(frame(length=42))
            until(lambda: chip.filled(1))
            assert chip.received(1).data == frame(length=42) + bytes(18), "padded, as by a NIC"
            chip.send(frame(OTHER, fill=4))
            assert kernel.recv(2000) == frame(OTHER, fill=4)
        with pytest.raises(errors.DeviceBusyError, match="another process has this interface"):
            Chip(tap=name)
        chip.model.close()
        assert name not in [found for _, found in socket.if_nameindex()]


@pytest.mark.parametrize(
    ("options", "message"),
    (
        ("mac=zz", "expected six bytes"),
        ("mac=01:00:00:00:00:00", "not the address of a station"),
        ("cable=a&wire=loop", "one wire"),
        ("cable=" + "x" * 81, "1 to 80 bytes"),
        ("tap=" + "x" * 16, "1 to 15 bytes"),
        ("rate=-1", "0 to 100000"),
        ("phy=32", "1 to 31"),
        ("replay=/none", "/none: No such file"),
        ("record=/none/x", "/none/x: No such file"),
        ("wire=ring", "one of loop, none"),
        ("colour=red", "unknown option 'colour'"),
    ),
)
def test_bad_options(options: str, message: str) -> None:
    with pytest.raises(errors.UsrdrvError, match=message):
        from_options(options)


def pause(time_: int, dst: bytes = GROUP, opcode: int = 1) -> bytes:
    head = dst + OTHER + b"\x88\x08" + opcode.to_bytes(2, "big") + time_.to_bytes(2, "big")
    return head + bytes(60 - len(head))


PSEN, PS_MCAST, PS_DA, PS_ACT, PS_RCVD = (
    getattr(lib, f"DP83820_PCR_{n}") for n in ("PSEN", "PS_MCAST", "PS_DA", "PS_ACT", "PS_RCVD")
)


def test_pause_that_is_received() -> None:
    with cabled() as (a, b):
        a.w("PCR", PSEN | PS_MCAST)
        a.w("MIBC", 0)
        pauses = 0

        def paused() -> bool:
            """For 65535 times 512 bit times, 33.5 ms, in which we may have had no CPU."""
            nonlocal pauses
            pauses += 1
            b.send(pause(0xFFFF))
            until(lambda: a.counter("pause_received") == pauses)
            return bool(a.r("PCR") & (PS_ACT | PS_RCVD) == PS_ACT | PS_RCVD)

        def held() -> bool:
            """A frame stays with the sender, whose pause is not over when we have looked."""
            was, sent = paused(), a.counter("tx_frames")
            a.send(frame(OTHER))
            stays = a.counter("tx_frames") == sent
            if was and stays and a.r("PCR") & PS_ACT:
                return True
            until(lambda: a.counter("tx_frames") == sent + 1)
            return False

        until(held)
        assert not a.filled(), "not for the host"
        until(lambda: not a.r("PCR") & PS_ACT)
        until(b.filled)
        until(paused)
        b.send(pause(0))
        until(lambda: not a.r("PCR") & PS_ACT)
        assert a.r(lib.DP83820_MIB + 4 * lib.DP83820_MIB_PAUSE_RX) == pauses + 1
        b.send(pause(1, opcode=2))
        until(lambda: a.r(lib.DP83820_MIB + 4 * lib.DP83820_MIB_OPCODE) == 1)


@pytest.mark.parametrize(
    ("pcr", "dst", "obeyed"),
    (
        (0, GROUP, False),
        (PSEN, GROUP, False),
        (PSEN | PS_DA, GROUP, False),
        (PSEN | PS_DA, MAC, True),
    ),
)
def test_pause_for_whom(pcr: int, dst: bytes, obeyed: bool) -> None:
    with Chip() as chip:
        chip.loop()
        chip.w("PCR", pcr)
        assert (chip.through(pause(100, dst)) is None) == obeyed
        assert chip.counter("pause_received") == obeyed


def test_pause_that_is_sent() -> None:
    with cabled() as (a, b):
        a.w("PCR", lib.DP83820_PCR_PS_TX | 0x1234)
        until(b.filled)
        got = b.received().data
        assert got[:6] == GROUP and got[6:12] == MAC and got[12:18] == b"\x88\x08\x00\x01\x12\x34"
        # Data high 4 KiB, low 2 KiB: pause when it fills, pause 0 when it is empty again.
        a.w("PCR", 2 << 20 | 1 << 18 | 0xFFFF)
        a.w("CR", lib.DP83820_CR_RXR)
        a.receive_into(1, ring=False)
        for i in range(5):
            b.send(frame(MAC, length=1514, fill=i))
        until(lambda: b.filled(1))
        assert b.received(1).data[16:18] == b"\xff\xff"
        a.receive_into(8, ring=False)
        until(lambda: b.filled(2))
        assert b.received(2).data[16:18] == b"\0\0" and a.counter("pause_sent") == 3


UNICAST, MULTICAST, BROADCAST, ARP, PATTERN0, MAGIC, SECURE, PHY, HACK = (
    getattr(lib, f"DP83820_WCSR_{n}")
    for n in (
        "UNICAST",
        "MULTICAST",
        "BROADCAST",
        "ARP",
        "PATTERN0",
        "MAGIC",
        "SECURE",
        "PHY",
        "HACK",
    )
)
MAGIC_FRAME = frame(b"\xff" * 6)[:20] + b"\xff" * 6 + MAC * 16


@pytest.mark.parametrize(
    ("enable", "data"),
    (
        (UNICAST, frame(MAC)),
        (MULTICAST, frame(GROUP)),
        (BROADCAST, frame(b"\xff" * 6)),
        (ARP, frame(b"\xff" * 6, kind=0x806)),
        (MAGIC, MAGIC_FRAME),
    ),
)
def test_wake_up(enable: int, data: bytes) -> None:
    with Chip() as chip:
        chip.loop()
        chip.w("CCSR", lib.DP83820_CCSR_PMEEN)
        assert chip.through(data) is None
        assert not chip.r("CCSR") & lib.DP83820_CCSR_PMESTS, "nothing is enabled"
        chip.w("WCSR", enable)
        chip.r("ISR")
        assert chip.through(data) is None, "only looked at"
        assert chip.r("WCSR") == enable | enable << lib.DP83820_WCSR_STATUS_SHIFT
        assert chip.r("CCSR") & lib.DP83820_CCSR_PMESTS
        assert chip.config(0x44, 2) & lib.DP83820_PM_PME_STATUS
        assert chip.r("ISR") & lib.DP83820_ISR_PME
        chip.config_w(0x44, lib.DP83820_PM_PME_STATUS, 2)
        assert not chip.config(0x44, 2) & lib.DP83820_PM_PME_STATUS
        chip.w("CCSR", lib.DP83820_CCSR_PMESTS)
        assert chip.r("CCSR") == 0
        assert chip.through(data), "PME is off"


def test_wake_up_with_a_password() -> None:
    with Chip() as chip:
        chip.loop()
        for i, word in enumerate(words(b"secret")):
            chip.rf_w(lib.DP83820_RF_SECURE + 2 * i, word)
        chip.filter(ACCEPT_ALL)
        chip.w("CCSR", lib.DP83820_CCSR_PMEEN)
        chip.w("WCSR", MAGIC | SECURE)
        chip.through(MAGIC_FRAME + b"sesame")
        assert chip.r("WCSR") == MAGIC | SECURE | HACK and not chip.r("CCSR") & 0x8000
        chip.w("WCSR", MAGIC | SECURE)
        chip.through(MAGIC_FRAME + b"secret")
        assert chip.r("WCSR") == MAGIC | SECURE | lib.DP83820_WCSR_MAGIC_SEEN


@pytest.mark.parametrize("number", range(4))
def test_wake_up_by_a_pattern(number: int) -> None:
    """20 bytes, of which those with an enable are compared."""
    wanted = frame(MAC, kind=0x800, length=80)
    with Chip() as chip:
        chip.loop()
        counts = lib.DP83820_RF_COUNTS + number // 2 * 2
        chip.rf_w(counts, 20 << number % 2 * 8)
        buffer = getattr(lib, f"DP83820_RF_PATTERN{number}")
        for i in range(10):
            enable = 3 if i != 9 else 1  # not byte 19
            chip.rf_w(
                buffer + 2 * i, int.from_bytes(wanted[2 * i : 2 * i + 2], "little") | enable << 16
            )
        chip.filter(ACCEPT_ALL)
        chip.w("CCSR", lib.DP83820_CCSR_PMEEN)
        enabled = PATTERN0 << number
        chip.w("WCSR", enabled)
        for i in (0, 13, 18):
            other = bytearray(wanted)
            other[i] ^= 4
            chip.through(bytes(other))
            assert chip.r("WCSR") == enabled, f"byte {i} is another one"
        chip.through(wanted[:19].ljust(80, b"x"))
        assert chip.r("WCSR") == enabled | enabled << lib.DP83820_WCSR_STATUS_SHIFT
        assert chip.r("CCSR") & lib.DP83820_CCSR_PMESTS


def test_what_woke_it_is_known_after_power_up() -> None:
    """D3hot to D0 is a reset, but not of PME and of what it came from."""
    with cabled() as (a, b):
        a.w("CCSR", lib.DP83820_CCSR_PMEEN)
        a.w("WCSR", MAGIC)
        a.config_w(0x44, lib.DP83820_PM_PME_EN | 3, 2)
        b.send(MAGIC_FRAME)
        until(lambda: a.config(0x44, 2) & lib.DP83820_PM_PME_STATUS)
        a.config_w(0x44, lib.DP83820_PM_PME_EN, 2)
        assert a.config(4, 2) == 0 and a.config(0x44, 2) == 0x8100
        a.config_w(4, 7, 2)
        assert a.r("WCSR") == MAGIC | lib.DP83820_WCSR_MAGIC_SEEN
        assert a.r("CCSR") == lib.DP83820_CCSR_PMEEN | lib.DP83820_CCSR_PMESTS
        a.config_w(0x44, lib.DP83820_PM_PME_STATUS, 2)
        assert a.config(0x44, 2) == 0


def test_wake_up_by_the_link() -> None:
    with Chip(loop=True) as chip:
        chip.linked()
        chip.w("CCSR", lib.DP83820_CCSR_PMEEN)
        chip.w("WCSR", PHY)
        chip.fault("link-down", "ms=5")
        assert chip.r("WCSR") == PHY | PHY << lib.DP83820_WCSR_STATUS_SHIFT


# Faults, seen from the registers; what the driver makes of them is in test_nic_driver.py.


def test_lost_frames() -> None:
    with Chip(loop=True) as chip:
        ready(chip)
        chip.fault("lose", "every=2", "count=1", "on=tx")
        for i in range(3):
            chip.send(frame(fill=i))
        until(lambda: chip.filled(1))
        assert [chip.received(i).data for i in range(2)] == [frame(fill=0), frame(fill=2)]
        assert chip.model.faults() == []


def test_corrupted_frames() -> None:
    with Chip(loop=True) as chip:
        ready(chip, rxcfg=RXCFG | lib.DP83820_RXCFG_AEP)
        chip.fault("corrupt", "count=1")
        chip.send(frame())
        until(chip.filled)
        assert chip.received().cmdsts & lib.DP83820_RX_CRCE and chip.received().data != frame()


def test_damage_inside_the_chip_has_a_good_fcs() -> None:
    with Chip(loop=True) as chip:
        ready(chip)
        chip.fault("damage", "count=1", "on=tx")
        chip.send(frame())
        until(chip.filled)
        got = chip.received()
        assert got.cmdsts & lib.DP83820_OK
        assert sum(a != b for a, b in zip(got.data, frame(), strict=True)) == 1


def test_duplicated_frames() -> None:
    with Chip(loop=True) as chip:
        ready(chip)
        chip.fault("duplicate", "count=1", "on=tx")
        chip.send(frame(fill=1))
        until(lambda: chip.filled(1))
        assert [chip.received(i).data[14] for i in range(2)] == [1, 1]


def test_late_frames() -> None:
    def order() -> list[int]:
        """The second is sent at once, unless we are kept from it for those 20 ms."""
        with Chip(loop=True) as chip:
            ready(chip)
            chip.fault("delay", "ms=20", "count=1")
            chip.send(frame(fill=2))
            chip.send(frame(fill=3))
            until(lambda: chip.filled(1))
            return [chip.received(i).data[14] for i in range(2)]

    at_best(order, lambda found: found == [3, 2], "the first arrives last")


def test_overrun() -> None:
    with Chip() as chip:
        chip.loop()
        chip.fault("overrun", "count=1")
        chip.r("ISR")
        assert chip.through(frame()) is None
        assert chip.r("ISR") & lib.DP83820_ISR_RXORN
        assert chip.through(frame())


def test_descriptor_fetch_error() -> None:
    with Chip() as chip:
        chip.loop()
        chip.fault("fetch", "count=1")
        chip.r("ISR")
        assert chip.send(frame())[0] & lib.DP83820_OWN
        assert chip.r("ISR") == lib.DP83820_ISR_RMABT | lib.DP83820_ISR_HIBINT
        chip.w("CR", lib.DP83820_CR_TXE)
        assert chip.status(0x1000)[0] & lib.DP83820_OK


def test_lost_interrupt_comes_back_with_the_next_reading_of_isr() -> None:
    with Chip() as chip:
        chip.r("ISR")
        chip.w("IMR", lib.DP83820_ISR_SWI)
        chip.w("IER", 1)
        chip.fault("lost-irq", "count=1")
        for expected in (0, 1):
            chip.w("CR", lib.DP83820_CR_SWI)
            assert chip.level == expected
            assert chip.r("ISR") == lib.DP83820_ISR_SWI


def test_stuck_transmitter() -> None:
    with Chip() as chip:
        chip.loop()
        chip.fault("stuck-tx", "count=1")
        assert chip.send(frame())[0] & lib.DP83820_OWN and chip.r("CR") & lib.DP83820_CR_TXE
        chip.w("CR", lib.DP83820_CR_TXR)
        assert chip.send(frame())[0] & lib.DP83820_OK
