// SPDX-License-Identifier: MIT
/*
 * Segments: how a request is cut into them, the pool that they come from, the queue that they wait in; and requests that are
 * complete. Functions that take a channel want its lock held; block_unlock() alone gives it up.
 *
 * See docs/design/segments.md.
 */
#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "front.h"

/**
 * block_check - see whether a unit can do a request
 * @u:		unit
 * @op:		of the request
 * @offset:	bytes
 * @len:	bytes
 *
 * Return: 0, -EINVAL, -EROFS, -EOPNOTSUPP.
 */
int block_check(const struct block_unit *u, enum usrdrv_block_op op, uint64_t offset, uint64_t len)
{
	const struct usrdrv_block *b = &u->block;
	uint64_t size = b->sectors * USRDRV_SECTOR;

	if ((offset | len) % USRDRV_SECTOR || offset > size || len > size - offset)
		return -EINVAL;
	if (b->read_only && (op == USRDRV_BLOCK_WRITE || op == USRDRV_BLOCK_TRIM))
		return -EROFS;
	if (op == USRDRV_BLOCK_TRIM && !b->can_trim)
		return -EOPNOTSUPP;
	return 0;
}

/**
 * block_share - how much of a request one segment takes
 * @u:		unit
 * @op:		of the request
 * @len:	bytes that are left
 *
 * Return: bytes.
 */
uint64_t block_share(const struct block_unit *u, enum usrdrv_block_op op, uint64_t len)
{
	uint64_t most = op == USRDRV_BLOCK_TRIM ? u->front->can.trim_bytes : BLOCK_SEGMENT_BYTES;

	return len < most ? len : most;
}

/**
 * block_fill - make a segment say what it is to do
 * @s:		segment; its page holds the data of a write
 * @u:		unit
 * @r:		request, gets one more to wait for
 * @op:		of the request
 * @offset:	bytes
 * @len:	bytes, at most block_share()
 * @flags:	USRDRV_BLOCK_*
 */
void block_fill(struct block_segment *s, struct block_unit *u, struct block_request *r, enum usrdrv_block_op op,
		uint64_t offset, uint64_t len, unsigned int flags)
{
	s->request = r;
	s->unit = u;
	s->op = (uint8_t)op;
	s->flags = (uint8_t)flags;
	s->sector = offset / USRDRV_SECTOR;
	s->sectors = (uint32_t)(len / USRDRV_SECTOR);
	s->table = NULL;
	s->pieces = 1;
	if (op == USRDRV_BLOCK_TRIM && u->front->ops->prepare_trim)
		u->front->ops->prepare_trim(s);
	r->left++;
}

/**
 * block_copy_out - copy what a request has read
 * @first:	the first of its segments, which are done
 * @buf:	as large as they are together
 */
void block_copy_out(const struct block_segment *first, uint8_t *buf)
{
	for (const struct block_segment *s = first; s; s = s->sibling) {
		memcpy(buf, s->page, (size_t)s->sectors * USRDRV_SECTOR);
		buf += (size_t)s->sectors * USRDRV_SECTOR;
	}
}

/**
 * block_take_segments - get free segments, linked as siblings
 * @ch:		channel
 * @want:	how many would be welcome, at least 1
 *
 * Sleeps until there is one. Whoever holds segments always gets done with
 * them without taking more, so the sleep ends.
 *
 * Return: 1 to @want segments.
 */
struct block_segment *block_take_segments(struct block_channel *ch, unsigned int want)
{
	struct block_segment *first = NULL, **link = &first;

	while (!ch->free) {
		ch->pool_waiters++;
		pthread_cond_wait(&ch->pool_cond, &ch->lock);
		ch->pool_waiters--;
	}
	while (want-- && ch->free) {
		struct block_segment *s = ch->free;

		ch->free = s->next;
		s->next = NULL;
		s->sibling = NULL;
		s->alone = 0;
		s->tries = 0;
		*link = s;
		link = &s->sibling;
	}
	return first;
}

/**
 * block_give_segments - put siblings back into the pool
 * @ch:		channel
 * @first:	the first of them
 */
void block_give_segments(struct block_channel *ch, struct block_segment *first)
{
	while (first) {
		struct block_segment *s = first;

		first = s->sibling;
		s->next = ch->free;
		ch->free = s;
	}
	if (ch->pool_waiters)
		pthread_cond_broadcast(&ch->pool_cond);
}

/**
 * block_enqueue - append siblings to the queue
 * @ch:		channel
 * @first:	the first of them
 */
void block_enqueue(struct block_channel *ch, struct block_segment *first)
{
	for (; first; first = first->sibling) {
		first->next = NULL;
		*ch->queue_tail = first;
		ch->queue_tail = &first->next;
	}
}

/**
 * block_finish_segment - end a segment, and with the last one its request
 * @ch:		channel
 * @s:		segment, in no list
 * @status:	0 or -errno
 */
void block_finish_segment(struct block_channel *ch, struct block_segment *s, int status)
{
	struct block_request *r = s->request;

	if (status) {
		ch->count->failed++;
		if (!r->status)
			r->status = status;
	}
	if (--r->left)
		return;
	r->next_done = ch->done;
	ch->done = r;
}

/**
 * block_fail_queue - end what waits in the queue
 * @ch:		channel
 * @unit:	of this unit; NULL: all
 * @err:	-errno for each
 */
void block_fail_queue(struct block_channel *ch, const struct block_unit *unit, int err)
{
	struct block_segment **link = &ch->queue;

	while (*link) {
		struct block_segment *s = *link;

		if (!unit || s->unit == unit) {
			*link = s->next;
			block_finish_segment(ch, s, err);
		} else {
			link = &s->next;
		}
	}
	ch->queue_tail = link;
}

/**
 * block_unlock - let go of the channel, then tell those whose requests are complete
 * @ch:	channel
 *
 * In this order, or they would wake only to wait for the lock.
 */
void block_unlock(struct block_channel *ch)
{
	struct block_request *r = ch->done, *next;

	ch->done = NULL;
	pthread_mutex_unlock(&ch->lock);
	for (; r; r = next) {
		next = r->next_done;
		if (r->complete) {
			r->complete(r);
			continue;
		}
		/* After the exchange the waiter may be gone with its stack; a wake needs no more than the address. */
		if (__atomic_exchange_n(&r->wait, BLOCK_FINISHED, __ATOMIC_ACQ_REL) == BLOCK_SLEEPING)
			syscall(SYS_futex, &r->wait, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	}
}
