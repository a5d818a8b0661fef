# SPDX-License-Identifier: MIT
"""The DP83820 driver over the model: frames, offloads, faults, recovery. No root, no kernel interface."""

import itertools
import struct
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.all import (  # type: ignore[attr-defined]
    IP,
    TCP,
    UDP,
    VXLAN,
    Dot1Q,
    Ether,
    Packet,
    Raw,
    fragment,
)

from tests.names import own
from tests.unit.devices.dp83820.nic_host import Chip
from tests.unit.drivers.dp83820.nic_packets import gso, tcp_packet
from tests.unit.drivers.dp83820.nic_pair import (
    DATA_VALID,
    FRAMES,
    HEADER,
    NEEDS_CSUM,
    PLAIN,
    TCPV4,
    TCPV6,
    UDP_L4,
    End,
    Pair,
)
from tests.waiting import PATIENCE, at_best, until
from usrdrv.base import errors
from usrdrv.drivers.dp83820.driver import Options


def wire(frame: bytes) -> bytes:
    """What comes out at the other end: padded to 60 bytes."""
    return frame.ljust(60, b"\0")


def test_every_length() -> None:
    with Pair(options=Options(mtu=9000)) as pair:
        lengths = [*range(14, 300), *range(300, 9014, 97), *range(8990, 9015)]
        for length in lengths:
            frame = pair.frame(length)
            pair.a.send(frame)
            got = pair.b.receive()
            assert got.frame == wire(frame), length
            assert got.gso_type == 0
        assert pair.b.stats("rx_frames") == len(lengths) == pair.a.stats("tx_frames")
        assert pair.a.stats("tx_errors") == pair.b.stats("rx_errors") == 0


PATTERN = bytes(i * 7 & 0xFF for i in range(9300))


def of_length(length: int, source: End, destination: End) -> Packet:
    """A frame without FCS, as scapy builds it: UDP if there is room for it."""
    link: Packet = Ether(src=source.mac.hex(":"), dst=destination.mac.hex(":"))
    if length >= 42:
        link = link / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2)
    else:
        link.type = 0x88B5
    body = PATTERN[length & 0xFF :][: length - (42 if length >= 42 else 14)]
    link /= Raw(body)
    return link


def test_all_lengths_both_ways_in_bursts() -> None:
    """18 to 9,018 bytes on the wire are frames of 14 to 9,014 without FCS; shorter there are none."""
    with Pair(options=Options(mtu=9000)) as pair:
        ends = (pair.a, pair.b)
        for length in range(1, 14):
            for end in ends:
                end.send(pair.frame(length))
        for start in range(14, 9015, FRAMES):
            lengths = range(start, min(start + FRAMES, 9015))
            there = [bytes(of_length(n, *ends)) for n in lengths]  # which takes longest
            back = [packet[6:12] + packet[:6] + packet[12:] for packet in there]
            for source, destination, sent in ((*ends, there), (*ends[::-1], back)):
                for packet in sent:
                    source.send(packet)
                for length, packet in zip(lengths, sent, strict=True):
                    got = destination.receive()
                    assert len(packet) == length
                    assert got.frame == packet.ljust(60, b"\0"), length
                    assert got.flags == (DATA_VALID if length >= 42 else 0), length
        for end in ends:
            assert end.nothing(0.01)
            assert end.stats("tx_dropped") == 13 and end.stats("tx_frames") == 9001
            assert end.stats("rx_frames") == end.stats("rx_packets") == 9001
            assert end.stats("rx_checked") == 9001 - 28
            assert end.stats("tx_errors") == end.stats("rx_errors") == 0


def test_too_long_for_the_mtu_is_dropped() -> None:
    with Pair() as pair:
        pair.a.send(pair.frame(1523))
        pair.a.send(pair.frame(1522))
        assert pair.b.receive().frame == pair.frame(1522)
        assert pair.a.stats("tx_dropped") == 1


TAGS = ("", "8100", "88a8", "9100", "88a8 8100", "8100 8100", "88a8 88a8")
"""TPIDs, outermost first: 802.1Q, 802.1ad, what was in use before it, and stacks of them."""


