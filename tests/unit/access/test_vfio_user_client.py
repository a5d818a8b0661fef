# SPDX-License-Identifier: MIT
"""The vfio-user backend: against the real server, and against servers that lie, stall or die."""

import errno
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.waiting import PATIENCE, until
from usrdrv.backends._access import ffi
from usrdrv.base import errors
from usrdrv.device import Bar, open_device
from usrdrv.devices import models
from usrdrv.devices.base.c_model import Model
from usrdrv.devices.vfio_user.server import Server
from usrdrv.drivers import open_driver

MIB = 1 << 20


@pytest.fixture(autouse=True)
def own_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USRDRV_RUN_DIR", str(tmp_path / "run"))
    # A busy machine is no server that does not answer.
    monkeypatch.setattr("usrdrv.device.REPLY_TIMEOUT_MS", 60_000)


@contextmanager
def served(path: Path, options: str = "ram=16M") -> Iterator[Model]:
    model = models.create("cmd680", f"strict=1&{options}")
    with model, Server(model.pointer, path) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield model
        finally:
            server.stop()
            thread.join(PATIENCE)
            assert not thread.is_alive()


@pytest.mark.parametrize("mmio", [True, False])
def test_a_disk_over_the_socket(tmp_path: Path, mmio: bool) -> None:
    with served(tmp_path / "s", "ram=16M&ram3=16M"):
        with open_device(f"vfio-user:{tmp_path}/s") as device:
            assert [bar.io for bar in device.bars] == [True] * 5 + [False]
            with open_driver(device, mmio=mmio, lost_timeout=PATIENCE) as controller:
                for index in (0, 3):
                    block = controller.drives[index].block
                    data = os.urandom(3 * MIB)
                    block.write_from(data, MIB + 512, fua=True)
                    back = bytearray(3 * MIB)
                    block.read_into(back, MIB + 512)
                    assert back == data
                    block.trim(0, MIB)
                    block.flush()
                for channel in controller.stats()["channels"]:
                    assert channel["lost_interrupts"] == channel["errors"] == 0


