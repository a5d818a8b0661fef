# SPDX-License-Identifier: MIT
"""An administrator's wishes: none of them ends an interface of `usrdrv net`. TAPs, in namespaces of our own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.net_sides import USRDRV, Side, connected, ip
from tests.names import namespace
from tests.needs import NEEDS_TAP
from tests.waiting import PATIENCE
from tests.waiting import until as wait_for
from usrdrv.bridge.net import netns
from usrdrv.claim import run_directory

pytestmark = NEEDS_TAP


def sh(line: str) -> None:
    subprocess.run(line, shell=True, check=True)


def lives(side: Side) -> bool:
    return side.process.poll() is None


def stderr_of(side: Side) -> str:
    """What it says until it ends, which it is told to."""
    side.process.send_signal(signal.SIGINT)
    _, said = side.process.communicate(timeout=PATIENCE)
    assert side.process.returncode == 0, said
    return said


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """Another namespace."""
    with namespace() as name:
        yield name


def ping_all(a: Side, b: Side, *options: str, address: str = "") -> None:
    """Five of five, once both ends have settled."""
    words = ("ping", "-c", "5", "-i", "0.1", "-W", "2", *options, address or b.address)
    wait_for(lambda: "5 received" in a.run(*words).stdout)


def reached(side: Side, address: str) -> bool:
    return "1 received" in side.run("ping", "-c", "1", "-W", "1", address).stdout


# MTU


@pytest.mark.parametrize("mtu", [9001, 9216, 65521])
def test_an_mtu_that_the_chip_does_not_do_is_undone(pair: tuple[Side, Side], mtu: int) -> None:
    a, b = pair
    sh(f"ip -n {a.netns} link set usr0 mtu 9000")
    wait_for(lambda: a.stats()["mtu"] == 9000)
    sh(f"ip -n {a.netns} link set usr0 mtu {mtu}")
    wait_for(lambda: a.link()["mtu"] == 9000)
    assert lives(a) and a.stats()["mtu"] == 9000
    connected(a, b)
    wait_for(lambda: reached(a, b.address))
    ping_all(a, b)
    said = [line for line in stderr_of(a).splitlines() if "MTU" in line]
    assert said == [
        f"usrdrv: usr0: MTU {mtu} is not possible (the device does at most 9000); it stays 9000"
    ]


def test_mtus_in_a_row_end_with_the_last_one(pair: tuple[Side, Side]) -> None:
    a, b = pair
    for mtu in (9000, 1500, 9216, 2000, 68, 1500, 4000):
        sh(f"ip -n {a.netns} link set usr0 mtu {mtu}")
    wait_for(lambda: a.stats()["mtu"] == a.link()["mtu"])
    assert a.link()["mtu"] in (4000, 1500) and a.stats()["restarts"] == 0  # undone after the last
    sh(f"ip -n {a.netns} link set usr0 mtu 3000")
    wait_for(lambda: a.stats()["mtu"] == 3000)
    assert a.link()["mtu"] == 3000
    wait_for(lambda: reached(a, b.address))


# namespaces


def test_it_may_be_moved_and_followed(pair: tuple[Side, Side], elsewhere: str) -> None:
    a, b = pair
    sh(f"ip -n {a.netns} link set usr0 netns {elsewhere}")
    sh(f"ip -n {elsewhere} addr add {a.address}/24 dev usr0; ip -n {elsewhere} link set usr0 up")
    wait_for(lambda: reached(b, a.address))
    moved = Side(elsewhere, a.address)
    wait_for(moved.carrier)
    assert moved.stats()["ifname"] == "usr0" and a.stats()["ifname"] == "usr0"
    for side in (moved, b):
        sh(f"ip -n {side.netns} link set usr0 mtu 9000")
    wait_for(lambda: moved.stats()["mtu"] == 9000 == b.stats()["mtu"])
    wait_for(lambda: reached(b, a.address))
    ping_all(b, moved, "-M", "do", "-s", "8972")
    sh(f"ip -n {elsewhere} link set usr0 mtu 9216")
    wait_for(lambda: moved.link()["mtu"] == 9000)
    os.kill(moved.stats()["driver_pid"], signal.SIGKILL)
    wait_for(lambda: moved.stats()["restarts"] == 1)
    wait_for(lambda: reached(b, a.address))
    shown = moved.run("cat", "/sys/class/net/usr0/speed").stdout
    assert shown.strip() == "1000"
    sh(f"ip -n {elsewhere} link set usr0 netns {a.netns}")  # and back
    sh(f"ip -n {a.netns} addr add {a.address}/24 dev usr0; ip -n {a.netns} link set usr0 up")
    wait_for(lambda: reached(b, a.address))
    said = [line for line in a.stop().splitlines() if "moved" in line]
    assert said == [
        f"usrdrv: usr0 was moved to network namespace {elsewhere}",
        f"usrdrv: usr0 was moved to network namespace {a.netns}",
    ]


def test_from_one_foreign_namespace_to_another(pair: tuple[Side, Side], elsewhere: str) -> None:
    """The second one is a container's: it has no name and ends with its process."""
    a, b = pair
    with subprocess.Popen(["unshare", "-n", "sleep", "1000"]) as container:
        inside = f"nsenter -t {container.pid} -n"
        wait_for(lambda: Path(f"/proc/{container.pid}/comm").read_text() == "sleep\n")
        sh(f"ip -n {a.netns} link set usr0 netns {elsewhere}")
        sh(f"ip -n {elsewhere} link set usr0 name wan0 up")
        sh(f"ip -n {elsewhere} link set wan0 netns {container.pid}")
        sh(f"{inside} ip addr add {a.address}/24 dev wan0; {inside} ip link set wan0 up")
        wait_for(lambda: reached(b, a.address))
        sh(f"{inside} ip link set wan0 address 02:00:00:00:00:77")
        sh(f"ip -n {b.netns} neigh flush all")
        wait_for(lambda: reached(b, a.address))
        assert lives(a)
        container.kill()
    _, said = a.process.communicate(timeout=PATIENCE)
    assert a.process.returncode == 1
    assert said.splitlines()[-1] == (
        "usrdrv: error: wan0: somebody deleted the interface or its namespace"
    )
    assert "Traceback" not in said


