# SPDX-License-Identifier: MIT
"""The nbdkit plugin: drives of one device, each as an NBD export.

    nbdkit -f python plugin.py device=NAME [drive=N ... | drive=all] [options=JSON] [trim=0] [again=1]

drive: 0 by default. Of several, or all, each is an export of its number's name; one alone has every name.
options: those of usrdrv.block.options that are not as they are by default. again: clients wait for another server
when this one ends without an answer. The process kills itself when a request is overdue: the driver has forgotten
it, and there may be another one that does not.

nbdkit embeds the system's interpreter, so the folders where usrdrv is installed come in the
environment variable USRDRV_SITE. They go in front, or an older cffi of the system's would be taken;
and through addsitedir, because an editable installation is found through a .pth file.
"""

import errno
import json
import os
import select
import signal
import site
import socket
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import nbdkit  # type: ignore[import-not-found]

folders = [folder for folder in os.environ.get("USRDRV_SITE", "").split(os.pathsep) if folder]
sys.path[:0] = folders
for folder in folders:
    site.addsitedir(folder)

import usrdrv.devices  # noqa: E402  so that open_device() can open a model
import usrdrv.lab  # noqa: E402, F401  and a device of QEMU's
from usrdrv.base import errors  # noqa: E402
from usrdrv.base.sockets import remover  # noqa: E402
from usrdrv.block.options import Options  # noqa: E402
from usrdrv.bridge.block import inquiry, watchdog  # noqa: E402
from usrdrv.bridge.block.chosen import chosen, identity  # noqa: E402
from usrdrv.claim import name_owner  # noqa: E402
from usrdrv.drivers.disks import open_disks  # noqa: E402

if TYPE_CHECKING:
    from usrdrv.drivers import disks as driven

API_VERSION = 2

FUA: Final[int] = nbdkit.FLAG_FUA

DRAIN_TIME: Final = 5.0

# What NBD can say; everything else, a vanished device included, is an I/O error to the client.
NBD_ERRORS: Final = frozenset(
    (
        errno.EPERM,
        errno.EIO,
        errno.ENOMEM,
        errno.EINVAL,
        errno.ENOSPC,
        errno.EOPNOTSUPP,
        errno.EROFS,
    )
)

ALL: Final = "all"

parameters: dict[str, str] = {"trim": "1", "again": "0"}
given: dict[str, Any] = {}
"""Of usrdrv.block.options, by name."""
wanted: list[str] = []
"""Drives."""
opened: Final = ExitStack()


class Disk:
    """A drive that is served: the handle of each connection to it."""

    def __init__(self, drive: "driven.Disk") -> None:
        self.block = drive.block
        self.identity = identity(drive)
        # Bound here: as little as can be is looked up on the way of a request.
        self.read_into: Callable[[Any, int], None] = drive.block.read_into
        self.write_from: Callable[[Any, int, bool], None] = drive.block.write_from


disks: Final[dict[str, Disk]] = {}
"""By the name of the export."""

format_exception: Final = traceback.format_exception


def describe(kind: type[BaseException], *rest: Any) -> list[str]:
    """Give nbdkit, which prints every exception with its traceback, one line for expected ones."""
    if issubclass(kind, errors.UsrdrvError):
        return [str(rest[0])]
    return format_exception(kind, *rest)


traceback.format_exception = describe  # type: ignore[assignment]


def thread_model() -> int:
    return int(nbdkit.THREAD_MODEL_PARALLEL)


def config(key: str, value: str) -> None:
    if key == "options":
        _options(value)
        return
    if key not in ("device", "drive", *parameters):
        raise errors.UsageError(f"unknown parameter {key}")
    number = value.isascii() and value.isdigit()
    if key != "device" and not number and (key, value) != ("drive", ALL):
        raise errors.UsageError(f"{key}={value} is not a number")
    if key == "drive":
        wanted.append(value)
    else:
        parameters[key] = value


def _options(text: str) -> None:
    try:
        given.update(json.loads(text))
        Options(**given)
    except (ValueError, TypeError) as error:
        raise errors.UsageError(f"options={text}: {error}") from None


def config_complete() -> None:
    if "device" not in parameters:
        raise errors.UsageError("the parameter device=NAME is needed")


def after_fork() -> None:
    """Open the device. Not earlier: the driver starts threads, which a fork would lose."""
    path = os.environ.get("USRDRV_SOCKET")
    remove_socket = remover(Path(path)) if path else None
    name = parameters["device"]
    numbers = None if ALL in wanted else [int(number) for number in wanted or ("0",)]
    options = Options(**given)
    supervisor = int(os.environ.get("USRDRV_SUPERVISOR_FD", -1))
    if supervisor >= 0:
        name_owner(os.getppid())
    with ExitStack() as stack:
        controller = stack.enter_context(open_disks(name, options))
        for drive in chosen(controller, name, numbers):
            disks[str(drive.index)] = Disk(drive)
        if supervisor >= 0:
            stack.enter_context(inquiry.answer(controller))
        if remove_socket:  # nbdkit leaves it
            stack.callback(remove_socket)
        opened.push(stack.pop_all())

    def gone() -> None:
        controller.gone.wait()
        leave_to_next()
        if supervisor >= 0 and controller.vanished:
            with suppress(OSError):
                os.write(supervisor, b"!")  # that is why we end, as far as we can see

    watch(gone)
    if overdue := watchdog.overdue(options.request_time):
        threading.Thread(target=watch_ages, args=(overdue,), daemon=True).start()
    if supervisor >= 0:
        watch(partial(os.read, supervisor, 1))
        end_like_a_death(supervisor)


