# SPDX-License-Identifier: MIT
"""What netlink says of an interface, without a driver: a TAP in a namespace of our own."""

from __future__ import annotations

import ctypes
import fcntl
import struct
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.names import namespace
from tests.needs import NEEDS_TAP
from usrdrv.base import errors
from usrdrv.bridge.net import rtnetlink
from usrdrv.bridge.net.contract import Plan
from usrdrv.bridge.net.export_tap import SIOCETHTOOL, Tap
from usrdrv.bridge.net.link import LinkGoneError
from usrdrv.bridge.net.netns import number
from usrdrv.net import Abilities

pytestmark = NEEDS_TAP

MAC = bytes.fromhex("020000000001")
PLAIN = Abilities(9000)
ETHTOOL_GTXCSUM = 0x16
ETHTOOL_GTSO = 0x1E


def plan(namespace: str, abilities: Abilities = PLAIN) -> Plan:
    return Plan("t0", "a card", MAC, 1500, abilities, namespace)


@pytest.fixture
def name() -> Iterator[str]:
    with namespace() as name:
        yield name


@pytest.fixture
def tap(name: str) -> Iterator[Tap]:
    with Tap(plan(name)) as tap:
        yield tap


def batch(name: str, *lines: str) -> None:
    text = "\n".join(lines) + "\n"
    subprocess.run(["ip", "-n", name, "-batch", "-"], input=text, text=True, check=True)


def count_requests(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The types of all messages that are sent from now on."""
    sent: list[int] = []
    call = rtnetlink.Routes._call

    def counted(routes: Any, kind: int, content: bytes) -> tuple[int, bytes]:
        sent.append(kind)
        return call(routes, kind, content)

    monkeypatch.setattr(rtnetlink.Routes, "_call", counted)
    return sent


def test_what_a_message_says_is_not_asked_for(
    name: str, tap: Tap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of our interface nor of the others of its namespace, however many events there are."""
    tap.link.state()
    sent = count_requests(monkeypatch)
    for number_ in range(100):
        mtu = 1000 + number_
        batch(
            name,
            f"link set t0 mtu {mtu}",
            f"link set lo alias x{number_}",
            f"link set t0 address 02:00:00:00:00:{number_:02x}",
        )
        state = tap.link.state()
        assert (state.mtu, state.mac[5], state.promiscuous) == (mtu, number_, False)
    batch(name, "link set t0 promisc on", "link set t0 name t1")
    state = tap.link.state()
    assert (state.name, state.promiscuous) == ("t1", True)
    assert sent == [] and tap.link.wait() is None


def test_one_that_is_up_is_looked_at_now_and_then(
    name: str, tap: Tap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One question each time it is due; none while it is not."""
    batch(name, "link set t0 up")
    tap.link.state()
    wait = tap.link.wait()
    assert wait is not None
    sent = count_requests(monkeypatch)
    monkeypatch.setattr("usrdrv.bridge.net.link.LOOK_PERIOD", 1e6)
    tap.link.look()
    for _ in range(100):
        tap.link.state()
    assert sent == [rtnetlink.RTM_GETLINK]
    monkeypatch.setattr(tap.link, "_look_at", 0.0)
    subprocess.run(
        ["bridge", "-n", name, "fdb", "add", "02:00:00:00:00:77", "dev", "t0", "self"], check=True
    )
    assert tap.link.wait() == 0
    assert tap.link.state().promiscuous
    assert sent == [rtnetlink.RTM_GETLINK] * 2


def test_lost_news_are_asked_for(name: str, tap: Tap) -> None:
    for round_ in range(8):
        batch(
            name,
            *(f"link set t0 mtu {1000 + i}" for i in range(2000)),
            f"link set t0 mtu {700 + round_}",
        )
    assert tap.link.state().mtu == 707


def test_a_deleted_one_is_gone(name: str, tap: Tap) -> None:
    assert tap.link.state().netns == number(name)
    batch(name, "link del t0")
    with pytest.raises(LinkGoneError):
        tap.link.state()
    tap.set_link(1000)  # of no effect
    with pytest.raises(errors.NoSuchDeviceError):
        tap.link.change(mtu=1500)


def ethtool(tap: Tap, command: int) -> bool:
    """One of the questions of linux/ethtool.h that have a number as their answer."""
    value = ctypes.create_string_buffer(struct.pack("=2I", command, 0))
    with tap.link.there() as (routes, _):
        request = struct.pack("16sP16x", b"t0", ctypes.addressof(value))
        fcntl.ioctl(routes.fd, SIOCETHTOOL, request)
    return bool(struct.unpack_from("=2I", value)[1])


def test_its_offloads_are_the_drivers(name: str) -> None:
    """One that fills in no checksums is offered no packet without: TCP would not even connect."""
    for can in (PLAIN, Abilities(9000, checksums=True), Abilities(9000, True, True, True)):
        with Tap(plan(name, can)) as tap:
            assert ethtool(tap, ETHTOOL_GTXCSUM) == can.checksums
            assert ethtool(tap, ETHTOOL_GTSO) == can.tcp_segmentation
