# SPDX-License-Identifier: MIT
"""What goes through the interfaces of `usrdrv net`: frames of all lengths, IPv6, VLANs, groups."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from net_sides import NEEDS_TAP, Side, connect

pytestmark = [NEEDS_TAP, pytest.mark.timeout(180)]


@pytest.mark.parametrize("mtu", [1500, 9000])
def test_raw_frames_of_every_length_both_ways(sides: tuple[Side, Side], mtu: int) -> None:
    """In and out through packet sockets: the kernel's TAP, both drivers, both chips."""
    connect(sides, "--mtu", str(mtu))
    program = Path(__file__).with_name("raw_frames.py")
    macs = [side.said["mac"] for side in sides]
    talkers = [
        subprocess.Popen(
            ["ip", "netns", "exec", side.netns, sys.executable, program, "usr0", *ends, str(mtu)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for side, ends in zip(sides, (macs, macs[::-1]), strict=True)
    ]  # fmt: skip
    try:
        for talker in talkers:
            assert talker.stdout is not None
            assert talker.stdout.readline() == "ready\n"
        for talker in talkers:
            assert talker.stdin is not None
            talker.stdin.write("\n")
            talker.stdin.flush()
        for talker in talkers:
            _, said = talker.communicate(timeout=120)
            assert talker.returncode == 0, said
    finally:
        for talker in talkers:
            talker.kill()
    for side in sides:
        stats = side.stats()
        assert stats["tx_frames"] >= mtu + 1 <= stats["rx_frames"]
        assert stats["tx_errors"] == stats["rx_errors"] == stats["resets"] == 0
