# SPDX-License-Identifier: MIT
"""The DP83820 model's receiver: filter, rules, descriptors, FIFO, tags, checksums (sections 3.12, 5.2, 6, 7)."""

from __future__ import annotations

import itertools
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from tests.unit.devices.dp83820.nic_host import (
    ACCEPT_ALL,
    MAC,
    OTHER,
    RX,
    RX_DATA,
    RXCFG,
    STRIDE,
    Chip,
    Received,
    frame,
)
from tests.waiting import until
from usrdrv.devices._models import lib

BROADCAST = b"\xff" * 6
GROUP = bytes.fromhex("01005e000001")
OWN, MORE, OK, LBP = (getattr(lib, f"DP83820_{n}") for n in ("OWN", "MORE", "OK", "RX_LBP"))
AEP, ARP, ALP, AIRL = (getattr(lib, f"DP83820_RXCFG_{n}") for n in ("AEP", "ARP", "ALP", "AIRL"))
AAB, AAM, AAU, APM, AARP, MHEN, UHEN, ULM, APAT0 = (
    getattr(lib, f"DP83820_RFCR_{n}")
    for n in ("AAB", "AAM", "AAU", "APM", "AARP", "MHEN", "UHEN", "ULM", "APAT0")
)
RXE = lib.DP83820_CR_RXE
HASHES = (
    ("01005e000001", 0x17E, 13),
    ("333300000001", 0x1F8, 12),
    ("0180c2000001", 0x10E, 6),
    ("01005e0000fb", 0x13E, 11),
    ("ffffffffffff", 0x1FE, 10),
)
"""Section 3.12: address, word of the hash memory, bit."""


@pytest.mark.parametrize("wide", (False, True))
def test_one_frame(wide: bool) -> None:
    with Chip(wide=wide) as chip:
        chip.loop()
        chip.r("ISR")
        got = chip.through(frame(length=99))
        assert got == Received(OWN | OK | LBP | lib.DP83820_RX_DEST_US | 99, 0, frame(length=99))
        assert chip.r("ISR") & lib.DP83820_ISR_RXOK
        assert chip.r("RXDP") == (chip.base + RX + STRIDE) & 0xFFFFFFFF


@pytest.mark.parametrize("dst", (MAC, OTHER, GROUP, BROADCAST))
@pytest.mark.parametrize("flags", (0, AAB, AAM, AAU, APM, AAB | APM))
def test_address_filter(dst: bytes, flags: int) -> None:
    wanted = {MAC: AAU | APM, OTHER: AAU, GROUP: AAM, BROADCAST: AAB}
    dest = {MAC: 1, OTHER: 0, GROUP: 2, BROADCAST: 3}
    with Chip() as chip:
        chip.loop()
        chip.filter(flags)
        got = chip.through(frame(dst))
        assert (got is not None) == bool(flags & wanted[dst])
        assert got is None or got.dest == dest[dst]


def test_filter_that_is_off() -> None:
    with Chip() as chip:
        chip.loop()
        chip.w("RFCR", ACCEPT_ALL)
        assert chip.through(frame()) is None and chip.counter("rx_disabled") == 1


@pytest.mark.parametrize(("address", "word", "bit"), HASHES[:4])
def test_multicast_hash(address: str, word: int, bit: int) -> None:
    dst = bytes.fromhex(address)
    with Chip() as chip:
        chip.loop()
        chip.filter(MHEN)
        assert chip.through(frame(dst)) is None
        chip.rf_w(word, 1 << bit)
        chip.filter(MHEN)
        got = chip.through(frame(dst))
        assert got and got.dest == 2
        chip.rf_w(word, 0xFFFF ^ 1 << bit)
        chip.filter(MHEN)
        assert chip.through(frame(dst)) is None


def test_unicast_hash() -> None:
    with Chip() as chip:
        chip.loop()
        for word in range(0x100, 0x200, 2):
            chip.rf_w(word, 0xFFFF)
        chip.filter(UHEN)
        got = chip.through(frame(OTHER))
        assert got and got.dest == 0
        assert chip.through(frame(GROUP)) is None and chip.through(frame(BROADCAST)) is None