def test_pio_over_the_socket(tmp_path: Path) -> None:
    with served(tmp_path / "s", "ram=1M&udma=none&mwdma=none"):
        with open_device(f"vfio-user:{tmp_path}/s") as device, open_driver(device) as controller:
            block = controller.drives[0].block
            data = os.urandom(20000 // 512 * 512)
            block.write_from(data, 512)
            back = bytearray(len(data))
            block.read_into(back, 512)
            assert back == data


def test_a_second_opener_is_refused_with_the_owners_pid(tmp_path: Path) -> None:
    with served(tmp_path / "s"):
        with open_device(f"vfio-user:{tmp_path}/s"):
            with pytest.raises(errors.DeviceBusyError, match=f"process {os.getpid()}"):
                open_device(f"vfio-user:{tmp_path}/s")
        # given back: anybody may have it
        open_device(f"vfio-user:{tmp_path}/s").close()


def test_registers_are_reset_for_the_next_client(tmp_path: Path) -> None:
    with served(tmp_path / "s"):
        with open_device(f"vfio-user:{tmp_path}/s") as device:
            device.config_write(4, 2, 7)
            assert device.config_read(4, 2) & 7 == 7
        with open_device(f"vfio-user:{tmp_path}/s") as device:
            assert device.config_read(4, 2) & 7 == 0


def test_a_killed_server_is_enodev_and_no_hang(tmp_path: Path) -> None:
    path = tmp_path / "s"
    model = subprocess.Popen(
        [
            *(sys.executable, "-m", "usrdrv", "model", "cmd680", "--option", "strict=1"),
            *("--socket", path, "--ram", "16M"),
        ],
        stdout=subprocess.PIPE,
    )
    assert model.stdout is not None
    assert model.stdout.readline()
    try:
        with open_device(f"vfio-user:{path}") as device, open_driver(device) as controller:
            block = controller.drives[0].block
            reads = [0] * 4
            failures: list[errors.UsrdrvError] = []

            def work(number: int) -> None:
                buf = bytearray(65536)
                try:
                    while True:
                        block.read_into(buf, 65536 * number)
                        reads[number] += 1
                except errors.UsrdrvError as error:
                    failures.append(error)

            threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
            for thread in threads:
                thread.start()
            until(lambda: min(reads) > 0, "reads")
            model.send_signal(signal.SIGKILL)
            for thread in threads:
                thread.join(PATIENCE)
                assert not thread.is_alive()
            assert [error.errno for error in failures] == [19] * 4
            assert controller.gone.wait(PATIENCE)
            with pytest.raises(errors.NoSuchDeviceError):
                device.config_read(0, 4)
    finally:
        model.kill()
        model.wait()


def test_the_end_of_an_idle_server_is_noticed(tmp_path: Path) -> None:
    with served(tmp_path / "s"):
        device = open_device(f"vfio-user:{tmp_path}/s")
        controller = open_driver(device)
    assert controller.gone.wait(PATIENCE)
    controller.close()
    device.close()


def test_who_waits_for_an_interrupt_learns_that_the_server_ended(tmp_path: Path) -> None:
    with served(tmp_path / "s"):
        device = open_device(f"vfio-user:{tmp_path}/s")
        assert not device.irq_wait(0)
    with pytest.raises(errors.NoSuchDeviceError):
        device.irq_wait(PATIENCE)
    device.close()


def reply(message: bytes, payload: bytes, code: int = 0, **changes: int) -> bytes:
    number, command, _, _, _ = struct.unpack_from("<HHIII", message)
    size = 16 + len(payload)
    fields = {"number": number, "command": command, "size": size, "flags": 0x21 if code else 1}
    fields |= changes
    return struct.pack("<HHIII", *fields.values(), code) + payload


def good(message: bytes) -> bytes:
    """What a correct device answers; enough of one to be opened."""
    command = struct.unpack_from("<HHIII", message)[1]
    payload = message[16:]
    match command:
        case 1:
            return reply(message, struct.pack("<HH", 0, 0) + b"{}\0")
        case 4:
            return reply(message, struct.pack("<IIII", 16, 3, 9, 5))
        case 5:
            return reply(message, payload[:16] + struct.pack("<QQ", 256, 0))
        case 7:
            return reply(message, struct.pack("<IIII", 16, 7, 0, 1))
        case 9:
            count = struct.unpack_from("<QII", payload)[2]
            return reply(message, payload[:16] + bytes(count))
        case _:
            return reply(message, payload)


@contextmanager
def liar(
    path: Path,
    spoil: int | None,
    answer: Callable[[bytes], bytes | None],
    take: Callable[[int], None] = os.close,
) -> Iterator[None]:
    """A server that is correct but for the answers to command `spoil` (None: to any); no answer: hang up.

    `take` gets what descriptors the client sends.
    """
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, suppress(ConnectionError):
            while len((came := socket.recv_fds(connection, 16, 8, socket.MSG_WAITALL))[0]) == 16:
                header, descriptors, *_ = came
                for descriptor in descriptors:
                    take(descriptor)
                _, command, size, flags, _ = struct.unpack("<HHIII", header)
                message = header
                if size > 16:
                    message += connection.recv(size - 16, socket.MSG_WAITALL)
                if flags & 0x10:
                    continue
                said = answer(message) if spoil in (command, None) else good(message)
                if said is None:
                    return
                connection.sendall(said)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listener.close()
        thread.join(PATIENCE)


LIES: dict[str, Callable[[bytes], bytes | None]] = {
    "hangs up": lambda m: None,
    "says nothing": lambda m: b"",
    "another id": lambda m: reply(m, m[16:], number=999),
    "another command": lambda m: reply(m, m[16:], command=77),
    "no reply": lambda m: reply(m, m[16:], flags=0),
    "too short": lambda m: reply(m, b""),
    "too long": lambda m: reply(m, bytes(70000)),
    "a size that is none": lambda m: reply(m, b"", size=3),
    "a huge size": lambda m: reply(m, b"", size=2**32 - 1),
    "an error": lambda m: reply(m, b"", code=22),
    "an error beyond errno": lambda m: reply(m, b"", code=2**32 - 1),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize(
    "command", [1, 4, 5, 7, 9], ids=["version", "info", "region", "irq", "read"]
)
def test_a_lying_server_is_an_error_in_time(
    tmp_path: Path, command: int, lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lie == "says nothing":
        monkeypatch.setattr("usrdrv.device.REPLY_TIMEOUT_MS", 500)
    with liar(tmp_path / "s", command, LIES[lie]):
        with pytest.raises(errors.UsrdrvError, match="vfio-user"):
            open_device(f"vfio-user:{tmp_path}/s")


def test_an_answer_to_another_question_ends_the_device(tmp_path: Path) -> None:
    """A read's answer repeats the question; one that does not fit is not believed."""

    def other(message: bytes) -> bytes:
        offset, region, count = struct.unpack_from("<QII", message[16:])
        return reply(message, struct.pack("<QII", offset + 4, region, count) + bytes(count))

    with liar(tmp_path / "s", 9, other), pytest.raises(errors.NoSuchDeviceError):
        open_device(f"vfio-user:{tmp_path}/s")


def spoil_eventfd(fd: int, count: int) -> None:
    """Set its count and clear O_NONBLOCK, for all descriptors of the file: the next read or write waits."""
    os.set_blocking(fd, False)
    with suppress(BlockingIOError):
        os.eventfd_read(fd)
    if count:
        os.eventfd_write(fd, count)
    os.set_blocking(fd, True)


def finishes(work: Callable[[], None]) -> bool:
    """Whether `work` comes to an end; a thread that hangs in C is left behind."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return not thread.is_alive()


def test_a_server_that_fills_the_interrupts_eventfd_and_lies_hangs_nobody(tmp_path: Path) -> None:
    taken: list[int] = []

    def lie(message: bytes) -> bytes:
        if not taken:
            return good(message)
        spoil_eventfd(taken[0], 2**64 - 2)
        return reply(message, b"", number=999)

    def work() -> None:
        with open_device(f"vfio-user:{tmp_path}/s") as device:
            with pytest.raises(errors.NoSuchDeviceError):
                device.config_read(0, 4)
            with pytest.raises(errors.NoSuchDeviceError):
                device.irq_wait(None)

    with liar(tmp_path / "s", 9, lie, taken.append):
        assert finishes(work)
    os.close(taken[0])


def test_an_interrupt_that_the_server_takes_back_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between poll() and the read."""
    taken: list[int] = []
    ready: list[bool] = []

    plain = select.poll

    class Poll:
        def __init__(self) -> None:
            self.poller = plain()
            self.register = self.poller.register

        def poll(self, timeout: float | None) -> list[tuple[int, int]]:
            spoil_eventfd(taken[0], 1)
            found = self.poller.poll(timeout)
            spoil_eventfd(taken[0], 0)
            return found

    def work() -> None:
        with open_device(f"vfio-user:{tmp_path}/s") as device:
            with monkeypatch.context() as patch:
                patch.setattr("usrdrv.device.select.poll", Poll)
                ready.append(device.irq_wait(None))

    with liar(tmp_path / "s", 0, good, taken.append):
        assert finishes(work)
    assert ready == [False]
    os.close(taken[0])


def test_a_refused_access_is_an_error_and_no_more(tmp_path: Path) -> None:
    """Answers to what was sent together with it are not taken for later ones."""

    def refuse_some(message: bytes) -> bytes:
        offset = struct.unpack_from("<Q", message[16:])[0]
        return reply(message, b"", code=errno.EINVAL) if offset == 0x80 else good(message)

    with liar(tmp_path / "s", 9, refuse_some):
        with open_device(f"vfio-user:{tmp_path}/s") as device:
            words = ffi.new("uint16_t[100]")
            assert device.c.ops.read_rep(device.c, 5, 0x80, 2, words, 100) == -errno.EINVAL
            assert device.c.ops.read_rep(device.c, 5, 0x40, 2, words, 100) == 0
            assert device.read32(5, 0) == 0
    (tmp_path / "s").unlink()
    with liar(tmp_path / "s", 10, lambda m: reply(m, b"", code=errno.EINVAL)):
        with open_device(f"vfio-user:{tmp_path}/s") as device:
            write = ffi.new("struct usrdrv_write *", {"region": 7, "width": 1, "offset": 4})
            value = ffi.new("uint64_t *")
            assert device.c.ops.read(device.c, write, 1, 7, 0, 4, value) == -errno.EINVAL
            assert device.config_read(0, 4) == 0


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (4, struct.pack("<IIII", 16, 1, 9, 5)),
        (4, struct.pack("<IIII", 16, 3, 7, 5)),
        (5, struct.pack("<IIIIQQ", 32, 3, 0, 0, 64, 0)),
        (7, struct.pack("<IIII", 16, 7, 0, 2)),
        (7, struct.pack("<IIII", 16, 1, 0, 1)),
    ],
    ids=["no PCI", "no configuration space", "a short one", "two lines", "not maskable"],
)
def test_what_is_no_pci_function_is_not_opened(tmp_path: Path, command: int, answer: bytes) -> None:
    with liar(tmp_path / "s", command, lambda m: reply(m, answer)):
        with pytest.raises(errors.NoSuchDeviceError, match="no PCI device"):
            open_device(f"vfio-user:{tmp_path}/s")


def irq_kinds(*counts: int, flags: int = 1) -> Callable[[bytes], bytes]:
    """Answers of a device that has so many interrupts: INTx, MSI, MSI-X."""

    def answer(message: bytes) -> bytes:
        index = struct.unpack_from("<8xI", message[16:])[0]
        info = struct.pack("<IIII", 16, flags if index else 7, index, counts[index])
        return reply(message, info)

    return answer


@pytest.mark.parametrize(
    ("answer", "good"),
    [
        (irq_kinds(0, 32, 2048), True),
        (irq_kinds(1, 33, 0), False),
        (irq_kinds(1, 0, 2049), False),
        (irq_kinds(1, 0, 2**32 - 1), False),
        (irq_kinds(1, 1, 1, flags=2), False),
    ],
    ids=["without INTx", "33 MSI", "2049 MSI-X", "too many MSI-X", "no eventfds"],
)
def test_what_a_function_may_have_of_each_kind(
    tmp_path: Path, answer: Callable[[bytes], bytes], good: bool
) -> None:
    with liar(tmp_path / "s", 7, answer):
        if good:
            with open_device(f"vfio-user:{tmp_path}/s") as device:
                assert device.vectors == {"msix": 2048, "msi": 32, "intx": 0}
        else:
            with pytest.raises(errors.NoSuchDeviceError, match="no PCI device"):
                open_device(f"vfio-user:{tmp_path}/s")


def test_a_server_that_knows_only_lines(tmp_path: Path) -> None:
    """It is not asked for more."""
    with liar(tmp_path / "s", 4, lambda m: reply(m, struct.pack("<IIII", 16, 3, 9, 1))):
        with open_device(f"vfio-user:{tmp_path}/s") as device:
            assert device.vectors == {"msix": 0, "msi": 0, "intx": 1}


MANY = irq_kinds(1, 4, 20)


@pytest.mark.parametrize(
    ("capabilities", "most"),
    [
        (b'{"capabilities":{"max_msg_fds":8,"x":1}}', 8),
        (b'{"capabilities": {"x": 1, "max_msg_fds" : 3}}', 3),
        (b'{"capabilities":{"max_msg_fds":1000}}', 8),
        (b'{"capabilities":{"max_msg_fds":99999999999999999999999}}', 8),
        (b'{"capabilities":{"max_msg_fds":0}}', 1),
        (b'{"capabilities":{"max_msg_fds":"x"}}', 1),
        (b'{"capabilities":{"max_msg_fds"', 1),
        (b"{}", 1),
        (b"", 1),
    ],
    ids=["8", "3", "1000", "huge", "0", "a word", "cut short", "not said", "nothing"],
)
def test_no_message_has_more_eventfds_than_the_server_takes(
    tmp_path: Path, capabilities: bytes, most: int
) -> None:
    ranges: list[tuple[int, ...]] = []

    def answer(message: bytes) -> bytes:
        match struct.unpack_from("<HH", message)[1]:
            case 1:
                return reply(message, struct.pack("<HH", 0, 0) + capabilities + b"\0")
            case 7:
                return MANY(message)
            case 8:
                ranges.append(struct.unpack_from("<4xIIII", message[16:]))
        return good(message)

    with liar(tmp_path / "s", None, answer):
        with open_device(f"vfio-user:{tmp_path}/s") as device:
            device.irqs(20)
    expected = [(0x24, 2, at, min(most, 20 - at)) for at in range(0, 20, most)]
    assert ranges == [(0x24, 0, 0, 1), (0x21, 0, 0, 0), *expected]


@pytest.mark.parametrize("refused", [0x21, 0x24])
def test_interrupts_that_are_refused_leave_none_connected(tmp_path: Path, refused: int) -> None:
    """Of those that came before in other messages neither; but for a server that keeps what was connected."""
    ranges: list[tuple[int, ...]] = []

    def answer(message: bytes) -> bytes:
        match struct.unpack_from("<HH", message)[1]:
            case 7:
                return MANY(message)
            case 8:
                ranges.append(struct.unpack_from("<4xIIII", message[16:]))
                if len(ranges) == 4 and ranges[-1][0] == refused:
                    return reply(message, b"", code=errno.ENOSPC)
        return good(message)

    with liar(tmp_path / "s", None, answer):
        with open_device(f"vfio-user:{tmp_path}/s") as device:
            del ranges[:]
            if refused == 0x21:
                device.irqs(2)
            with pytest.raises(errors.DeviceError, match="3 msi: No space left"):
                device.irqs(3, "msi")
            assert device.irq_kind == ("msix" if refused == 0x21 else None)
            assert device.config_read(0, 4) == 0
    first = [(0x21, 0, 0, 0), (0x24, 2, 0, 1), (0x24, 2, 1, 1), (0x21, 2, 0, 0)]
    second = [(0x21, 0, 0, 0), *((0x24, 1, at, 1) for at in range(3)), (0x21, 1, 0, 0)]
    assert ranges == (first if refused == 0x21 else second)


def test_the_upper_half_of_a_wide_bar_is_no_bar(tmp_path: Path) -> None:
    """Also if the server gives it a size."""

    def answer(message: bytes) -> bytes:
        offset, _, count = struct.unpack_from("<QII", message[16:])
        bar = {0x10: 0xC, 0x14: 0xFFFFFFFF, 0x18: 0x8, 0x1C: 0x1, 0x24: 0x4}.get(offset, 0)
        return reply(message, message[16:32] + bar.to_bytes(count, "little"))

    with liar(tmp_path / "s", 9, answer):
        with open_device(f"vfio-user:{tmp_path}/s") as device:
            assert device.bars == [
                Bar(256, io=False, wide=True, prefetchable=True),
                Bar(0, io=False),
                Bar(256, io=False, prefetchable=True),
                Bar(256, io=True),
                Bar(256, io=False),
                Bar(256, io=False, wide=True),
            ]


def test_a_server_that_accepts_nobody_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usrdrv.device.REPLY_TIMEOUT_MS", 500)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen(0)
    waiting = socket.socket(socket.AF_UNIX)
    waiting.connect(str(tmp_path / "s"))
    with pytest.raises(errors.DeviceBusyError, match="does not accept"):
        open_device(f"vfio-user:{tmp_path}/s")
    waiting.close()
    listener.close()


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(errors.NoSuchDeviceError, match="no such socket"):
        open_device(f"vfio-user:{tmp_path}/none")
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / "s"))
    stale.close()
    with pytest.raises(errors.NoSuchDeviceError, match="nobody serves"):
        open_device(f"vfio-user:{tmp_path}/s")
