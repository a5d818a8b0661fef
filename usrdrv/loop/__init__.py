# SPDX-License-Identifier: MIT
"""usrloop: the kernel module through which a process serves a block device or a network interface.

The calls and structures are those of loopback-kmod/include/uapi/usrloop.h, which documents them.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from usrdrv import modules
from usrdrv.base import errors
from usrdrv.base.closing import Closing
from usrdrv.loop import _loop

ffi, lib = _loop.ffi, _loop.lib

NODE: Final = Path("/dev/usrloop")
ANY: Final = lib.USRLOOP_ANY
STATES: Final = {
    lib.USRLOOP_NEW: "new",
    lib.USRLOOP_LIVE: "live",
    lib.USRLOOP_QUIESCED: "quiesced",
    lib.USRLOOP_FAILED: "failed",
    lib.USRLOOP_DEAD: "dead",
}
POLICIES: Final = {
    "fail": lib.USRLOOP_DEATH_FAIL,
    "queue": lib.USRLOOP_DEATH_QUEUE,
    "reissue": lib.USRLOOP_DEATH_REISSUE,
    "fail-new": lib.USRLOOP_DEATH_FAIL_NEW,
}
"""What becomes of requests when the server dies, by the names that sysfs shows."""


def new(name: str, **fields: Any) -> Any:
    """Return struct usrloop_NAME for a call: its size said, `fields` set, the rest zero."""
    kind = f"struct usrloop_{name}"
    return ffi.new(f"{kind} *", {"argsz": ffi.sizeof(kind), **fields})


def available(node: Path = NODE) -> bool:
    """Whether the module is there; loads it if we may."""
    if not node.exists():
        modules.load("usrloop")
    return node.exists()


@dataclass(frozen=True)
class Disk:
    """A block device to be. Sizes in bytes, times in milliseconds."""

    size: int
    logical_block: int = 512
    physical_block: int = 512
    max_io: int = 256 << 10
    features: int = 0
    policy: str = "reissue"
    recovery_ms: int = 60_000
    timeout_ms: int = 0
    queues: int = 1
    depth: int = 32
    poll_us: int = 0
    max_discard: int = 0
    discard_granularity: int = 0
    max_segments: int = 0
    segment_mask: int = 0
    flags: int = 0
    owner: int = 0
    label: str = ""
    id: int = ANY

    kind: int = field(default=lib.USRLOOP_BLOCK, init=False)

    def fill(self, info: Any) -> None:
        """Write what is special to a disk."""
        info.policy, info.recovery_ms = POLICIES[self.policy], self.recovery_ms
        for name in (
            *("size", "logical_block", "physical_block", "max_io", "max_discard"),
            *("discard_granularity", "max_segments", "segment_mask"),
        ):
            setattr(info.blk, name, getattr(self, name))


@dataclass(frozen=True)
class Interface:
    """A network interface to be. `name` may hold %d."""

    mac: bytes = bytes(6)
    mtu: int = 1500
    max_mtu: int = 9000
    name: str = ""
    features: int = 0
    queues: int = 1
    depth: int = 256
    timeout_ms: int = 0
    poll_us: int = 0
    max_csum: int = 0
    flags: int = 0
    owner: int = 0
    label: str = ""
    id: int = ANY

    kind: int = field(default=lib.USRLOOP_NET, init=False)

    def fill(self, info: Any) -> None:
        """Write what is special to an interface."""
        info.policy = lib.USRLOOP_DEATH_QUEUE
        info.net.mac = self.mac
        info.net.mtu, info.net.max_mtu = self.mtu, self.max_mtu
        info.net.max_csum = self.max_csum
        info.net.name = os.fsencode(self.name)


class Control(Closing):
    """A file of /dev/usrloop; by create() a controller: with it its device goes, unless that is persistent.

    The methods that name no device are for the file's own. Thread-safe.
    """

    def __init__(self, node: Path = NODE) -> None:
        available(node)
        try:
            self.fd = os.open(node, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise errors.MissingToolError(
                f"{node} is not there: kernel module usrloop (make kmod-install)"
            ) from None
        except PermissionError:
            raise errors.PermissionDeniedError(f"{node}: permission denied") from None
        except OSError as error:
            raise errors.DeviceError(f"{node}: {error.strerror}") from None

    def call(self, request: int, argument: Any, what: str) -> int:
        """Make one call; `argument` is a structure of cffi, changed in place."""
        try:
            return int(fcntl.ioctl(self.fd, request, ffi.buffer(argument)))
        except OSError as error:
            raise _explain(error, what) from None

    def version(self) -> Any:
        """Return struct usrloop_version: what this module knows."""
        version = new("version")
        self.call(lib.USRLOOP_IOC_VERSION, version, "version")
        return version

    def can_zero_copy(self, kind: int) -> bool:
        """Whether the module was built for a kernel with claims of PCI functions."""
        version = self.version()
        if kind == lib.USRLOOP_NET:
            return bool(version.net_features & lib.USRLOOP_NET_ZERO_COPY)
        return bool(version.blk_features & lib.USRLOOP_BLK_ZERO_COPY)

    def create(self, device: Disk | Interface) -> Any:
        """Make a device, not started; return its struct usrloop_info."""
        info = new("info", type=device.kind, id=device.id)
        for name in ("features", "flags", "queues", "depth", "timeout_ms", "poll_us", "owner"):
            setattr(info, name, getattr(device, name))
        try:
            info.label = os.fsencode(device.label)
            device.fill(info)
        except (IndexError, OverflowError) as error:
            raise errors.UsageError(f"usrloop: {error}") from None
        self.call(lib.USRLOOP_IOC_CREATE, info, "create")
        return info

    def query(self, kind: int = 0, id: int = ANY) -> Any:
        """Return struct usrloop_info; poll() of the file is quiet until the next change."""
        info = new("info", type=kind, id=id)
        self.call(lib.USRLOOP_IOC_QUERY, info, "query")
        return info

    def _target(self, request: int, what: str, kind: int, id: int, arg: int) -> None:
        target = new("target", type=kind, id=id, arg=arg)
        self.call(request, target, what)

    def start(self, kind: int = 0, id: int = ANY) -> None:
        """Show the kernel the disk or interface; it needs a server."""
        self._target(lib.USRLOOP_IOC_START, "start", kind, id, 0)

    def stop(self, kind: int = 0, id: int = ANY, force: bool = False) -> None:
        """Take it away; the device stays."""
        self._target(lib.USRLOOP_IOC_STOP, "stop", kind, id, force)

    def delete(self, kind: int = 0, id: int = ANY, force: bool = False) -> None:
        """Take it away and forget it. DeviceBusyError while it is open, unless forced."""
        self._target(lib.USRLOOP_IOC_DELETE, "delete", kind, id, force)

    def resize(self, size: int, kind: int = 0, id: int = ANY) -> None:
        """Change a disk's size, bytes."""
        self._target(lib.USRLOOP_IOC_RESIZE, "resize", kind, id, size)

    def detach(self, kind: int = 0, id: int = ANY) -> None:
        """Take the device away from its server, as if that had died."""
        self._target(lib.USRLOOP_IOC_DETACH, "detach", kind, id, 0)

    def carrier(self, speed: int, kind: int = 0, id: int = ANY) -> None:
        """Say how fast an interface's wire is, Mb/s; 0: it has none."""
        self._target(lib.USRLOOP_IOC_CARRIER, "carrier", kind, id, speed)

    def namespace(self, kind: int = 0, id: int = ANY) -> tuple[int, int]:
        """Return a descriptor of the network namespace where an interface is now, and its index there."""
        target = new("target", type=kind, id=id)
        return self.call(lib.USRLOOP_IOC_NETNS, target, "network namespace"), int(target.arg)

    def attach(self, kind: int = 0, id: int = ANY, claim_fd: int = -1) -> Any:
        """Become the device's server; return struct usrloop_attach.

        claim_fd: of the PCI function that data are mapped for, if the device has ZERO_COPY.
        """
        attach = new("attach", type=kind, id=id, version=lib.USRLOOP_VERSION, claim_fd=claim_fd)
        self.call(lib.USRLOOP_IOC_ATTACH, attach, "attach")
        return attach

    def close(self) -> None:
        """Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def block_ports(control: Control, attach: Any) -> list[int]:
    """Make a port (block_port.h) of each queue of a block device. Return their addresses.

    attach: what control.attach() returned. FrontEnd.serve() takes them over; `control` is closed when they are.
    """
    out = ffi.new("struct block_port **")
    ports = []
    for index in range(attach.queues):
        result = lib.loop_block_port(control.fd, attach, index, out)
        if result:
            raise _explain(OSError(-result, os.strerror(-result)), "map")
        ports.append(int(ffi.cast("uintptr_t", out[0])))
    return ports


class Server(Closing):
    """A server written in Python, for tests and experiments; what serves for real is C.

    `queue[i]` is a struct loop_queue for the functions of loop.h (usrdrv.loop.lib).
    """

    def __init__(self, control: Control, attach: Any) -> None:
        self.attach = attach
        self._map = mmap.mmap(control.fd, attach.size)
        self._base = ffi.from_buffer(self._map)
        self.queue = [ffi.new("struct loop_queue *") for _ in range(attach.queues)]
        for index, queue in enumerate(self.queue):
            lib.loop_queue_init(queue, control.fd, attach, self._base, index)

    def enter(self, index: int = 0, flags: int = 0, timeout_ms: int = 0) -> int:
        """Hand over what is done and wait. Return USRLOOP_READY_* bits or -errno."""
        return int(lib.loop_enter(self.queue[index], flags, timeout_ms))

    def data(self, tag: int, length: int, index: int = 0) -> Any:
        """Return the first `length` bytes of a slot, writable."""
        return ffi.buffer(lib.loop_slot(self.queue[index], tag), length)

    def close(self) -> None:
        """Unmap. Idempotent."""
        self.queue = []
        ffi.release(self._base)
        self._map.close()


def _explain(error: OSError, what: str) -> errors.UsrdrvError:
    """Say what a failed call means."""
    text = f"usrloop: {what}: "
    match error.errno:
        case errno.EBUSY:
            return errors.DeviceBusyError(text + "it is in use")
        case errno.EEXIST:
            return errors.DeviceBusyError(text + "that number or name is taken")
        case errno.ENODEV:
            return errors.NoSuchDeviceError(text + "no such device")
        case errno.EPERM | errno.EACCES:
            refused = "this user may not have such a device"
            if what != "create":
                refused = "only its owner and root may"
            return errors.PermissionDeniedError(text + refused)
        case errno.EDQUOT:
            return errors.DeviceBusyError(
                text + f"{lib.USRLOOP_USER_DEVICES} devices are the most that a user may have"
            )
        case errno.EPROTONOSUPPORT | errno.ENOTTY:
            return errors.MissingToolError(text + "the kernel module is of another version")
        case errno.EOPNOTSUPP:
            return errors.MissingToolError(text + "the kernel module does not know that feature")
        case errno.ENOMEM:
            return errors.DeviceError(text + "no memory (RLIMIT_MEMLOCK, ulimit -l)")
    failed = errors.DeviceError(text + str(error.strerror))
    failed.errno = error.errno or errno.EIO
    return failed