@pytest.mark.parametrize("mtu", [68, 1500, 9000])
def test_full_frames_pass_with_any_tags(mtu: int) -> None:
    """1518 bytes with one tag, 1522 with two, without FCS: a packet of 1500 bytes is in each."""
    with Pair(options=Options(mtu=mtu)) as pair:
        for near, far in ((pair.a, pair.b), (pair.b, pair.a)):
            for number, tpids in enumerate(TAGS):
                tags = b"".join(bytes.fromhex(tpid) + b"\x20\x05" for tpid in tpids.split())
                body = bytes((i * 7 + number) & 0xFF for i in range(1500))
                frame = far.mac + near.mac + tags + b"\x88\xb5" + body
                assert len(frame) == 1514 + len(tags)
                near.send(frame)
                assert far.receive().frame == frame, tpids
            assert far.stats("rx_errors") == near.stats("tx_dropped") == 0


def test_frames_of_a_larger_mtu_are_dropped() -> None:
    with Pair(options=Options(mtu=9000), far=Options(mtu=1500)) as pair:
        for length in (1523, 3000, 9022):
            pair.a.send(pair.frame(length))
        pair.a.send(pair.frame(1522))
        assert pair.b.receive().frame == pair.frame(1522)
        assert pair.b.stats("rx_errors") == 3


def test_a_frame_of_more_descriptors_than_a_chain_is_dropped_as_a_whole() -> None:
    """Its rest, whose last descriptor says OK, is no frame."""
    cable = own()
    end = End(cable, bytes.fromhex("020000000002"), "", Options(), lambda _: None)
    try:
        with Chip(cable=cable, mac=bytes.fromhex("020000000001")) as chip:
            chip.enable()
            chip.linked()
            until(lambda: end.nic.speed)
            head = end.mac + bytes.fromhex("02000000000188b5")
            for length in (12289, 16000):  # eight buffers are 12288 bytes
                chip.send(head + bytes(length - 14))
            frame = head + bytes(range(200))
            chip.send(frame)
            assert end.receive().frame == frame
            assert end.stats("rx_errors") == 2
    finally:
        end.close()


def reassemble(packets: list[bytes]) -> bytes:
    return b"".join(bytes(Ether(packet)[TCP].payload) for packet in packets)


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("vlan", [None, 42])
def test_large_packets_are_cut_on_the_wire(v6: bool, vlan: int | None) -> None:
    """The peer does not coalesce: we see the frames as they were on the wire."""
    with Pair(far=Options(offload=False)) as pair:
        packet = tcp_packet(pair, 10_000, v6=v6, vlan=vlan)
        pair.a.send(packet, gso(packet, 1400, TCPV6 if v6 else TCPV4))
        frames = [pair.b.receive().frame for _ in range(8)]
        assert reassemble(frames) == bytes(Ether(packet)[TCP].payload)
        for i, frame in enumerate(frames):
            parsed = Ether(frame)
            assert parsed[TCP].seq == 4000 + 1400 * i
            assert parsed[TCP].flags == ("PA" if i == 7 else "A")
            if vlan is not None:
                assert (parsed[Dot1Q].vlan, parsed[Dot1Q].prio) == (42, 5)
            if not v6:
                assert parsed[IP].id == 77 + i
            again = Ether(frame)
            del again[TCP].chksum
            if not v6:
                del again[IP].chksum
            assert bytes(again) == frame  # scapy computes the same checksums


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("vlan", [None, 7])
def test_a_large_packet_arrives_as_one(v6: bool, vlan: int | None) -> None:
    with Pair() as pair:
        packet = tcp_packet(pair, 60_000, v6=v6, vlan=vlan)
        pair.a.send(packet, gso(packet, 1400, TCPV6 if v6 else TCPV4))
        data, packets = b"", 0
        while len(data) < 60_000:
            got = pair.b.receive()
            parsed = Ether(got.frame)
            data += bytes(parsed[TCP].payload)
            if vlan is not None:
                assert parsed[Dot1Q].vlan == vlan
            if got.gso_type:
                assert got.gso_type == (TCPV6 if v6 else TCPV4)
                assert got.gso_size == 1400 and got.flags == NEEDS_CSUM
                assert got.csum_start == got.frame.index(bytes(parsed[TCP])[:8])
            packets += 1
        assert data == bytes(Ether(packet)[TCP].payload)
        assert pair.b.stats("rx_frames") == 43
        if not v6:  # the chip verifies no IPv6 checksum, so nothing is merged
            assert packets < 43 and pair.a.stats("tx_checksums") == 43
        else:
            assert pair.a.stats("tx_soft_checksums") == 43


