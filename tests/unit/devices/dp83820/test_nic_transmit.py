# SPDX-License-Identifier: MIT
"""The DP83820 model's transmitter: descriptors, states, tags, checksums (sections 4 to 7)."""

from __future__ import annotations

import random
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether

from tests.unit.devices.dp83820.nic_host import MAC, OTHER, STRIDE, TX, TX_DATA, Chip, frame
from usrdrv.devices._models import lib

OWN, MORE, INTR, OK = (getattr(lib, f"DP83820_{n}") for n in ("OWN", "MORE", "INTR", "OK"))
ATP = lib.DP83820_TXCFG_ATP
MLB = lib.DP83820_TXCFG_MLB
TXE = lib.DP83820_CR_TXE
PER_QUEUE = 0x7F800000
SENT = lib.DP83820_ISR_TXOK | lib.DP83820_ISR_TXIDLE


@pytest.mark.parametrize("wide", (False, True))
def test_one_frame(wide: bool) -> None:
    with Chip(wide=wide) as chip:
        chip.loop()
        chip.r("ISR")
        sent = frame(length=100)
        assert chip.send(sent, extsts=0) == (OK | 100, 0)
        assert chip.received().data == sent
        assert chip.r("ISR") & ~0x3F == SENT, "no TXDESC without INTR"
        assert chip.r("TXDP") == (chip.base + TX) & 0xFFFFFFFF, "stays at the end of the list"
        assert chip.r("CR") == lib.DP83820_CR_RXE


def test_descriptors_without_extended_status() -> None:
    """12 bytes: what follows is somebody else's."""
    with Chip() as chip:
        chip.loop()
        chip.w("CFG", chip.r("CFG") & ~lib.DP83820_CFG_EXTSTS_EN)
        cmdsts, behind = chip.send(frame(), extsts=0xFFFFFFFF)
        assert cmdsts == OK | 60 and behind == 0xFFFFFFFF
        assert chip.status(0x8000)[1] == 0 and chip.filled()


def test_fragments() -> None:
    with Chip() as chip:
        chip.loop()
        sent = frame(length=1000)
        parts = (sent[:1], sent[1:14], b"", sent[14:777], sent[777:])
        chip.r("ISR")
        cmdsts, _ = chip.send(*parts, flags=INTR)
        assert cmdsts == OK | INTR | len(parts[-1])
        for i, part in enumerate(parts[:-1]):
            assert chip.status(TX + i * STRIDE)[0] == MORE | INTR | len(part), "OWN is given back"
        assert chip.received().data == sent
        assert chip.r("ISR") & lib.DP83820_ISR_TXDESC


def test_intr_is_reported_without_a_queue() -> None:
    """Section 3.5: with PQCR = 0, as on the cards of Plan 9's driver, which prints each bit it does not know."""
    with Chip() as chip:
        chip.loop()
        chip.r("ISR")
        chip.send(frame(), flags=INTR)
        assert chip.r("ISR") & (lib.DP83820_ISR_TXDESC | PER_QUEUE) == lib.DP83820_ISR_TXDESC


@pytest.mark.parametrize("queue", range(4))
def test_intr_is_reported_for_the_queue_too(queue: int) -> None:
    """Section 3.5: queue n at bit 27 + n, as Linux, NetBSD and Etherboot have it."""
    with Chip() as chip:
        chip.loop()
        chip.w("PQCR", lib.DP83820_PQCR_TXPQEN)
        chip.r("ISR")
        chip.write_packet(TX, frame(), flags=INTR)
        chip.w(f"TXDP{queue}" if queue else "TXDP", chip.base + TX)
        chip.w("CR", TXE | lib.DP83820_CR_TXPRI0 << queue)
        assert chip.r("ISR") & (lib.DP83820_ISR_TXDESC | PER_QUEUE) == (
            lib.DP83820_ISR_TXDESC | 1 << 27 + queue
        )


