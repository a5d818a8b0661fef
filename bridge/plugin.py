# SPDX-License-Identifier: MIT
"""The nbdkit plugin: one drive of one device as an NBD export.

    nbdkit -f python plugin.py device=NAME [drive=N] [readonly=1] [trim=0] [again=1] [overdue=MS]

again: clients wait for another server when this one ends without an answer. overdue: milliseconds; the process
kills itself when a request takes longer: the driver has forgotten it, and there may be another one that does not.

nbdkit embeds the system's interpreter, so the folders where usrdrv is installed come in the
environment variable USRDRV_SITE. They go in front, or an older cffi of the system's would be taken;
and through addsitedir, because an editable installation is found through a .pth file.
"""

import errno
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

import usrdrv.devices  # noqa: E402, F401  so that open_device() can open a model
from usrdrv.base import errors  # noqa: E402
from usrdrv.claim import name_owner  # noqa: E402
from usrdrv.device import open_device  # noqa: E402
from usrdrv.drivers import open_driver, supported  # noqa: E402

if TYPE_CHECKING:
    from usrdrv.block import Block

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

parameters: dict[str, str] = {
    "drive": "0",
    "readonly": "0",
    "trim": "1",
    "again": "0",
    "overdue": "0",
}
opened: Final = ExitStack()
block: "Block"
identity: str
# Bound once the device is open: nothing is looked up on the way of a request.
read_into: Callable[[Any, int], None]
write_from: Callable[[Any, int, bool], None]

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
    if key not in ("device", *parameters):
        raise errors.UsageError(f"unknown parameter {key}")
    if key != "device" and not (value.isascii() and value.isdigit()):
        raise errors.UsageError(f"{key}={value} is not a number")
    parameters[key] = value


def config_complete() -> None:
    if "device" not in parameters:
        raise errors.UsageError("the parameter device=NAME is needed")


def after_fork() -> None:
    """Open the device. Not earlier: the driver starts threads, which a fork would lose."""
    global block, identity, read_into, write_from
    name, index = parameters["device"], int(parameters["drive"])
    supervisor = int(os.environ.get("USRDRV_SUPERVISOR_FD", -1))
    if supervisor >= 0:
        name_owner(os.getppid())
    with ExitStack() as stack:
        device = stack.enter_context(open_device(name))
        controller = stack.enter_context(
            open_driver(device, supported.DISKS, read_only=parameters["readonly"] != "0")
        )
        drive = controller.drives[index] if 0 <= index < len(controller.drives) else None
        if drive is None:
            there = ", ".join(str(d.index) for d in controller.drives if d) or "none"
            raise errors.NoSuchDeviceError(f"{name}: no drive {index} (there is: {there})")
        block = drive.block
        identity = f"{drive.identity.model}, serial {drive.identity.serial}"
        read_into, write_from = block.read_into, block.write_from
        opened.push(stack.pop_all())

    def gone() -> None:
        controller.gone.wait()
        leave_to_next()
        if supervisor >= 0 and controller.vanished:
            with suppress(OSError):
                os.write(supervisor, b"!")  # that is why we end, as far as we can see

    watch(gone)
    if parameters["overdue"] != "0":
        threading.Thread(target=watch_ages, daemon=True).start()
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
    """Remove the socket, which nbdkit leaves, and close the device: the last request is done."""
    path = os.environ.get("USRDRV_SOCKET")
    if path:
        with suppress(FileNotFoundError):
            os.unlink(path)
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


def open(readonly: bool) -> int:
    """Begin a connection; all of them share the drive."""
    return 1


def get_size(handle: int) -> int:
    return block.size


def block_size(handle: int) -> tuple[int, int, int]:
    return 512, max(4096, block.physical_block), 32 << 20


def export_description(handle: int) -> str:
    """Say which drive this is, for who must know whether it is the same one again."""
    return identity


def is_rotational(handle: int) -> bool:
    return block.rotational


def can_multi_conn(handle: int) -> bool:
    """Yes: a flush on one connection covers what any of them wrote."""
    return True


def can_write(handle: int) -> bool:
    return not block.read_only


def can_flush(handle: int) -> bool:
    return block.can_flush


def can_fua(handle: int) -> int:
    if block.can_fua:
        return int(nbdkit.FUA_NATIVE)
    return int(nbdkit.FUA_EMULATE if block.can_flush else nbdkit.FUA_NONE)


def can_trim(handle: int) -> bool:
    return block.can_trim and parameters["trim"] != "0"


def can_zero(handle: int) -> bool:
    """No: trimmed sectors of an ATA drive need not read as zeroes, so nbdkit writes them."""
    return False


LOOKS: Final = 20
"""How often all requests are looked at before one is overdue."""
looks = 0
began: dict[int, int] = {}
"""The threads that have a request, and how many looks there had been when it came.

Not the time: a process that was stopped has not been slow.
"""


def watch_ages() -> None:
    global looks
    seconds = int(parameters["overdue"]) / 1000
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

    def served(handle: int, *arguments: Any) -> None:
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
def pread(buf: memoryview, offset: int, flags: int) -> None:
    read_into(buf, offset)


@request
def pwrite(buf: memoryview, offset: int, flags: int) -> None:
    write_from(buf, offset, flags & FUA != 0)


@request
def flush(flags: int) -> None:
    block.flush()


@request
def trim(count: int, offset: int, flags: int) -> None:
    block.trim(offset, count)
    if flags & FUA:
        block.flush()