def end_like_a_death(supervisor: int) -> None:
    """Take signals to end, of anybody but our supervisor, from nbdkit.

    It answers requests with an error then. Ours will start another driver: a connection without answers
    has the kernel wait for that one.
    """
    told, wakeup = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)

    def wait() -> None:
        os.read(told, 1)
        ended, _, _ = select.select([supervisor], [], [], 0)
        if not ended:  # else it is seen to
            disconnect(socket.SHUT_RDWR)

    watch(wait)


def watch(wait: Callable[[], object]) -> None:
    """End the server when `wait` returns: the device or our supervisor is gone for good."""

    def end() -> None:
        wait()
        nbdkit.shutdown()
        # nbdkit waits for its clients to go. So nothing more is read from them; one that does not
        # even take its last replies is cut off.
        disconnect(socket.SHUT_RD)
        time.sleep(DRAIN_TIME)
        disconnect(socket.SHUT_RDWR)

    threading.Thread(target=end, daemon=True).start()


def disconnect(how: int) -> None:
    """Shut the clients' sockets down: those with an address, not a driver's own to its device."""
    for entry in Path("/proc/self/fd").iterdir():
        fd = int(entry.name)
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                with socket.socket(fileno=os.dup(fd)) as client:
                    listens = client.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                    if client.getsockname() and not listens:
                        client.shutdown(how)


def cleanup() -> None:
    """Remove the socket and close the device: the last request is done."""
    opened.close()


def leave_to_next() -> None:
    """Answer nothing any more where another server would get the requests again: it knows better than we do."""
    if parameters["again"] != "0":
        disconnect(socket.SHUT_RDWR)


def fail(error: errors.UsrdrvError) -> NoReturn:
    if error.errno == errno.ENODEV:
        leave_to_next()
    nbdkit.set_error(error.errno if error.errno in NBD_ERRORS else errno.EIO)
    raise error


def list_exports(readonly: bool, is_tls: bool) -> list[str]:
    return list(disks) if len(wanted) > 1 or ALL in wanted else [""]


def open(readonly: bool) -> Disk:
    """Begin a connection; all of them share the drives. The first drive needs no name."""
    first = next(iter(disks))
    name = first if len(disks) == 1 else nbdkit.export_name() or first
    if name not in disks:
        raise errors.NoSuchDeviceError(f"no export {name!r} (there is: {', '.join(disks)})")
    return disks[name]


def get_size(disk: Disk) -> int:
    return disk.block.size


def block_size(disk: Disk) -> tuple[int, int, int]:
    return 512, max(4096, disk.block.physical_block), 32 << 20


def export_description(disk: Disk) -> str:
    """Say which drive this is, for who must know whether it is the same one again."""
    return disk.identity


def is_rotational(disk: Disk) -> bool:
    return disk.block.rotational


def can_multi_conn(disk: Disk) -> bool:
    """Yes: a flush on one connection covers what any of them wrote."""
    return True


def can_write(disk: Disk) -> bool:
    return not disk.block.read_only


def can_flush(disk: Disk) -> bool:
    return disk.block.can_flush


def can_fua(disk: Disk) -> int:
    if disk.block.can_fua:
        return int(nbdkit.FUA_NATIVE)
    return int(nbdkit.FUA_EMULATE if disk.block.can_flush else nbdkit.FUA_NONE)


def can_trim(disk: Disk) -> bool:
    return disk.block.can_trim and parameters["trim"] != "0"


def can_zero(disk: Disk) -> bool:
    """No: trimmed sectors of an ATA drive need not read as zeroes, so nbdkit writes them."""
    return False


LOOKS: Final = 20
"""How often all requests are looked at before one is overdue."""
looks = 0
began: dict[int, int] = {}
"""The threads that have a request, and how many looks there had been when it came.

Not the time: a process that was stopped has not been slow.
"""


def watch_ages(seconds: float) -> None:
    global looks
    while True:
        time.sleep(seconds / LOOKS)
        looks += 1
        if looks - min(list(began.values()), default=looks) > LOOKS:
            print(
                f"a request is not done after {seconds:.0f} s: killed", file=sys.stderr, flush=True
            )
            os.kill(os.getpid(), signal.SIGKILL)


def request(serve: Callable[..., None]) -> Callable[..., None]:
    """Keep a request's age while it is served, and tell its client what it failed of."""

    def served(*arguments: Any) -> None:
        thread = threading.get_ident()
        began[thread] = looks
        try:
            serve(*arguments)
        except errors.UsrdrvError as error:
            fail(error)
        finally:
            del began[thread]

    return served


@request
def pread(disk: Disk, buf: memoryview, offset: int, flags: int) -> None:
    disk.read_into(buf, offset)


@request
def pwrite(disk: Disk, buf: memoryview, offset: int, flags: int) -> None:
    disk.write_from(buf, offset, flags & FUA != 0)


@request
def flush(disk: Disk, flags: int) -> None:
    disk.block.flush()


@request
def trim(disk: Disk, count: int, offset: int, flags: int) -> None:
    disk.block.trim(offset, count)
    if flags & FUA:
        disk.block.flush()