def test_ring_stops_at_the_first_descriptor_that_is_not_owned() -> None:
    with Chip() as chip:
        chip.loop()
        at = TX
        for i in range(3):
            at = chip.write_packet(at, frame(fill=i), link=at + STRIDE)
        chip.descriptor(at, TX_DATA, 0, TX)
        chip.w("TXDP", chip.base + TX)
        chip.w("CR", TXE)
        assert chip.r("TXDP") == chip.base + TX + 3 * STRIDE, "at the next one to come"
        assert [chip.received(i).data for i in range(3)] == [frame(fill=i) for i in range(3)]
        chip.r("ISR")
        chip.w("CR", TXE)
        assert chip.r("ISR") == lib.DP83820_ISR_TXIDLE, "an event of each TXE that finds nothing"
        assert chip.r("ISR") == 0
        chip.write_packet(at, frame(fill=3), link=TX)
        chip.w("CR", TXE)
        assert chip.received(3).data == frame(fill=3)
        assert chip.r("TXDP") == chip.base + TX


def test_list_that_goes_on_behind_its_end() -> None:
    """CTDD: TXE looks at the completed descriptor's link again."""
    with Chip() as chip:
        chip.loop()
        chip.send(frame(fill=1))
        chip.r("ISR")
        chip.w("CR", TXE)
        assert chip.r("ISR") == lib.DP83820_ISR_TXIDLE and not chip.filled(1)
        chip.write_packet(TX + STRIDE, frame(fill=2))
        chip.put(TX, (chip.base + TX + STRIDE).to_bytes(4, "little"))
        chip.w("CR", TXE)
        assert chip.received(1).data == frame(fill=2)
        chip.write_packet(TX, frame(fill=3))
        chip.w("TXDP", chip.base + TX)
        chip.w("CR", TXE)
        assert chip.received(2).data == frame(fill=3), "writing TXDP starts anew"


def test_padding() -> None:
    with Chip() as chip:
        chip.enable(txcfg=MLB | ATP)
        assert chip.through(frame(length=20)).data == frame(length=20) + bytes(40)  # type: ignore[union-attr]
        assert chip.through(frame(length=60)).data == frame(length=60)  # type: ignore[union-attr]
        chip.w("TXCFG", MLB)
        assert chip.through(frame(length=20)) is None, "a runt"


def test_own_fcs() -> None:
    """SUPCRC: the software's four last bytes are the FCS, right or wrong."""
    with Chip() as chip:
        chip.loop()
        good = frame(length=80) + zlib.crc32(frame(length=80)).to_bytes(4, "little")
        got = chip.through(good, flags=lib.DP83820_SUPCRC)
        assert got and got.data == frame(length=80)
        assert chip.through(good[:-1] + b"\0", flags=lib.DP83820_SUPCRC) is None
        assert chip.send(good[:-1] + b"\0", flags=lib.DP83820_SUPCRC)[0] & OK, (
            "the sender cannot know"
        )


def tag(data: bytes, tci: int) -> bytes:
    return data[:12] + b"\x81\x00" + tci.to_bytes(2, "big") + data[12:]


def test_vlan_tags() -> None:
    with Chip() as chip:
        chip.loop()
        swapped = int.from_bytes((0xA123).to_bytes(2, "big"), "little")
        request = lib.DP83820_VPKT | swapped
        assert chip.through(frame(), extsts=request).data == frame()  # type: ignore[union-attr]
        chip.w("VTCR", lib.DP83820_VTCR_VPPTI)
        assert chip.through(frame(), extsts=request).data == tag(frame(), 0xA123)  # type: ignore[union-attr]
        assert chip.through(frame(), extsts=swapped).data == frame()  # type: ignore[union-attr]
        chip.w("VTCR", lib.DP83820_VTCR_VGTI)
        chip.w("VDR", swapped << 16 | lib.DP83820_VDR_8021Q)
        assert chip.through(frame()).data == tag(frame(), 0xA123)  # type: ignore[union-attr]


def packet(layer: object, **ip: Any) -> bytes:
    built: bytes = bytes(
        Ether(dst=MAC, src=OTHER) / IP(src="10.0.0.1", dst="10.0.0.2", **ip) / layer
    )
    return built


def spoil(data: bytes, *places: int) -> bytes:
    """The same with nonsense in two bytes each: the chip replaces, it does not add."""
    out = bytearray(data)
    for at in places:
        out[at : at + 2] = b"\xde\xad"
    return bytes(out)


IPPKT, TCPPKT, UDPPKT = lib.DP83820_IPPKT, lib.DP83820_TCPPKT, lib.DP83820_UDPPKT
TCP_PACKET = packet(TCP(sport=1, dport=2) / (b"usrdrv" * 101))
UDP_PACKET = packet(UDP(sport=1, dport=2) / (b"odd" * 99))


