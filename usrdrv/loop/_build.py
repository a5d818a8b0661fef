# SPDX-License-Identifier: MIT
"""Builds usrdrv.loop._loop: the calls of usrloop, and a server's side of its rings."""

from usrdrv.base._cffi import INCLUDE, KERNEL_TYPES, UAPI, extension

ffibuilder = extension(
    "usrdrv.loop._loop",
    ["loop/*.c"],
    [UAPI / "usrloop.h", INCLUDE / "usrdrv/loop.h"],
    before=KERNEL_TYPES,
    after="""
    struct block_port;
    int loop_map(int fd, const struct usrloop_attach *attach, void **map);
    void loop_queue_init(struct loop_queue *q, int fd, const struct usrloop_attach *attach, void *map,
                         unsigned int index);
    uint8_t *loop_slot(const struct loop_queue *q, uint32_t i);
    const struct usrloop_sqe *loop_next(struct loop_queue *q);
    void loop_complete(struct loop_queue *q, uint32_t tag, uint32_t seq, int result);
    uint8_t *loop_receive_slot(const struct loop_queue *q);
    void loop_received(struct loop_queue *q, uint32_t len);
    int loop_enter(struct loop_queue *q, unsigned int flags, unsigned int timeout_ms);
    int loop_block_port(int fd, const struct usrloop_attach *attach, unsigned int index,
                        struct block_port **out);
    """,
)
