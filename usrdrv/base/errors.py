# SPDX-License-Identifier: MIT
"""The exceptions of usrdrv: a small tree, each with the errno that NBD clients get.

A command that ends with one has exit status 2 for UsageError, otherwise 1.
"""

import errno


class UsrdrvError(Exception):
    """Anything that goes wrong for a reason a user can be told in one line."""

    errno = errno.EIO


class NoSuchDeviceError(UsrdrvError):
    """The named device, socket, image or drive does not exist, or has vanished."""

    errno = errno.ENODEV


class DeviceBusyError(UsrdrvError):
    """Somebody else has the device or image; the message names the owner's pid where it is known."""

    errno = errno.EBUSY
    owner: int | None = None
    """Who has claimed the device, if that is why."""


class UsageError(UsrdrvError):
    """An argument or option that makes no sense: bad name, size, range or path."""

    errno = errno.EINVAL


class MissingToolError(UsrdrvError):
    """A program or kernel feature is not there; the message names the Debian package or the option."""

    errno = errno.ENOENT


class PermissionDeniedError(UsrdrvError):
    """No right to use a device node or file; the message names it."""

    errno = errno.EACCES


class DeviceError(UsrdrvError):
    """The device answered with an error or not at all."""


class LabError(UsrdrvError):
    """The lab's guest could not be built or started, died, or did not answer in time."""
