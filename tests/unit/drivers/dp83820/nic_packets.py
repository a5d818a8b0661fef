# SPDX-License-Identifier: MIT
"""Large packets, as the kernel hands them to a NIC that cuts them."""

from __future__ import annotations

from scapy.all import IP, TCP, UDP, Dot1Q, Ether, IPv6, Raw  # type: ignore[attr-defined]

from tests.unit.drivers.dp83820.nic_pair import HEADER, NEEDS_CSUM, UDP_L4, Pair


def tcp_packet(pair: Pair, size: int, *, v6: bool = False, vlan: int | None = None) -> bytes:
    link = Ether(dst=pair.b.mac.hex(":"), src=pair.a.mac.hex(":"))
    if vlan is not None:
        link = link / Dot1Q(vlan=vlan, prio=5)
    ip = IPv6(src="fd00::1", dst="fd00::2") if v6 else IP(src="10.0.0.1", dst="10.0.0.2", id=77)
    payload = Raw(bytes(i * 31 & 0xFF for i in range(size)))
    return bytes(link / ip / TCP(sport=1234, dport=80, seq=4000, ack=9, flags="PA") / payload)


def gso(packet: bytes, gso_size: int, kind: int) -> bytes:
    """The header with which the kernel hands a large packet over."""
    parsed = Ether(packet)
    l4 = packet.index(bytes(parsed[UDP if kind == UDP_L4 else TCP])[:8])
    return HEADER.pack(NEEDS_CSUM, kind, 0, gso_size, l4, 6 if kind == UDP_L4 else 16, 0)