def test_local_bit_that_does_not_matter() -> None:
    with Chip() as chip:
        chip.loop()
        universal = bytes([MAC[0] ^ 2]) + MAC[1:]
        chip.filter(APM)
        assert chip.through(frame(universal)) is None
        chip.filter(APM | ULM)
        assert chip.through(frame(universal))


def test_arp() -> None:
    with Chip() as chip:
        chip.loop()
        chip.filter(AARP)
        assert chip.through(frame(BROADCAST, kind=0x806)) and chip.through(frame(MAC, kind=0x806))
        assert chip.through(frame(OTHER, kind=0x806)) is None
        assert chip.through(frame(BROADCAST, kind=0x800)) is None


@pytest.mark.parametrize("number", range(4))
def test_patterns(number: int) -> None:
    at = 0x200 + 0x80 * number
    with Chip() as chip:
        chip.loop()
        wanted = frame(OTHER)
        chip.filter(APAT0 << number)
        assert chip.through(wanted) is None, "of no bytes: matches nothing"
        for i in range(0, 16, 2):
            chip.w("RFCR", at + i)
            chip.w("RFDR", wanted[i] | wanted[i + 1] << 8 | (0x20000 if i == 12 else 0x30000))
        chip.rf_w(0x006 + number // 2 * 2, 15 << number % 2 * 8)
        chip.filter(APAT0 << number)
        assert chip.through(wanted)
        assert chip.through(wanted[:12] + b"\x99" + wanted[13:]), "a byte that is not enabled"
        assert chip.through(wanted[:13] + b"\0" + wanted[14:]) is None
        assert chip.through(wanted[:15] + b"\0" + wanted[16:]), "behind the count"
        chip.filter(APAT0 << (number + 1) % 4)
        assert chip.through(wanted) is None, "another pattern"


@pytest.mark.parametrize(
    ("length", "rule", "flag"),
    ((59, ARP, "RUNT"), (1515, ALP, "LONG"), (100, 0, None), (60, 0, None), (1514, 0, None)),
)
def test_lengths(length: int, rule: int, flag: str | None) -> None:
    with Chip() as chip:
        chip.loop()
        got = chip.through(frame(length=length))
        assert (got is None) == (flag is not None)
        chip.w("RXCFG", RXCFG | rule)
        got = chip.through(frame(length=length))
        assert got and len(got.data) == length
        for name in ("RUNT", "LONG"):
            assert bool(got.cmdsts & getattr(lib, f"DP83820_RX_{name}")) == (name == flag)
        assert bool(got.cmdsts & OK) == (flag != "RUNT")


def test_length_field_that_is_wrong() -> None:
    with Chip() as chip:
        chip.loop()
        assert chip.through(frame(kind=86, length=100)), "right"
        assert chip.through(frame(kind=10, length=60)), "padded"
        assert chip.through(frame(kind=80, length=100)) is None
        chip.w("RXCFG", RXCFG | AIRL)
        got = chip.through(frame(kind=80, length=100))
        assert got and got.cmdsts & lib.DP83820_RX_IRL and got.cmdsts & OK


def test_damaged_frames() -> None:
    with Chip() as chip:
        chip.loop()
        chip.w("MIBC", 0)
        bad = frame() + b"\0\0\0\0"
        chip.r("ISR")
        assert chip.through(bad, flags=lib.DP83820_SUPCRC) is None
        assert chip.r("ISR") & lib.DP83820_ISR_RXERR and chip.counter("rx_rejected") == 1
        chip.w("RXCFG", RXCFG | AEP)
        got = chip.through(bad, flags=lib.DP83820_SUPCRC)
        assert got and got.cmdsts & lib.DP83820_RX_CRCE and not got.cmdsts & OK
        assert chip.r(lib.DP83820_MIB + 4 * lib.DP83820_MIB_FCS) == 2
        assert chip.r(lib.DP83820_MIB + 4 * lib.DP83820_MIB_ERRORED) == 2


def test_fcs_that_is_kept() -> None:
    with Chip() as chip:
        chip.loop()
        chip.w("RXCFG", lib.DP83820_RXCFG_RX_FD)
        got = chip.through(frame())
        assert got and got.data == frame() + zlib.crc32(frame()).to_bytes(4, "little")


@given(st.integers(60, 9014), st.lists(st.integers(1, 250), min_size=1, max_size=8), st.booleans())
@settings(max_examples=60, deadline=None)
def test_frame_over_any_buffers_is_whole(length: int, eights: list[int], wide: bool) -> None:
    """Against a reference: fill one buffer after the other; all but the last say MORE."""
    sizes = [8 * n for n in eights]
    sent = frame(length=length)
    with Chip(wide=wide) as chip:
        chip.loop(rxcfg=RXCFG | ALP)
        chip.w("CR", lib.DP83820_CR_RXR)
        chip.w("RXDP_HI", chip.base >> 32)
        count = 0
        for i, size in enumerate(itertools.cycle(sizes)):
            chip.descriptor(RX + i * STRIDE, RX_DATA + i * 2048, size, RX + (i + 1) * STRIDE)
            count += size
            if count >= length or i == 200:
                break
        chip.descriptor(RX + (i + 1) * STRIDE, RX_DATA, OWN, None)
        chip.w("RXDP", chip.base + RX)
        chip.w("CR", RXE)
        chip.send(sent)
        got, left = b"", length
        for k in range(i + 1):
            size = min(sizes[k % len(sizes)], left)
            left -= size
            cmdsts, _ = chip.status(RX + k * STRIDE)
            assert cmdsts & lib.DP83820_SIZE == size
            got += chip.get(RX_DATA + k * 2048, size)
            if left:
                assert cmdsts == OWN | MORE | size
            else:
                assert cmdsts & (OWN | MORE | OK) == OWN | OK
                break
        if left == 0:
            assert got == sent


def test_receiver_that_runs_out_of_descriptors() -> None:
    """Frames wait in the FIFO; RXIDLE is an event."""
    with Chip() as chip:
        chip.loop()
        chip.w("CR", lib.DP83820_CR_RXR)
        chip.receive_into(2, ring=False)
        chip.r("ISR")
        for i in range(5):
            chip.send(frame(fill=i))
        assert chip.r("ISR") & (lib.DP83820_ISR_RXIDLE | lib.DP83820_ISR_RXORN) == (
            lib.DP83820_ISR_RXIDLE
        )
        assert not chip.r("CR") & RXE
        chip.send(frame(fill=5))
        assert not chip.r("ISR") & lib.DP83820_ISR_RXIDLE
        assert [chip.received(i).data for i in range(2)] == [frame(fill=i) for i in range(2)]
        chip.receive_into(4, ring=False)
        wait_filled(chip, 4)
        assert [chip.received(i).data for i in range(4)] == [frame(fill=i) for i in range(2, 6)]


def wait_filled(chip: Chip, count: int) -> None:
    until(lambda: all(chip.filled(i) for i in range(count)))


def test_full_fifo_loses_frames_and_says_so() -> None:
    with Chip() as chip:
        chip.loop()
        chip.w("MIBC", 0)
        chip.w("CR", lib.DP83820_CR_RXR)
        chip.receive_into(1, ring=False)
        for i in range(24):
            chip.send(frame(length=1514, fill=i))
        lost = chip.counter("rx_overruns")
        assert lost == 24 - 1 - 32768 // 1514
        assert chip.r("ISR") & lib.DP83820_ISR_RXORN
        assert chip.r(lib.DP83820_MIB + 4 * lib.DP83820_MIB_MISSED) == lost
        chip.receive_into(21, size=1600, ring=False)
        wait_filled(chip, 16)
        assert chip.received(15).data == frame(length=1514, fill=16)


def test_rxe_at_a_filled_descriptor_is_idle_at_once() -> None:
    """Not when the next frame comes: by then it may be free, and not the one the driver waits at."""
    with Chip() as chip:
        chip.loop()
        chip.descriptor(RX + 4 * STRIDE, RX_DATA, OWN | OK | 60, RX)
        chip.r("ISR")
        chip.w("RXDP", chip.base + RX + 4 * STRIDE)
        chip.w("CR", RXE)
        assert chip.r("ISR") == lib.DP83820_ISR_RXIDLE and not chip.r("CR") & RXE
        chip.descriptor(RX + 4 * STRIDE, RX_DATA, 1600, RX)
        chip.send(frame())
        assert chip.status(RX + 4 * STRIDE)[0] == 1600, "it was told nothing about that"
        chip.w("CR", RXE)
        until(lambda: chip.status(RX + 4 * STRIDE)[0] & OWN)


def test_rxd_stops_and_frames_are_lost() -> None:
    with Chip() as chip:
        chip.loop()
        chip.w("CR", lib.DP83820_CR_RXD)
        chip.send(frame())
        assert not chip.filled() and chip.counter("rx_disabled") == 1
        chip.w("CR", RXE)
        chip.send(frame(fill=1))
        assert chip.received().data == frame(fill=1)


def test_buffer_that_nobody_answers_for() -> None:
    with Chip() as chip:
        chip.loop()
        chip.descriptor(RX, 16 << 20, 1600, None)
        chip.r("ISR")
        chip.send(frame())
        assert chip.r("ISR") & lib.DP83820_ISR_RMABT and chip.counter("master_aborts") == 1
        assert chip.status(RX)[0] == 1600


def test_buffers_belong_on_8_bytes() -> None:
    with Chip() as chip:
        chip.loop()
        chip.descriptor(RX, RX_DATA + 4, 1600, None)
        chip.send(frame())
        assert chip.counter("rx_misaligned") == 1


def tagged(data: bytes, tci: int, kind: bytes = b"\x81\x00") -> bytes:
    return data[:12] + kind + tci.to_bytes(2, "big") + data[12:]


def test_vlan_tags() -> None:
    swapped = int.from_bytes((0x6123).to_bytes(2, "big"), "little")
    sent = tagged(frame(), 0x6123)
    with Chip() as chip:
        chip.loop()
        got = chip.through(sent)
        assert got and got.extsts == 0 and got.data == sent
        chip.w("VRCR", lib.DP83820_VRCR_VTDEN)
        got = chip.through(sent)
        assert got and got.extsts == lib.DP83820_VPKT | swapped and got.data == sent
        got = chip.through(frame())
        assert got and got.extsts == 0
        chip.w("VRCR", lib.DP83820_VRCR_VTDEN | lib.DP83820_VRCR_VTREN)
        got = chip.through(sent)
        assert got and got.extsts == lib.DP83820_VPKT | swapped and got.data == frame()
        chip.w("VRCR", lib.DP83820_VRCR_DVTF)
        assert chip.through(sent) is None and chip.through(frame())
        chip.w("VRCR", lib.DP83820_VRCR_DUTF)
        assert chip.through(sent) and chip.through(frame()) is None
        chip.w("VRCR", lib.DP83820_VRCR_VTDEN)
        chip.w("VDR", int.from_bytes(b"\x88\xa8", "little"))
        got = chip.through(tagged(frame(), 1, b"\x88\xa8"))
        assert got and got.extsts & lib.DP83820_VPKT


def test_short_frame_is_a_runt_when_its_tag_is_gone() -> None:
    """The erratum of section 7."""
    with Chip() as chip:
        chip.loop()
        chip.w("VRCR", lib.DP83820_VRCR_VTDEN | lib.DP83820_VRCR_VTREN)
        short = tagged(frame(length=56), 5)
        assert len(short) == 60 and chip.through(short) is None
        chip.w("RXCFG", RXCFG | ARP)
        got = chip.through(short)
        assert got and got.cmdsts & lib.DP83820_RX_RUNT and not got.cmdsts & OK
        assert got.data == frame(length=56)


def ip(layer: object, **fields: Any) -> bytes:
    return bytes(Ether(dst=MAC, src=OTHER) / IP(src="10.0.0.1", dst="10.0.0.2", **fields) / layer)


def bad(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


TCP_PACKET = ip(TCP() / (b"x" * 99))
UDP_PACKET = ip(UDP() / (b"x" * 99))
E_IP, E_TCP, E_UDP = lib.DP83820_IPPKT, lib.DP83820_TCPPKT, lib.DP83820_UDPPKT
VERDICTS = {
    "tcp": (TCP_PACKET, E_IP | E_TCP),
    "bad tcp": (bad(TCP_PACKET, 90), E_IP | E_TCP | lib.DP83820_TCPERR),
    "udp": (UDP_PACKET, E_IP | E_UDP),
    "bad udp": (bad(UDP_PACKET, 90), E_IP | E_UDP | lib.DP83820_UDPERR),
    "bad header": (bad(TCP_PACKET, 26), E_IP | lib.DP83820_IPERR),
    "udp without": (ip(UDP(chksum=0) / (b"x" * 99)), E_IP),
    "fragment": (ip(UDP() / (b"x" * 64), flags="MF"), 0),
    "options": (ip(TCP() / (b"x" * 99), options=b"\1\1\1\1"), E_IP | E_TCP),
    "ipv6": (bytes(Ether(dst=MAC) / IPv6() / TCP() / (b"x" * 99)), 0),
    "cut": (TCP_PACKET[:100], 0),
    "other": (frame(), 0),
}
"""Only what was verified has a PKT bit (section 6)."""


@pytest.mark.parametrize("case", VERDICTS)
def test_checksum_verdicts(case: str) -> None:
    data, verdict = VERDICTS[case]
    with Chip() as chip:
        chip.loop()
        got = chip.through(data)
        assert got and got.extsts == 0
        chip.w("VRCR", lib.DP83820_VRCR_IPEN)
        got = chip.through(data)
        assert got and got.extsts == verdict and got.data == data


@pytest.mark.parametrize(
    ("rule", "case"), (("RIPE", "bad header"), ("RTCPE", "bad tcp"), ("RUDPE", "bad udp"))
)
def test_bad_checksums_are_rejected_on_request(rule: str, case: str) -> None:
    with Chip() as chip:
        chip.loop()
        chip.w("VRCR", lib.DP83820_VRCR_IPEN | getattr(lib, f"DP83820_VRCR_{rule}"))
        assert [name for name, (data, _) in VERDICTS.items() if chip.through(data) is None] == [
            case
        ]


@pytest.mark.parametrize(("code", "queues"), ((1, "00001111"), (2, "00011122"), (3, "00112233")))
def test_priority_queues(code: int, queues: str) -> None:
    with Chip() as chip:
        chip.enable(txcfg=lib.DP83820_TXCFG_MLB)
        chip.w("PQCR", code << 2)
        for priority, queue in enumerate(queues):
            chip.w("CR", lib.DP83820_CR_RXR)
            for i in range(4):
                chip.receive_into(1, queue=i)
            chip.send(tagged(frame(), priority << 13))
            assert [chip.filled(queue=i) for i in range(4)] == [i == int(queue) for i in range(4)]


@pytest.mark.parametrize(("code", "bits"), ((0, (0, 0, 0)), (1, (0, 0, 1)), (3, (0, 1, 3))))
def test_intr_is_reported_for_the_queue_too(code: int, bits: tuple[int, ...]) -> None:
    """Section 3.5: queue n at bit 23 + n; none of them without queues."""
    with Chip() as chip:
        chip.enable(txcfg=lib.DP83820_TXCFG_MLB)
        chip.w("PQCR", code << 2)
        for priority, queue in zip((0, 2, 6), bits, strict=True):
            chip.w("CR", lib.DP83820_CR_RXR)
            for i in range(4):
                chip.receive_into(1, queue=i)
                at = RX + i * 0x1000
                chip.put(at + 8, (chip.status(at)[0] | lib.DP83820_INTR).to_bytes(4, "little"))
            chip.r("ISR")
            chip.send(tagged(frame(), priority << 13))
            assert chip.r("ISR") & (lib.DP83820_ISR_RXDESC | 0x7F800000) == (
                lib.DP83820_ISR_RXDESC | (1 << 23 + queue if code else 0)
            )
