# SPDX-License-Identifier: MIT
"""A RAM disk as the nbdkit documentation would write it: what a Python plugin costs by itself."""

import nbdkit

API_VERSION = 2
disk = bytearray(0)


def config(key, value):
    global disk
    if key != "size":
        raise RuntimeError(f"unknown parameter {key}")
    disk = bytearray(nbdkit.parse_size(value))


def thread_model():
    return nbdkit.THREAD_MODEL_PARALLEL


def open(readonly):
    return 1


def get_size(h):
    return len(disk)


def can_multi_conn(h):
    return True


def can_fua(h):
    return nbdkit.FUA_NATIVE


def can_flush(h):
    return True


def pread(h, buf, offset, flags):
    end = offset + len(buf)
    buf[:] = disk[offset:end]


def pwrite(h, buf, offset, flags):
    end = offset + len(buf)
    disk[offset:end] = buf


def flush(h, flags):
    pass
