# SPDX-License-Identifier: MIT
"""Checks of usrloop, continued: what a server of an interface puts into its rings."""

from __future__ import annotations

from pathlib import Path

from usrloop_rig import check, run, wait

from usrdrv.loop import Control, Interface, Server, ffi, lib

DEPTH = 8
FRAME = bytes(12) + bytes.fromhex("0020029088b5") + bytes(60)
"""To nobody that we know, of an experimental type; before it a header of virtio without any wish."""


def received(name: str) -> int:
    return int(Path(f"/sys/class/net/{name}/statistics/rx_packets").read_text())


def put(server: Server, count: int) -> int:
    """Put frames into the ring while there is room, and hand them over. Return how many."""
    queue, frame = server.queue[0], bytes(12) + FRAME
    done = 0
    while done < count and (slot := lib.loop_receive_slot(queue)) != ffi.NULL:
        ffi.memmove(slot, frame, len(frame))
        lib.loop_received(queue, len(frame))
        done += 1
    assert server.enter(flags=lib.USRLOOP_ENTER_NOWAIT) >= 0
    return done


@check
def what_came_while_an_interface_was_down_is_not_delivered_later() -> None:
    with Control() as control:
        control.create(Interface(name="frames%d", depth=DEPTH))
        with Server(control, control.attach()) as server:
            control.start()
            put(server, 2)  # it never was up
            run("ip", "link", "set", "frames0", "up")
            assert received("frames0") == 0
            assert put(server, 3) == 3
            wait(lambda: received("frames0") == 3, "3 frames come")
            run("ip", "link", "set", "frames0", "down")
            assert put(server, 2 * DEPTH) == DEPTH, "nobody takes them"
            assert put(server, 1) == 0
            run("ip", "link", "set", "frames0", "up")
            assert received("frames0") == 3
            assert put(server, DEPTH) == DEPTH, "there is room again"
            wait(lambda: received("frames0") == 3 + DEPTH, "the frames come that there is room for")
        assert control.query().refused == 0
