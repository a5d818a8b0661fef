# SPDX-License-Identifier: MIT
"""Runs in a guest: frames whose checksum is not where a NIC looks for it, and who verifies that they have one.

send INTERFACE MAC: with the checksum left to whoever sends (virtio_net_hdr), as of what is forwarded for somebody
take INTERFACE: wait for them all; prints, as JSON, which had their checksum
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from pathlib import Path

SOL_PACKET, PACKET_VNET_HDR = 263, 15
NEEDS_CSUM = 1
IPV4, QINQ, VXLAN = 0x0800, 0x88A8, 4789
MARK = 0xC5
NEAR, FAR = bytes((10, 93, 0, 1)), bytes((10, 93, 0, 2))
PORTS = {4000: "plain", 4001: "802.1ad", 4002: "inner", 4003: "802.1ad by the kernel"}
SIZE = 900
"""Bytes of data: more than are copied with the headers."""
READY = Path("/tmp/taking")


def total(data: bytes) -> int:
    """The sum of its 16-bit words, in ones' complement."""
    words: int = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) & ~1]))
    if len(data) & 1:
        words += data[-1] << 8
    while words >> 16:
        words = (words & 0xFFFF) + (words >> 16)
    return words


def pseudo(source: bytes, destination: bytes, length: int) -> bytes:
    return source + destination + struct.pack("!BBH", 0, socket.IPPROTO_UDP, length)


def udp(port: int, data: bytes, *, partial: bool) -> bytes:
    """IPv4 and UDP; partial: with the sum that the one who fills in the checksum begins with, else without any."""
    length = 8 + len(data)
    begun = total(pseudo(NEAR, FAR, length)) if partial else 0
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 7, 0, 64, 17, 0) + NEAR + FAR
    ip = ip[:10] + struct.pack("!H", total(ip) ^ 0xFFFF) + ip[12:]
    return ip + struct.pack("!HHHH", 1234, port, length, begun) + data


def send(interface: str, mac: str) -> None:
    data = bytes([MARK]) * SIZE
    ethernet = bytes.fromhex(mac.replace(":", "")) + bytes.fromhex("02000000000d")
    plain = struct.pack("!H", IPV4)
    tagged = struct.pack("!HHH", QINQ, 9, IPV4)
    outer = struct.pack("!II", 0x08000000, 77 << 8) + ethernet + plain
    frames = (
        (ethernet + plain + udp(4000, data, partial=True), 14 + 20),
        (ethernet + tagged + udp(4001, data, partial=True), 18 + 20),
        (
            ethernet + plain + udp(VXLAN, outer + udp(4002, data, partial=True), partial=False),
            14 + 28 + 8 + 14 + 20,
        ),
    )
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as s:
        s.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        for frame, start in frames:
            protocol = int.from_bytes(frame[12:14], "big")
            header = struct.pack("=BBHHHH", NEEDS_CSUM, 0, 0, 0, start, 6)
            s.sendto(header + frame, (interface, protocol))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("10.93.0.1", 1234))
        s.sendto(data, ("10.93.0.2", 4003))


def found(frame: bytes) -> tuple[str, bool] | None:
    """Which one it is, and whether its checksum is right."""
    at = frame.find(bytes([MARK]) * SIZE)
    if at < 42:
        return None
    ip, datagram = frame[at - 28 : at - 8], frame[at - 8 : at + SIZE]
    port = int.from_bytes(datagram[2:4], "big")
    right = total(pseudo(ip[12:16], ip[16:20], len(datagram)) + datagram) == 0xFFFF
    return PORTS[port], right and datagram[6:8] != b"\0\0"


def take(interface: str) -> None:
    results: dict[str, bool] = {}
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as s:
        s.bind((interface, 3))
        s.settimeout(1)
        READY.touch()
        until = time.monotonic() + 20
        while len(results) < len(PORTS) and time.monotonic() < until:
            try:
                one = found(s.recv(2000))
            except TimeoutError:
                continue
            if one:
                results[one[0]] = one[1]
    print(json.dumps(results))


if sys.argv[1] == "take":
    take(*sys.argv[2:])
else:
    send(*sys.argv[2:])
