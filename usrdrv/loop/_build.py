# SPDX-License-Identifier: MIT
"""Builds usrdrv.loop._loop: the calls of usrloop, and a server's side of its rings."""

import sys
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from _cffi import INCLUDE, KERNEL_TYPES, UAPI, cdef  # noqa: E402

ffibuilder = FFI()
ffibuilder.cdef(KERNEL_TYPES)
ffibuilder.cdef(cdef(UAPI / "usrloop.h"))
ffibuilder.cdef(cdef(INCLUDE / "usrdrv/loop.h"))
ffibuilder.cdef(
    """
    int loop_map(int fd, const struct usrloop_attach *attach, void **map);
    void loop_queue_init(struct loop_queue *q, int fd, const struct usrloop_attach *attach, void *map,
                         unsigned int index);
    uint8_t *loop_slot(const struct loop_queue *q, uint32_t i);
    const struct usrloop_sqe *loop_next(struct loop_queue *q);
    void loop_complete(struct loop_queue *q, uint32_t tag, uint32_t seq, int result);
    uint8_t *loop_receive_slot(const struct loop_queue *q);
    void loop_received(struct loop_queue *q, uint32_t len);
    int loop_enter(struct loop_queue *q, unsigned int flags, unsigned int timeout_ms);
    """
)
ffibuilder.set_source(
    "usrdrv.loop._loop",
    '#include "usrdrv/loop.h"\n',
    sources=["usrdrv/loop/loop.c"],
    include_dirs=[str(INCLUDE), str(UAPI)],
    depends=[str(UAPI / "usrloop.h"), str(INCLUDE / "usrdrv/loop.h")],
    extra_compile_args=["-O2", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror"],
)
