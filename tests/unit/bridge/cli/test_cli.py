# SPDX-License-Identifier: MIT
"""The command line without a device: arguments, choices, messages."""

import argparse
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.files import ROOT, tracked
from usrdrv import loop, modules
from usrdrv.base import errors
from usrdrv.base.options import made
from usrdrv.base.process import Child
from usrdrv.base.signals import Interrupted, Signals
from usrdrv.base.sockets import claim_path, has_client, listen
from usrdrv.block.options import Options
from usrdrv.bridge.block import export_nbd, export_socket, export_usrloop, exports, nbd_server
from usrdrv.bridge.block.exports import EXPORTS
from usrdrv.bridge.block.nbd_handshake import Export
from usrdrv.bridge.cli import cmd_block, cmd_fault, cmd_model, main
from usrdrv.bridge.cli.arguments import given
from usrdrv.bridge.net import export_tap
from usrdrv.bridge.net import exports as net_exports
from usrdrv.devices import control
from usrdrv.lab.models import Model

RAM = "model:cmd680?strict=1&ram=1M"


def failing(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    """Run a command that fails; return its exit code and its only line of error."""
    try:
        code: Any = main.main(argv)
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("usrdrv: error: "), err
    assert not out
    return code, lines[0]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "COMMAND"),
        (("frobnicate",), "frobnicate"),
        (("block",), "DEVICE"),
        (("block", "x", "--drive", "70000"), "70000 is not in 0 to 65535"),
        (("block", "x", "--drive", "-1"), "-1 is not in 0 to 65535"),
        (("block", "x", "--port", "0"), "0 is not in 1 to 65535"),
        (("block", "x", "--port", "65536"), "65536 is not in 1 to 65535"),
        (("block", "x", "--port", "http"), "'http' is not a number"),
        (("block", "x", "--threads", "0"), "0 is not in 1 to 1024"),
        (("block", "x", "--export", "ftp"), "ftp"),
        (("block", RAM, "--port", "9", "--socket", "/s"), "exclude each other"),
        (("block", RAM, "--port", "9", "--export", "fuse"), "does not go with --export fuse"),
        (("block", RAM, "--poll-us", "9", "--export", "fuse"), "--poll-us does not go with"),
        (("block", "x"), "x: not a device name"),
        (("identify", "x"), "x: not a device name"),
        (("identify", "x", "--drive", "-9"), "-9 is not in 0 to 65535"),
        (("identify", "model:dp83820"), "model:dp83820 is not a disk controller"),
        (("block", "model:dp83820"), "model:dp83820 is not a disk controller"),
        (("net", RAM), "is not a network interface"),
        (("model", "cmd681", "--socket", "/s"), "cmd681"),
        (("model", "cmd680"), "--socket"),
        (("model", "cmd680", "--socket", "/s", *(["--ram", "1M"] * 5)), "4 drives at most"),
        (("model", "cmd680", "--socket", "/s", "--cable0", "60"), "60"),
        (("model", "dp83820", "--socket", "/s", "--ram", "1M"), "a dp83820 has no drives"),
        (
            ("model", "dp83820", "--socket", "/s", "--cable0", "40"),
            "--cable0 40: a dp83820 has no such option",
        ),
        (
            ("lab", "run", "--model", "foo --ram 1M", "true"),
            "--model foo --ram 1M: no model of 'foo'",
        ),
        (("fault", "/c", "clear", "x"), "neither the number of a fault nor all"),
    ],
)
def test_wrong_usage(
    capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], message: str
) -> None:
    code, line = failing(capsys, *argv)
    assert code == 2
    assert message in line


def test_usage_line_of_fault_add(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["fault", "/c", "add", "--help"])
    usage = " ".join(capsys.readouterr().out.partition("\n\n")[0].split())
    assert usage == "usage: usrdrv fault CONTROL add [-h] [--json] KIND [KEY=VALUE ...]"


