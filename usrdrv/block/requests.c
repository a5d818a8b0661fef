// SPDX-License-Identifier: MIT
/* The block top end: a request from any thread, and its wait. Its data lie in segments from the channel's pool meanwhile. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "front.h"

static void wait_for(struct block_request *r, struct usrdrv_gate *gate)
{
	uint32_t pending = BLOCK_PENDING;

	if (__atomic_load_n(&r->wait, __ATOMIC_ACQUIRE) == BLOCK_FINISHED)
		return;
	usrdrv_gate_leave(gate);
	if (!__atomic_compare_exchange_n(&r->wait, &pending, BLOCK_SLEEPING, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		return;
	while (__atomic_load_n(&r->wait, __ATOMIC_ACQUIRE) != BLOCK_FINISHED)
		syscall(SYS_futex, &r->wait, FUTEX_WAIT_PRIVATE, BLOCK_SLEEPING, NULL, NULL, 0);
}

/*
 * Take free segments, linked as siblings, up to `want` of them. Sleeps until there is one: whoever holds segments always gets
 * done with them without taking more, so the sleep ends. Channel locked. Return: how many.
 */
static unsigned int take_free(struct block_channel *ch, uint64_t want, struct block_segment **link)
{
	unsigned int n = 0;

	while (!ch->free) {
		ch->pool_waiters++;
		pthread_cond_wait(&ch->pool_cond, &ch->lock);
		ch->pool_waiters--;
	}
	for (; n < want && ch->free; n++) {
		*link = ch->free;
		ch->free = ch->free->next;
		link = &(*link)->sibling;
	}
	*link = NULL;
	return n;
}

/* Take segments for so many bytes, or fewer. Return: bytes that they are for. */
static uint64_t take(struct block_channel *ch, uint64_t len, uint64_t most, struct block_segment **first,
		     struct usrdrv_gate *gate)
{
	uint64_t room;

	pthread_mutex_lock(&ch->lock);
	ch->users++;
	if (!ch->free) {
		block_unlock(ch);
		usrdrv_gate_leave(gate);
		pthread_mutex_lock(&ch->lock);
	}
	room = take_free(ch, len ? (len - 1) / most + 1 : 1, first) * most;
	block_unlock(ch);
	return len < room ? len : room;
}

static void give_back(struct block_channel *ch, struct block_segment *first)
{
	struct block_segment *s;

	pthread_mutex_lock(&ch->lock);
	while ((s = first)) {
		first = s->sibling;
		s->next = ch->free;
		ch->free = s;
	}
	if (ch->pool_waiters)
		pthread_cond_broadcast(&ch->pool_cond);
	ch->users--;
	block_unlock(ch);
}

static void copy_in(struct block_segment *s, const uint8_t *from, uint64_t len)
{
	for (; len > BLOCK_SEGMENT_BYTES; s = s->sibling) {
		memcpy(s->page, from, BLOCK_SEGMENT_BYTES);
		from += BLOCK_SEGMENT_BYTES;
		len -= BLOCK_SEGMENT_BYTES;
	}
	memcpy(s->page, from, len);
}

/* Queue a request, and see that somebody starts it. Return: 0 or -ENODEV. */
static int send(struct block_channel *ch, struct block_unit *u, struct block_request *r, struct block_segment *first,
		const struct block_order *order)
{
	int ret, room;

	pthread_mutex_lock(&ch->lock);
	ret = block_enqueue(ch, u, r, first, order, NULL);
	room = ch->state == BLOCK_OPEN && ch->idle;
	block_run(ch);
	if (!ret && !room && atomic_load(&ch->front->ports) == 1)
		block_kick(ch->front);	/* the kernel may end the command before, and nobody be woken */
	return ret;
}

static int submit_wait(struct usrdrv_block *b, enum usrdrv_block_op op, uint64_t offset, uint64_t len, void *data,
		       unsigned int flags, struct usrdrv_gate *gate)
{
	struct block_unit *u = (struct block_unit *)b;
	struct block_channel *ch = u->channel[u->channels > 1 ? (unsigned int)sched_getcpu() % u->channels : 0];
	struct block_order order = { .op = op, .flags = flags, .offset = offset };
	uint8_t *buf = data;
	int ret = block_check(u, op, offset, len);

	if (ret || (!len && op != USRDRV_BLOCK_FLUSH))
		return ret;
	do {
		struct block_request r = { .wait = BLOCK_PENDING };
		struct block_segment *first;

		order.len = take(ch, len, block_segment_limit(u, op), &first, gate);
		if (op == USRDRV_BLOCK_WRITE)
			copy_in(first, buf, order.len);
		ret = send(ch, u, &r, first, &order);
		if (!ret) {
			wait_for(&r, gate);
			ret = r.status;
		}
		if (!ret && op == USRDRV_BLOCK_READ)
			block_copy_out(&r, first, buf);
		give_back(ch, first);
		if (buf)
			buf += order.len;
		order.offset += order.len;
		len -= order.len;
	} while (!ret && len);
	return ret;
}

/** block_unit_ops - the operations of every unit's top end */
const struct usrdrv_block_ops block_unit_ops = {
	.submit_wait = submit_wait,
};