@pytest.fixture(scope="module")
def pair_of_all() -> Iterator[Pair]:
    """One for all the examples of a property."""
    with Pair() as pair:
        yield pair


@given(st.integers(1, 60_000), st.integers(200, 1400), st.booleans(), st.sampled_from((None, 9)))
@settings(max_examples=60, deadline=None)
def test_any_large_packet_arrives_whole(
    pair_of_all: Pair, size: int, gso_size: int, v6: bool, vlan: int | None
) -> None:
    """Cut, sent, coalesced: the same bytes in order, merged only into what the kernel could cut again."""
    pair = pair_of_all
    packet = tcp_packet(pair, size, v6=v6, vlan=vlan)
    large = size > gso_size
    pair.a.send(
        packet, gso(packet, gso_size if large else 0, (TCPV6 if v6 else TCPV4) if large else 0)
    )
    data = b""
    while len(data) < size:
        got = pair.b.receive()
        part = bytes(Ether(got.frame)[TCP].payload)[: size - len(data)]
        assert Ether(got.frame)[TCP].seq == 4000 + len(data)
        if got.gso_type:
            assert got.gso_size == gso_size < len(part)
        else:
            assert len(part) <= gso_size
        data += part
    assert data == bytes(Ether(packet)[TCP].payload)
    assert pair.b.nothing(0.001)


def test_udp_segmentation() -> None:
    with Pair() as pair:
        packet = bytes(
            Ether(dst=pair.b.mac.hex(":"), src=pair.a.mac.hex(":"))
            / IP(src="10.0.0.1", dst="10.0.0.2")
            / UDP(sport=1, dport=2)
            / Raw(bytes(range(250)) * 16)
        )
        pair.a.send(packet, gso(packet, 1000, UDP_L4))
        data = b""
        for _ in range(4):
            got = pair.b.receive()
            assert got.flags == DATA_VALID
            parsed = Ether(got.frame)
            data += bytes(parsed[UDP].payload)
            del parsed[UDP].chksum
            assert bytes(parsed) == got.frame
        assert data == bytes(range(250)) * 16


def test_checksum_of_a_single_packet() -> None:
    """CHECKSUM_PARTIAL: the field has the pseudo-header's sum."""
    with Pair() as pair:
        packet = bytearray(tcp_packet(pair, 100))
        good = bytes(packet)
        packet[50:52] = b"\x12\x34"
        pair.a.send(bytes(packet), HEADER.pack(NEEDS_CSUM, 0, 0, 0, 34, 16, 0))
        got = pair.b.receive()
        assert got.frame == good and got.flags == DATA_VALID


def unfinished(frame: bytes, start: int, offset: int) -> bytes:
    """The frame as the kernel leaves it: the field has what completes the sum of the rest."""
    end = len(frame) + (len(frame) - start) % 2
    rest = frame[start : start + offset] + b"\0\0" + frame[start + offset + 2 :]
    total = sum(struct.unpack(f"!{(end - start) // 2}H", rest.ljust(end - start, b"\0")))
    field = ~struct.unpack_from("!H", frame, start + offset)[0] & 0xFFFF
    left = (field - total) % 0xFFFF
    return frame[: start + offset] + struct.pack("!H", left) + frame[start + offset + 2 :]


def ethernet(pair: Pair) -> Packet:
    built: Packet = Ether(dst=pair.b.mac.hex(":"), src=pair.a.mac.hex(":"))
    return built