def test_a_model_that_does_not_start_in_a_lab(tmp_path: Path) -> None:
    """Its exit status says whose mistake it was."""
    with pytest.raises(errors.UsageError, match="--model cmd680: .*unknown option 'foo'"):
        Model("cmd680", "--option", "foo=1")
    with pytest.raises(errors.LabError, match="--model cmd680: .*none.img does not exist"):
        Model("cmd680", "--image", str(tmp_path / "none.img"))


def test_fault_without_a_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, line = failing(capsys, "fault", str(tmp_path / "none.ctl"), "list")
    assert code == 1
    assert "none.ctl" in line


def parse(*argv: str) -> argparse.Namespace:
    return main._parser(main.COMMANDS).parse_args(argv)


def test_model_options_keep_the_order_of_the_drives() -> None:
    args = parse(
        *("model", "cmd680", "--socket", "/s", "--image", "a&b.img,ro", "--ram", "1M"),
        *("--image", "c.img", "--cable1", "40", "--class", "0101"),
    )
    assert cmd_model.options(args) == {
        "ro0": ["1"],
        "image0": ["a&b.img"],
        "ram1": ["1M"],
        "image2": ["c.img"],
        "cable1": ["40"],
        "class": ["0101"],
    }


def test_fault_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "call", lambda path, request: {"model": "cmd680"})
    args = parse("fault", "/c", "add", "bad-sector", "lba=100", "on=read", "--json")
    request = cmd_fault._request(args)
    assert request["op"] == "fault-add"
    assert request["fault"].items() >= {"kind": "bad-sector", "lba": 100, "on": "read"}.items()
    with pytest.raises(errors.UsageError, match="gremlin"):
        cmd_fault._request(parse("fault", "/c", "add", "gremlin"))
    assert cmd_fault._request(parse("fault", "/c", "clear")) == {"op": "fault-clear"}
    assert cmd_fault._request(parse("fault", "/c", "clear", "7")) == {"op": "fault-clear", "id": 7}
    assert cmd_fault._request(parse("fault", "/c", "counters")) == {"op": "counters"}


def test_counters_by_name() -> None:
    counters = {"interrupts": 3, "drives": [None, {"reads": 4}]}
    assert list(cmd_fault._flat(counters)) == [("interrupts", 3), ("drive1.reads", 4)]


def test_auto_takes_nbd_where_the_kernel_has_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert export_nbd.kernel_has_nbd(tmp_path)
    monkeypatch.setattr(export_usrloop.Usrloop, "available", lambda self: False)
    monkeypatch.setattr(export_nbd, "kernel_has_nbd", lambda: True)
    assert EXPORTS.choose("auto", {}).name == "nbd"
    monkeypatch.setattr(export_nbd, "kernel_has_nbd", lambda: False)
    export = EXPORTS.choose("auto", {})
    assert export.name == "fuse" and "no NBD client" in export.why
    assert EXPORTS.choose("socket", {}).name == "socket"
    with pytest.raises(errors.MissingToolError, match="CONFIG_BLK_DEV_NBD"):
        EXPORTS.get("nbd")().check()
    monkeypatch.setattr(export_usrloop.Usrloop, "available", lambda self: True)
    assert EXPORTS.choose("auto", {}).name == "usrloop"


@pytest.mark.parametrize("table", [exports, net_exports])
def test_every_export_is_in_the_table_and_named_by_its_file(table: Any) -> None:
    files = {path.stem for path in Path(table.__file__).parent.glob("export_*.py")}
    names = table.EXPORTS.names
    assert files == {f"export_{name}" for name in names}
    assert [table.EXPORTS.get(name).name for name in names] == list(names)