def test_checksums() -> None:
    with Chip() as chip:
        chip.loop()

        def sent(data: bytes, extsts: int = 0) -> bytes:
            got = chip.through(data, extsts=extsts)
            assert got
            return got.data

        wrong = spoil(TCP_PACKET, 24, 50)
        assert sent(wrong, IPPKT | TCPPKT) == wrong, "VTCR.PPCHK is off"
        chip.w("VTCR", lib.DP83820_VTCR_PPCHK)
        assert sent(wrong) == wrong
        assert sent(wrong, IPPKT | TCPPKT) == TCP_PACKET
        assert sent(wrong, IPPKT) == spoil(TCP_PACKET, 50)
        assert sent(wrong, TCPPKT) == spoil(TCP_PACKET, 24)
        assert sent(spoil(UDP_PACKET, 24, 40), IPPKT | UDPPKT) == UDP_PACKET
        assert sent(wrong, UDPPKT) == wrong, "not what it is"
        chip.w("VTCR", lib.DP83820_VTCR_GCHK)
        assert sent(wrong) == TCP_PACKET
        assert sent(spoil(UDP_PACKET, 24, 40)) == UDP_PACKET
        six = bytes(Ether(dst=MAC) / IPv6() / TCP() / b"x")
        assert sent(spoil(six, 70)) == spoil(six, 70), "never of IPv6"
        fragment = packet(UDP() / (b"f" * 64), flags="MF")
        assert sent(spoil(fragment, 24, 40)) == spoil(fragment, 40), (
            "of a fragment only the header's"
        )
        tagged = bytes(Ether(dst=MAC) / Dot1Q(vlan=9) / IP() / TCP() / (b"y" * 40))
        assert sent(spoil(tagged, 28, 54)) == tagged


def test_udp_checksum_of_zero_is_sent_as_all_ones() -> None:
    with Chip() as chip:
        chip.loop()
        chip.w("VTCR", lib.DP83820_VTCR_PPCHK)
        plain = packet(UDP(sport=1, dport=2, chksum=0) / bytes(40))
        probe = chip.through(plain, extsts=UDPPKT)
        assert probe
        fill = probe.data[40:42]
        zero = plain[:42] + fill + plain[44:]
        got = chip.through(zero, extsts=UDPPKT)
        assert got and got.data[40:42] == b"\xff\xff"


def test_checksum_of_more_than_the_fifo_holds_hangs_it() -> None:
    with Chip() as chip:
        chip.loop()
        chip.w("VTCR", lib.DP83820_VTCR_PPCHK)
        huge = packet(TCP() / bytes(8200))
        assert chip.send(huge, extsts=IPPKT | TCPPKT)[0] & OWN
        assert chip.r("CR") & TXE and chip.counter("tx_hangs") == 1
        chip.w("CR", TXE)
        assert chip.status(TX)[0] & OWN
        chip.r("ISR")
        chip.w("CR", lib.DP83820_CR_TXR)
        assert chip.r("ISR") & lib.DP83820_ISR_TXRCMP and not chip.r("CR") & TXE
        chip.w("TXDP_HI", 0)
        assert chip.send(frame())[0] == OK | 60, "goes on"


def test_frame_that_is_too_long_for_any_wire() -> None:
    with Chip() as chip:
        chip.loop()
        at = chip.write_packet(TX, *[bytes(0x4000)] * 5)
        chip.r("ISR")
        chip.w("TXDP", chip.base + TX)
        chip.w("CR", TXE)
        assert chip.status(at - STRIDE)[0] & lib.DP83820_TX_ABORT
        assert chip.r("ISR") & lib.DP83820_ISR_TXERR and not chip.filled()


def test_without_a_link_frames_are_consumed() -> None:
    with Chip() as chip:
        chip.enable()
        assert chip.send(frame())[0] == OK | 60
        assert chip.counter("tx_no_link") == 1 and chip.counter("tx_frames") == 0


def test_without_bus_mastering_it_waits() -> None:
    with Chip() as chip:
        chip.loop()
        chip.config_w(4, 3, 2)
        assert chip.send(frame())[0] & OWN
        chip.config_w(4, 7, 2)
        chip.w("CR", TXE)
        assert chip.status(TX)[0] == OK | 60