@pytest.mark.parametrize("outer_checksum", [0, None])
def test_checksum_inside_a_tunnel(outer_checksum: int | None) -> None:
    """The kernel asks for the one in the VXLAN of a virtual machine; the chip would fill in the outer one."""
    with Pair() as pair:
        inner = Ether(src="02:00:00:00:00:11", dst="02:00:00:00:00:12")
        inner = inner / IP(src="10.1.0.1", dst="10.1.0.2") / TCP(sport=5, dport=6) / Raw(b"x" * 99)
        whole = bytes(
            ethernet(pair)
            / IP(src="10.0.0.1", dst="10.0.0.2")
            / UDP(sport=49152, dport=4789, chksum=outer_checksum)
            / VXLAN(vni=7)
            / inner
        )
        start = 14 + 20 + 8 + 8 + 14 + 20
        header = HEADER.pack(NEEDS_CSUM, 0, 0, 0, start, 16, 0)
        pair.a.send(unfinished(whole, start, 16), header)
        assert pair.b.receive().frame == whole
        assert pair.a.stats("tx_soft_checksums") == 1 and pair.a.stats("tx_checksums") == 0


@pytest.mark.parametrize("tags", [(0x88A8,), (0x88A8, 0x8100), (0x8100, 0x8100)])
@pytest.mark.parametrize("large", [False, True])
def test_checksum_behind_tags_that_the_chip_does_not_know(
    tags: tuple[int, ...], large: bool
) -> None:
    with Pair(far=Options(offload=False)) as pair:
        packet = ethernet(pair)
        packet.type = tags[0]
        for kind in (*tags[1:], 0x0800):
            packet = packet / Dot1Q(vlan=3, prio=1, type=kind)
        packet = (
            packet / IP(src="10.0.0.1", dst="10.0.0.2", id=3) / TCP(sport=5, dport=6, flags="A")
        )
        whole = bytes(packet / Raw(b"y" * 1000))
        start = 14 + 4 * len(tags) + 20
        header = HEADER.pack(
            NEEDS_CSUM, TCPV4 if large else 0, 0, 500 if large else 0, start, 16, 0
        )
        pair.a.send(unfinished(whole, start, 16), header)
        for _ in range(2 if large else 1):
            frame = pair.b.receive().frame
            again = Ether(frame)
            del again[TCP].chksum
            assert bytes(again) == frame
        assert pair.a.stats("tx_checksums") == 0


def test_frames_that_nobody_checked() -> None:
    """Fragments, IPv6, wrong checksums: the kernel is told nothing."""
    with Pair() as pair:
        link = Ether(dst=pair.b.mac.hex(":"), src=pair.a.mac.hex(":"))
        whole = IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2) / Raw(bytes(3000))
        frames = [bytes(link / piece) for piece in fragment(whole, fragsize=1400)]
        frames.append(tcp_packet(pair, 100, v6=True))
        bad = bytearray(tcp_packet(pair, 100))
        bad[60] ^= 1
        frames.append(bytes(bad))
        for frame in frames:
            pair.a.send(frame)
            got = pair.b.receive()
            assert got.frame == wire(frame) and got.flags == 0 and got.gso_type == 0


@pytest.mark.parametrize(
    "header",
    [
        HEADER.pack(NEEDS_CSUM, TCPV4, 0, 0, 34, 16, 0),
        HEADER.pack(NEEDS_CSUM, UDP_L4, 0, 1000, 34, 16, 0),
        HEADER.pack(NEEDS_CSUM, 3, 0, 1000, 34, 16, 0),
        HEADER.pack(NEEDS_CSUM, 0, 0, 0, 60_000, 16, 0),
        HEADER.pack(NEEDS_CSUM, TCPV6, 0, 1000, 34, 16, 0),
    ],
)
def test_nonsense_from_the_kernel_is_dropped(header: bytes) -> None:
    with Pair() as pair:
        frame = tcp_packet(pair, 1000, v6=header[1] == 0)
        pair.a.send(frame, header)
        pair.a.send(pair.frame(100))
        assert pair.b.receive().frame == pair.frame(100)
        assert pair.a.stats("tx_dropped") == 1