def test_a_namespace_is_not_kept_by_us(pair: tuple[Side, Side], elsewhere: str) -> None:
    a = pair[0]
    sh(f"ip -n {a.netns} link set usr0 netns {elsewhere}")
    wait_for(lambda: a.stats()["ifname"] == "usr0" and lives(a))
    sh(f"ip netns del {elsewhere}")
    _, said = a.process.communicate(timeout=PATIENCE)
    assert a.process.returncode == 1
    assert said.splitlines()[-1] == (
        "usrdrv: error: usr0: somebody deleted the interface or its namespace"
    )


# what is put on it


def test_an_address_that_no_message_tells_of(pair: tuple[Side, Side]) -> None:
    """For a second unicast address the kernel makes an interface promiscuous, and sends no message."""
    a, b = pair
    frame = bytes.fromhex("020000000077" + "020000000002" + "88b5") + bytes(100)
    with packet_socket(a) as receiver, packet_socket(b) as sender:
        assert not arrives(sender, receiver, frame, frame)
        sh(f"bridge -n {a.netns} fdb add 02:00:00:00:00:77 dev usr0 self permanent")
        assert a.link()["promiscuity"] == 1
        wait_for(lambda: arrives(sender, receiver, frame, frame))


def _has(kind: str) -> bool:
    with namespace() as name:
        sh(f"ip -n {name} tuntap add dev t0 mode tap")
        done = subprocess.run(
            f"ip -n {name} link add link t0 name x0 type {kind}", shell=True, capture_output=True
        )
    return done.returncode == 0


@pytest.mark.parametrize("kind", ["macvlan mode bridge", "ipvlan mode l2"])
def test_a_child_in_a_container(pair: tuple[Side, Side], elsewhere: str, kind: str) -> None:
    if not _has(kind):
        pytest.skip(f"this kernel has no {kind}")
    a, b = pair
    sh(f"ip -n {a.netns} link add link usr0 name c0 type {kind}")
    sh(f"ip -n {a.netns} link set c0 netns {elsewhere}")
    sh(f"ip -n {elsewhere} addr add 10.93.0.3/24 dev c0; ip -n {elsewhere} link set c0 up")
    wait_for(lambda: reached(b, "10.93.0.3"))
    ping_all(b, a)
    ping_all(b, a, address="10.93.0.3")


def test_a_port_of_a_bridge_under_another_name(pair: tuple[Side, Side]) -> None:
    a, b = pair
    n = f"ip -n {a.netns}"
    sh(f"{n} link add br0 type bridge && {n} addr flush dev usr0 && {n} link set usr0 down")
    sh(f"{n} link set usr0 name wan0 && {n} link set wan0 master br0 && {n} link set wan0 up")
    sh(f"{n} link set br0 up && {n} addr add {a.address}/24 dev br0")
    wait_for(lambda: reached(b, a.address))
    sh(f"{n} link set wan0 nomaster && {n} link del br0")  # a bridge says RTM_DELLINK of its port
    sh(f"{n} addr add {a.address}/24 dev wan0")
    wait_for(lambda: reached(b, a.address))
    assert lives(a)
    for name in ("wan0", "usr0"):
        done = subprocess.run(
            [*USRDRV, "net", "stats", name, "--netns", a.netns], capture_output=True, text=True
        )
        assert done.returncode == 0 and re.search(r"^ifname +wan0$", done.stdout, re.M), done
    os.kill(a.said["driver_pid"], signal.SIGKILL)
    wait_for(lambda: a.stats()["restarts"] == 1)
    wait_for(lambda: reached(b, a.address))