def test_descriptor_that_nobody_answers_for() -> None:
    with Chip() as chip:
        chip.loop()
        chip.r("ISR")
        chip.w("TXDP", 0x100)
        chip.w("CR", TXE)
        assert chip.r("ISR") == lib.DP83820_ISR_RMABT | lib.DP83820_ISR_HIBINT
        assert chip.config(6, 2) & 0x2000 and not chip.r("CR") & TXE


def test_txd_stops() -> None:
    with Chip() as chip:
        chip.enable()
        chip.config_w(4, 3, 2)
        chip.send(frame())
        assert chip.r("CR") == TXE
        chip.w("CR", lib.DP83820_CR_TXD)
        assert chip.r("CR") == 0


@pytest.mark.parametrize(
    ("pqcr", "order"),
    (
        (lib.DP83820_PQCR_TXPQEN, "001122"),
        (lib.DP83820_PQCR_TXPQEN | lib.DP83820_PQCR_TXFAIR, "012012"),
    ),
)
def test_priority_queues(pqcr: int, order: str) -> None:
    with Chip() as chip:
        chip.loop()
        chip.w("PQCR", pqcr)
        chip.config_w(4, 3, 2)
        for queue in range(3):
            first = TX + queue * 0x400
            at = chip.write_packet(first, frame(fill=16 * queue), link=first + STRIDE)
            chip.write_packet(at, frame(fill=16 * queue))
            chip.w(f"TXDP{queue}" if queue else "TXDP", chip.base + first)
            chip.w("CR", TXE | lib.DP83820_CR_TXPRI0 << queue)
        chip.config_w(4, 7, 2)
        chip.w("CR", TXE)
        assert "".join(str(chip.received(i).data[14] >> 4) for i in range(6)) == order


class Reference:
    """What section 5.1 says a list of descriptors does, without a chip."""

    @staticmethod
    def run(descriptors: list[tuple[int, bytes]]) -> tuple[list[bytes], list[int], int]:
        """Frames, status words, and the descriptor at which it stops (of a ring)."""
        frames: list[bytes] = []
        packet, status = b"", [cmdsts for cmdsts, _ in descriptors]
        for i, (cmdsts, data) in enumerate(descriptors):
            if not cmdsts & OWN:
                return frames, status, i
            packet += data
            status[i] &= ~OWN
            if not cmdsts & MORE:
                frames.append(packet)
                status[i] |= OK
                packet = b""
        return frames, status, 0


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_ring_does_what_the_state_machine_says(data: st.DataObject) -> None:
    shapes = data.draw(
        st.lists(st.lists(st.integers(0, 300), min_size=1, max_size=4), min_size=1, max_size=6)
    )
    seed = random.Random(data.draw(st.integers(0, 1 << 16)))
    wide = data.draw(st.booleans())
    ring: list[tuple[int, bytes]] = []
    for shape in shapes:
        head = frame(length=60, fill=seed.randrange(256))
        parts = [head, *(seed.randbytes(size) for size in shape)]
        flags = seed.choice((0, INTR))
        ring += [
            (OWN | flags | (0 if i == len(parts) - 1 else MORE) | len(part), part)
            for i, part in enumerate(parts)
        ]
    ring.append((0, b""))
    with Chip(wide=wide) as chip:
        chip.loop(
            rxcfg=lib.DP83820_RXCFG_RX_FD | lib.DP83820_RXCFG_STRIPCRC | lib.DP83820_RXCFG_ALP
        )
        where = TX_DATA
        for i, (cmdsts, part) in enumerate(ring):
            chip.put(where, part)
            chip.descriptor(TX + i * STRIDE, where, cmdsts, TX + (i + 1) % len(ring) * STRIDE)
            where += len(part)
        chip.w("TXDP", chip.base + TX)
        chip.w("CR", TXE)
        frames, status, stop = Reference.run(ring)
        assert [chip.status(TX + i * STRIDE)[0] for i in range(len(ring))] == status
        assert chip.r("TXDP") == (chip.base + TX + stop * STRIDE) & 0xFFFFFFFF
        assert [chip.received(i).data for i in range(len(frames))] == frames
        assert not chip.filled(len(frames))
