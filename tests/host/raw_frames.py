# SPDX-License-Identifier: MIT
"""One end of a conversation in raw frames of every length, built and compared with scapy.

usage: raw_frames.py INTERFACE OUR_MAC THEIR_MAC MTU
Says "ready", waits for a line, then sends a burst and receives one, in turn. Ends with 0 if every
frame of the other end was as it should be.
"""

from __future__ import annotations

import socket
import sys

from scapy.all import IP, UDP, Ether, Packet, Raw  # type: ignore[attr-defined]

BURST = 100
PATTERN = bytes(i * 7 & 0xFF for i in range(9300))
ETH_P_ALL, SO_RCVBUFFORCE, PACKET_IGNORE_OUTGOING = 3, 33, 23
SOL_PACKET = 263


def build(length: int, source: str, destination: str) -> Packet:
    link: Packet = Ether(src=source, dst=destination)
    if length < 42:
        link.type = 0x88B5
        link /= Raw(PATTERN[length:][: length - 14])
    else:
        link /= IP(src="10.99.0.1", dst="10.99.0.2") / UDP(sport=7, dport=8)
        link /= Raw(PATTERN[length & 0xFF :][: length - 42])
    return link


def main() -> None:
    interface, ours, theirs, mtu = *sys.argv[1:4], int(sys.argv[4])
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
    sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    sock.bind((interface, ETH_P_ALL))
    sock.settimeout(60)
    print("ready", flush=True)
    sys.stdin.readline()
    for start in range(14, mtu + 15, BURST):
        lengths = range(start, min(start + BURST, mtu + 15))
        frames = [bytes(build(length, ours, theirs)) for length in lengths]
        for frame in frames:
            sock.send(frame)
        for length, frame in zip(lengths, frames, strict=True):
            # The other end's differs in the addresses: to build it takes as long as all the rest.
            want = (frame[6:12] + frame[:6] + frame[12:]).ljust(60, b"\0")
            got = sock.recv(1 << 16)
            while got[12:14] not in (b"\x88\xb5", b"\x08\x00"):  # the kernel's own
                got = sock.recv(1 << 16)
            if got != want:
                sys.exit(f"length {length}: {Ether(got)!r} is not {Ether(want)!r}"[:2000])


main()
