# SPDX-License-Identifier: MIT
"""The block top end for Python: what exporters (and tests) use of a drive."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol

from usrdrv import _request
from usrdrv.base import errors

if TYPE_CHECKING:
    from typing_extensions import Buffer


class BlockLib(Protocol):
    """The part of a driver's extension module that a `Block` needs: ffi, and lib with the constants of block.h."""

    ffi: Any
    lib: Any


def raise_errno(result: int, what: str) -> None:
    """Turn -errno of the data path into an exception that says what failed; 0 passes."""
    if result == 0:
        return
    error = errors.DeviceError(f"{what}: {os.strerror(-result)}")
    error.errno = -result
    raise error


class Block:
    """One drive as a disk of `size` bytes. Offsets and lengths are bytes, multiples of 512.

    Thread-safe: any number of threads may be in the methods at once; the GIL is given up while they wait.
    Errors are UsrdrvError with .errno EIO (the drive failed), ENODEV (device gone), EROFS, EINVAL, EOPNOTSUPP.
    """

    def __init__(self, module: BlockLib, pointer: int) -> None:
        self._ffi = module.ffi
        self._lib = module.lib
        self.pointer = pointer
        self._block = module.ffi.cast("struct usrdrv_block *", pointer)
        self._submit = module.lib.usrdrv_block_submit

    @property
    def size(self) -> int:
        return int(self._block.sectors) * 512

    @property
    def read_only(self) -> bool:
        return bool(self._block.read_only)

    @property
    def can_flush(self) -> bool:
        return bool(self._block.can_flush)

    @property
    def can_fua(self) -> bool:
        return bool(self._block.can_fua)

    @property
    def can_trim(self) -> bool:
        return bool(self._block.can_trim)

    @property
    def max_trim(self) -> int:
        """Bytes of a trim that need not be cut."""
        return int(self._block.max_trim)

    @property
    def rotational(self) -> bool:
        return bool(self._block.rotational)

    @property
    def physical_block(self) -> int:
        return int(self._block.physical_block)

    def read_into(self, buf: Buffer, offset: int) -> None:
        """Fill `buf`, any writable buffer, from `offset`."""
        result = _request.read(self.pointer, buf, offset)
        if result:
            raise_errno(result, f"read of {memoryview(buf).nbytes} bytes at sector {offset // 512}")

    def write_from(self, buf: Buffer, offset: int, fua: bool = False) -> None:
        """Write `buf` at `offset`; with `fua` it is on the medium when this returns."""
        result = _request.write(self.pointer, buf, offset, fua)
        if result:
            raise_errno(
                result, f"write of {memoryview(buf).nbytes} bytes at sector {offset // 512}"
            )

    def flush(self) -> None:
        """Make everything that was written durable."""
        raise_errno(
            self._submit(self._block, self._lib.USRDRV_BLOCK_FLUSH, 0, 0, self._ffi.NULL, 0),
            "flush",
        )

    def trim(self, offset: int, length: int) -> None:
        """Tell the drive that these bytes are not needed; they read as anything afterwards."""
        trim = self._lib.USRDRV_BLOCK_TRIM
        result = self._submit(self._block, trim, offset, length, self._ffi.NULL, 0)
        raise_errno(result, f"trim of {length} bytes at sector {offset // 512}")
