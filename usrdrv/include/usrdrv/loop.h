/* SPDX-License-Identifier: MIT */
/*
 * A server's side of usrloop (loopback-kmod/include/uapi/usrloop.h): one queue's rings, mapped.
 *
 * Thread-safety: a queue belongs to one thread, that which calls loop_enter().
 */
#ifndef USRDRV_LOOP_H
#define USRDRV_LOOP_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>

#include "usrloop.h"

/* cffi: begin */
struct loop_queue {
	int fd;
	uint32_t index;
	uint32_t mask;			/* depth - 1 */
	uint32_t slot_size;		/* bytes */
	uint32_t sq_head, cq_tail, rx_tail;
	struct usrloop_ring *ring;
	struct usrloop_sqe *sq;
	struct usrloop_cqe *cq;
	struct usrloop_rxe *rx;
	uint8_t *data;			/* slot 0 */
	uint64_t enters;		/* system calls so far */
};
/* cffi: end */

int loop_map(int fd, const struct usrloop_attach *attach, void **map);
void loop_queue_init(struct loop_queue *q, int fd, const struct usrloop_attach *attach, void *map,
		     unsigned int index);

/* block_port.c: a port (block_port.h) of a block device. */
struct block_port;

int loop_block_port(int fd, const struct usrloop_attach *attach, unsigned int index, struct block_port **out);

/* Where the data of slot i are: request i's, or packet i's to the wire; depth + i: from the wire. */
static inline uint8_t *loop_slot(const struct loop_queue *q, uint32_t i)
{
	return q->data + (size_t)i * q->slot_size;
}

/* The next request, or NULL. Valid until its completion is handed over. */
static inline const struct usrloop_sqe *loop_next(struct loop_queue *q)
{
	if (q->sq_head == __atomic_load_n(&q->ring->sq_tail, __ATOMIC_ACQUIRE))
		return NULL;
	return &q->sq[q->sq_head++ & q->mask];
}

/* Note that a request is done; the kernel hears of it with the next loop_enter(). result: 0 or -errno. */
static inline void loop_complete(struct loop_queue *q, uint32_t tag, uint32_t seq, int result)
{
	q->cq[q->cq_tail++ & q->mask] = (struct usrloop_cqe){ .tag = tag, .seq = seq, .result = result };
}

/* A free slot for a packet from the wire, or NULL while the kernel has all of them. */
static inline uint8_t *loop_receive_slot(const struct loop_queue *q)
{
	if (q->rx_tail - __atomic_load_n(&q->ring->rx_head, __ATOMIC_ACQUIRE) > q->mask)
		return NULL;
	return loop_slot(q, q->mask + 1 + (q->rx_tail & q->mask));
}

/* Note that loop_receive_slot() holds a packet of len bytes, header included. */
static inline void loop_received(struct loop_queue *q, uint32_t len)
{
	q->rx[q->rx_tail++ & q->mask].len = len;
}

/*
 * Hand over what is noted and wait. flags: USRLOOP_ENTER_*; timeout_ms: 0 for ever.
 * Returns USRLOOP_READY_* bits or -errno.
 */
static inline int loop_enter(struct loop_queue *q, unsigned int flags, unsigned int timeout_ms)
{
	int ret;

	q->ring->timeout_ms = timeout_ms;
	q->ring->sq_head = q->sq_head;
	__atomic_store_n(&q->ring->cq_tail, q->cq_tail, __ATOMIC_RELEASE);
	__atomic_store_n(&q->ring->rx_tail, q->rx_tail, __ATOMIC_RELEASE);
	q->enters++;
	ret = ioctl(q->fd, USRLOOP_IOC_ENTER, (unsigned long)(q->index | flags));
	return ret < 0 ? -errno : ret;
}

#endif