def test_filters() -> None:
    with Pair() as pair:
        b, group, other = pair.b, bytes.fromhex("01005e0000fb"), bytes.fromhex("01005e000001")
        stranger = bytes.fromhex("020000000099")

        def sees(destination: bytes) -> bool:
            """Whether such a frame comes before a broadcast that follows it."""
            probe, last = (to + pair.a.mac + b"\x88\xb5" for to in (destination, b"\xff" * 6))
            probe, last = probe + bytes(50), last + b"last".ljust(50)
            pair.a.send(probe)
            pair.a.send(last)
            came = [b.receive().frame]
            while came[-1] != last:
                came.append(b.receive().frame)
            assert came[:-1] in ([], [probe])
            return len(came) == 2

        assert sees(b.mac) and sees(b"\xff" * 6) and sees(group) and not sees(stranger)
        b.nic.set_filter(mac=b.mac, all_multicast=False, groups=[group])
        assert sees(b.mac) and sees(b"\xff" * 6) and sees(group)
        assert not sees(other) and not sees(stranger)
        b.nic.set_filter(mac=b.mac, promiscuous=True)
        assert sees(stranger) and sees(other)
        b.nic.set_filter(mac=stranger)
        assert sees(stranger) and not sees(b.mac)
        assert b.counter("rx_filtered") == 4


def test_mtu_while_running() -> None:
    with Pair() as pair:
        for end in (pair.a, pair.b):
            end.nic.set_mtu(9000)
        until(lambda: pair.a.nic.speed and pair.b.nic.speed)
        pair.a.send(pair.frame(9014))
        assert pair.b.receive().frame == pair.frame(9014)
        assert pair.a.counter("tx_hangs") == 0
        with pytest.raises(errors.UsageError, match="MTU 9001"):
            pair.a.nic.set_mtu(9001)


def test_jumbo_checksums_beyond_the_fifo_are_ours() -> None:
    with Pair(options=Options(mtu=9000)) as pair:
        packet = tcp_packet(pair, 8900)
        broken = packet[:50] + b"\0\0" + packet[52:]
        header = HEADER.pack(NEEDS_CSUM, 0, 0, 0, 34, 16, 0)
        # The field has the pseudo-header's sum; its complement is what is missing.
        pseudo = struct.pack("!4s4sBBH", packet[26:30], packet[30:34], 0, 6, len(packet) - 34)
        total = sum(struct.unpack("!6H", pseudo))
        total = (total & 0xFFFF) + (total >> 16)
        broken = packet[:50] + struct.pack("!H", total) + packet[52:]
        pair.a.send(broken, header)
        assert pair.b.receive().frame == packet
        assert pair.a.stats("tx_soft_checksums") == 1 and pair.a.counter("tx_hangs") == 0


# faults


MARK = 1 << 31
marks = itertools.count(MARK)


def send_number(pair: Pair, number: int) -> None:
    pair.a.send(pair.frame(14) + struct.pack("!I", number) + bytes(100))


def next_number(pair: Pair) -> int:
    return int(struct.unpack_from("!I", pair.b.receive().frame, 14)[0])


def numbered(pair: Pair, count: int) -> list[int]:
    """Send numbered frames; return the numbers that arrive before a frame that was sent later, in order."""
    for i in range(count):
        send_number(pair, i)
    mark, got = next(marks), [0]

    def marked() -> bool:
        """This one may be lost, too: then it is sent again."""
        send_number(pair, mark)
        with suppress(TimeoutError):
            while got[-1] != mark:
                got.append(next_number(pair))
        return got[-1] == mark

    pair.b.kernel.settimeout(0.5)
    until(marked, "a frame arrives")
    pair.b.kernel.settimeout(PATIENCE)
    return [number for number in got[1:] if number < MARK]


def goes_on(pair: Pair) -> None:
    """The link comes back, and frames arrive as ever."""
    want = list(range(5))
    at_best(lambda: numbered(pair, 5), lambda got: got == want, "all frames arrive")


def test_lost_frames() -> None:
    with Pair() as pair:
        pair.a.fault("lose", "every=4", "on=tx")
        assert numbered(pair, 40) == [i for i in range(40) if i % 4 != 3]


def test_corrupted_frames_do_not_pass() -> None:
    with Pair() as pair:
        pair.b.fault("corrupt", "count=3", "on=rx")
        assert numbered(pair, 10) == list(range(3, 10))
        assert pair.b.counter("rx_rejected") == 3