@pytest.mark.parametrize("tpids", ["88a8", "9100", "88a8 8100", "8100 8100"])
def test_full_frames_with_tags_arrive(pair: tuple[Side, Side], tpids: str) -> None:
    """The sender's MTU is larger, or its kernel would not take them from a packet socket."""
    a, b = pair
    sh(f"ip -n {a.netns} link set usr0 mtu 9000")
    wait_for(lambda: a.stats()["mtu"] == 9000)
    wait_for(lambda: reached(a, b.address))
    tags = b"".join(bytes.fromhex(tpid) + b"\x20\x05" for tpid in tpids.split())
    head = bytes.fromhex("020000000002" + "020000000001") + tags + b"\x88\xb5"
    with packet_socket(a) as sender, packet_socket(b) as receiver:
        for length in range(len(head) + 1490, len(head) + 1501):
            frame = head + bytes(length & 0xFF for _ in range(length - len(head)))
            # The kernel takes the outer tag out of a frame, and puts what it was beside it.
            wanted = frame if tpids == "9100" else frame[:12] + frame[16:]
            wait_for(lambda f=frame, w=wanted: arrives(sender, receiver, f, w))  # type: ignore[misc]


def packet_socket(side: Side) -> socket.socket:
    with netns.inside(side.netns):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    sock.bind((side.ifname, 3))
    sock.settimeout(1)
    return sock


def arrives(sender: socket.socket, receiver: socket.socket, frame: bytes, wanted: bytes) -> bool:
    sender.send(frame)
    try:
        while receiver.recv(1 << 16) != wanted:
            pass
    except TimeoutError:
        return False
    return True


# deaths


def restarted(side: Side, count: int) -> None:
    wait_for(lambda: side.stats()["restarts"] == count)


def test_deaths_after_work_do_not_count(pair: tuple[Side, Side]) -> None:
    a, b = pair
    for count in range(1, 9):
        os.kill(a.stats()["driver_pid"], signal.SIGKILL)
        restarted(a, count)
        wait_for(lambda: reached(a, b.address))
    assert lives(a)


def test_a_driver_without_work_is_given_up_when_its_time_is_over(sides: tuple[Side, Side]) -> None:
    """It has no cable, so it moves no frame; each is killed as soon as it is there."""
    a = sides[0]
    a.start(f"model:dp83820?cable={a.netns}", "--restart-time", "15")
    begun = time.monotonic()
    assert a.process.stderr is not None
    os.kill(a.said["driver_pid"], signal.SIGKILL)
    said, restarts = "", 0
    for line in a.process.stderr:
        said += line
        if "restarted in" in line:
            restarts += 1
            children = Path(f"/proc/{a.process.pid}/task/{a.process.pid}/children")
            for pid in children.read_text().split():
                if Path(f"/proc/{pid}/comm").read_text() == "usrdrv-driver\n":
                    os.kill(int(pid), signal.SIGKILL)
    assert a.process.wait(PATIENCE) == 1
    assert time.monotonic() - begun >= 15, "given up before its time"
    assert restarts >= 1
    assert said.splitlines()[-1].startswith(
        (
            "usrdrv: error: the driver was killed by SIGKILL; no driver has done anything for 15 s; given up",
            # One was still being started.
            "usrdrv: error: the driver was killed by SIGKILL and does not come back within 15 s",
        )
    )
    assert "usr0" not in a.run("ip", "link").stdout


def test_no_restart_is_no_restart(sides: tuple[Side, Side]) -> None:
    a = sides[0]
    a.start(f"model:dp83820?cable={a.netns}", "--restart-time", "0")
    os.kill(a.said["driver_pid"], signal.SIGKILL)
    _, said = a.process.communicate(timeout=PATIENCE)
    assert a.process.returncode == 1
    assert said.splitlines()[-1] == (
        "usrdrv: error: the driver was killed by SIGKILL and does not come back within 0 s"
    )


def test_a_killed_supervisor_leaves_no_socket(
    pair: tuple[Side, Side],
) -> None:
    a, b = pair
    rundir = run_directory()
    assert len(list(rundir.glob("*.sock"))) == 2
    a.process.kill()
    a.process.communicate()
    assert b.stats()["ifname"] == "usr0"
    assert [path.name for path in rundir.glob("*.sock")] == [f"net-{b.process.pid}.sock"]
    assert ip("-n", b.netns, "link", "show", "usr0")
    b.stop()
    assert not list(rundir.glob("*.sock"))