def test_auto_takes_a_tap_where_usrloop_is_not_to_be_had(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def choose() -> tuple[str, str]:
        export = net_exports.EXPORTS.choose("auto", {})
        return export.name, export.why

    monkeypatch.setattr(loop, "available", lambda: False)
    assert choose() == ("tap", "the kernel has no module usrloop")
    monkeypatch.setattr(loop, "available", lambda: True)
    monkeypatch.setattr(loop, "NODE", tmp_path / "none")
    assert choose() == ("tap", f"{tmp_path}/none: permission denied")
    loop.NODE.touch()
    assert choose() == ("usrloop", "the kernel has module usrloop")


@pytest.mark.parametrize(
    ("argv", "chosen"),
    [
        ("", "usrloop"),
        ("--export auto --poll-us 9 --threads 2 --bind ::1 --no-zero-copy", "usrloop"),
        ("--socket /s", "fuse"),
        ("--export nbd --poll-us 0 --bind ::1", "nbd"),
        ("--port 9", "socket"),
        ("--export auto --port 9", "--port does not go with --export auto"),
        ("--export nbd --port 9", "--port does not go with --export nbd"),
        ("--export usrloop --socket /s", "--socket does not go with --export usrloop"),
        ("--socket /s --poll-us 9", "--poll-us does not go with --export fuse"),
    ],
)
def test_options_choose_and_refuse_exports(
    monkeypatch: pytest.MonkeyPatch, argv: str, chosen: str
) -> None:
    monkeypatch.setattr(export_usrloop.Usrloop, "available", lambda self: True)
    monkeypatch.setattr(export_nbd, "kernel_has_nbd", lambda: False)
    args = parse("block", "x", *argv.split())
    try:
        found = EXPORTS.choose(args.export, given(args, EXPORTS.options())).name
    except errors.UsageError as error:
        found = str(error)
    assert found == chosen


def test_an_option_is_named_where_it_is_declared_and_where_it_is_read() -> None:
    """Nothing on its way names it."""
    files = tracked("bridge/*.py", "drivers/*.py", "usrdrv/*.py")
    assert len(files) > 100
    naming = {str(path.relative_to(ROOT)) for path in files if "poll_us" in path.read_text()}
    declared, read = "usrdrv/block/options.py", "bridge/block/export_usrloop.py"
    assert naming == {declared, read, "usrdrv/loop/__init__.py"}


def test_options_are_values_of_their_class() -> None:
    args = parse("block", "x", "--no-zero-copy", "--poll-us", "9", "--port", "7", "--bind", "[::1]")
    asked = given(args, EXPORTS.options())
    assert made(Options, asked, counters=3) == Options(zero_copy=False, poll_us=9, counters=3)
    assert made(export_socket.Socket, asked).endpoint == nbd_server.Endpoint(host="::1", port=7)


def test_what_a_tap_needs_is_loaded_and_looked_at_before_the_device(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wanted: list[str] = []
    monkeypatch.setattr(modules, "load", wanted.append)
    monkeypatch.setattr(export_tap, "CONTROL", tmp_path / "tun")
    code, line = failing(capsys, "net", "model:dp83820?colour=red", "--export", "tap")
    assert code == 1 and "module tun" in line, "the device's own fault comes later"
    assert wanted == ["tun"]


def test_socket_path_in_use_stale_or_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(errors.DeviceBusyError, match="another server"):
            claim_path(path)
    assert path.is_socket()
    claim_path(path)
    assert not path.exists(), "left over by a killed server"
    path.write_text("precious")
    with pytest.raises(errors.UsageError, match="not a socket"):
        claim_path(path)
    assert path.read_text() == "precious"
    with pytest.raises(errors.UsageError, match="no such folder"):
        claim_path(Path("nowhere/s"))
    claim_path(Path("x" * 107))
    with pytest.raises(errors.UsageError, match="107 bytes"):
        claim_path(Path("x" * 108))


def test_a_socket_is_its_owners_alone_from_the_first_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by a chmod of the path: somebody may have put a link there."""

    def no_chmod(*arguments: object, **words: object) -> None:
        raise AssertionError(f"chmod {arguments}")

    monkeypatch.setattr(os, "chmod", no_chmod)
    before = os.umask(0)
    try:
        with listen(tmp_path / "s"):
            assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_whether_a_server_has_a_client_is_what_the_kernel_says(tmp_path: Path) -> None:
    path = tmp_path / "a b.sock"
    assert has_client(path) is None
    with listen(path) as server:
        assert has_client(path) is False
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            with server.accept()[0]:
                assert has_client(path) is True
        assert has_client(path) is False


def test_error_lines_of_nbdkit_lose_their_prefix() -> None:
    line = "nbdkit: error: /usr/lib/x/plugin.py: after_fork: error: model:x: no drive 3"
    assert nbd_server._ERROR.sub("", line) == "model:x: no drive 3"
    line = "nbdkit: error: bind: Address already in use"
    assert nbd_server._ERROR.sub("", line) == "bind: Address already in use"


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Also where the tests run in the background, for which a shell has SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_signals_raise_and_then_are_polled() -> None:
    with Signals() as signals:
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)  # the way out is not interrupted
        assert [came.number for came in signals.take()] == [signal.SIGTERM]
    with Signals() as signals:
        signals.poll_only()
        times = [time.monotonic()]
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
            times.append(time.monotonic())
        numbers, came = zip(*signals.take(), strict=True)
    assert numbers == (signal.SIGINT, signal.SIGTERM)
    assert times[0] <= came[0] <= times[1] <= came[1] <= times[2], "the time of each, not of take()"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "as it was"


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_signal_that_was_ignored_stays_ignored(number: signal.Signals) -> None:
    """As with nohup. Not SIGINT: every background job of a script ignores that."""
    before = signal.signal(number, signal.SIG_IGN)
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Signals() as signals:
            assert signal.getsignal(number) is signal.SIG_IGN
            signals.poll_only()
            signal.raise_signal(number)
            signal.raise_signal(signal.SIGINT)
            assert [came.number for came in signals.take()] == [signal.SIGINT]
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)
        signal.signal(signal.SIGINT, interrupt)


def test_child_that_ignores_termination_is_killed(capsys: pytest.CaptureFixture[str]) -> None:
    child = Child("stubborn", ["sh", "-c", "trap '' TERM; echo ready >&2; exec sleep 60"])
    while not child.lines:
        assert not child.wait(0.01)
    child.talk()
    assert child.stop(grace=0.2)
    assert child.status() == "was killed by SIGKILL"
    assert capsys.readouterr().err == "stubborn: ready\n"
    assert child.stop(), "again is no harm"


def test_child_dies_with_its_parent() -> None:
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        child = Child("sleep", ["sleep", "60"])
        os.write(theirs, f"{child.pid}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(theirs)
    grandchild = int(os.read(ours, 100))
    pidfd = os.pidfd_open(grandchild)
    os.waitpid(pid, 0)
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(60_000), "still running"
    os.close(pidfd)
    os.close(ours)


def test_block_without_rights_to_the_run_directory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USRDRV_RUN_DIR", "/proc/none")
    code, line = failing(capsys, "block", RAM, "--export", "socket")
    assert code == 1
    assert "/proc/none" in line


def test_json_announcement(capsys: pytest.CaptureFixture[str]) -> None:
    class Server:
        drives = {1: Export(4096, 3)}  # noqa: RUF012
        child = argparse.Namespace(pid=7)

        def uri(self, drive: int) -> str:
            return nbd_server.Endpoint(path=Path("/a b")).uri()

    class Attachment:
        where = "/dev/nbd3"

    server: Any = Server()
    attachment: Any = Attachment()
    cmd_block._announce(argparse.Namespace(json=True), "nbd", server, 1, attachment)
    assert json.loads(capsys.readouterr().out) == {
        "device": "/dev/nbd3",
        "drive": 1,
        "export": "nbd",
        "uri": "nbd+unix:///?socket=/a%20b",
        "size": 4096,
        "read_only": True,
        "driver_pid": 7,
    }