def test_damaged_data_is_not_called_valid() -> None:
    with Pair() as pair:
        pair.a.fault("damage", "count=1", "on=tx")
        frame = tcp_packet(pair, 400)
        pair.a.send(frame)
        got = pair.b.receive()
        assert got.frame != frame and got.flags == 0
        pair.a.send(frame)
        assert pair.b.receive().flags == DATA_VALID


def test_duplicates() -> None:
    with Pair() as pair:
        pair.a.fault("duplicate", "count=1", "on=tx")
        assert numbered(pair, 3) == [0, 0, 1, 2]


def test_late_frames() -> None:
    with Pair() as pair:
        pair.a.fault("delay", "ms=50", "count=1")
        for i in range(4):
            send_number(pair, i)
        came = [next_number(pair) for _ in range(4)]
        assert sorted(came) == [0, 1, 2, 3]
        # The others were sent at once, unless we were kept from it for those 50 ms.
        assert came[0] == 1 or came == [0, 1, 2, 3]


def test_overrun_loses_one_and_goes_on() -> None:
    with Pair() as pair:
        pair.b.fault("overrun")
        assert numbered(pair, 5) == [1, 2, 3, 4]
        assert pair.b.stats("rx_overruns") == 1
        assert pair.b.stats("rx_missed") == 1


def test_a_lost_interrupt_is_found() -> None:
    """Until ISR is read there is no other one, however many frames come."""
    with Pair() as pair:

        def lost(*faults: str) -> int:
            before = pair.b.stats("lost_interrupts")
            for fault in faults:
                pair.b.fault(fault)
            assert numbered(pair, 3) == [0, 1, 2]
            return pair.b.stats("lost_interrupts") - before

        # What comes while the driver is awake anyway is found without an interrupt.
        at_best(lambda: lost("lost-irq"), lambda count: count == 1, "one is found")
        at_best(lost, lambda count: count == 0, "interrupts come again")


def test_stuck_transmitter_is_reset() -> None:
    with Pair() as pair:
        pair.a.fault("stuck-tx")
        begun = time.monotonic()
        pair.a.send(pair.frame(100))
        until(lambda: pair.a.stats("resets") == 1)
        # The first frame has its time too, though nobody looked at the transmitter before.
        assert time.monotonic() - begun > 0.9 * Options().watchdog
        goes_on(pair)
        assert pair.a.stats("resets") == 1


def test_stuck_transmitter_is_reset_also_while_frames_arrive() -> None:
    with Pair() as pair:
        pair.a.fault("stuck-tx")
        pair.a.send(pair.frame(100))

        def reset() -> bool:
            pair.b.send(pair.a.mac + pair.b.mac + pair.frame(100)[12:])
            time.sleep(0.05)  # the next frame
            return pair.a.stats("resets") == 1

        until(reset, "a reset")


def test_bus_error_is_recovered_from() -> None:
    with Pair() as pair:
        assert numbered(pair, 3) == [0, 1, 2]
        pair.a.fault("fetch")
        pair.a.send(pair.frame(100))
        until(lambda: pair.a.stats("resets") == 1)
        goes_on(pair)
        assert pair.a.stats("resets") == 1


def test_link_flap() -> None:
    with Pair() as pair:
        fault = pair.a.fault("link-down")
        until(lambda: not (pair.a.nic.speed or pair.b.nic.speed))
        pair.a.send(pair.frame(100))
        until(lambda: pair.a.stats("tx_dropped") == 1)
        pair.a.device.model.clear_fault(fault)
        until(lambda: pair.a.nic.speed and pair.b.nic.speed)
        assert numbered(pair, 3) == [0, 1, 2]
        until(lambda: pair.b.changes == 3)  # up, down, up


def test_a_slow_wire_paces() -> None:
    with Pair(model="&rate=100") as pair:
        began = time.monotonic()
        for i in range(100):
            pair.a.send(pair.frame(1514, i))
        for i in range(100):
            assert pair.b.receive().frame == pair.frame(1514, i)
        assert time.monotonic() - began > 100 * 1538 * 8 / 100e6 * 0.95


def test_plain_header_has_the_size_of_the_kernels() -> None:
    assert len(PLAIN) == 12
