// SPDX-License-Identifier: MIT
/* The block top end: a request from any thread, and its wait. */
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

static uint64_t fill(struct block_unit *u, struct block_segment *first, struct block_request *r,
		     enum usrdrv_block_op op, uint64_t offset, uint64_t len, const uint8_t *buf, unsigned int flags)
{
	uint64_t done = 0;

	for (struct block_segment *s = first; s; s = s->sibling) {
		uint64_t n = block_share(u, op, len - done);

		if (op == USRDRV_BLOCK_WRITE)
			memcpy(s->page, buf + done, n);
		block_fill(s, u, r, op, offset + done, n, flags);
		done += n;
	}
	return done;
}

/* How many segments a request would like; the pool has so many. */
static unsigned int wanted(const struct block_unit *u, const struct block_channel *ch, enum usrdrv_block_op op,
			   uint64_t len)
{
	uint64_t unit = block_share(u, op, UINT64_MAX), n = len ? (len - 1) / unit + 1 : 1;

	return n < ch->segments ? (unsigned int)n : ch->segments;
}

static struct block_segment *take(struct block_channel *ch, unsigned int want, struct usrdrv_gate *gate)
{
	struct block_segment *first;

	pthread_mutex_lock(&ch->lock);
	ch->users++;
	if (!ch->free) {
		block_unlock(ch);
		usrdrv_gate_leave(gate);
		pthread_mutex_lock(&ch->lock);
	}
	first = block_take_segments(ch, want);
	block_unlock(ch);
	return first;
}

/* Queue segments and see that somebody starts them. Return: 0 or -ENODEV. */
static int send(struct block_channel *ch, struct block_segment *first)
{
	int room, dead;

	pthread_mutex_lock(&ch->lock);
	room = ch->state == BLOCK_OPEN && ch->idle;
	dead = ch->state == BLOCK_DEAD;
	if (!dead)
		block_enqueue(ch, first);
	block_unlock(ch);
	if (dead)
		return -ENODEV;
	if (room)
		block_run_channel(ch);
	else if (atomic_load(&ch->front->ports) == 1)
		block_kick(ch->front);	/* the kernel may end the command before, and nobody be woken */
	return 0;
}

static void give_back(struct block_channel *ch, struct block_segment *first)
{
	pthread_mutex_lock(&ch->lock);
	block_give_segments(ch, first);
	ch->users--;
	block_unlock(ch);
}

static int submit_wait(struct usrdrv_block *b, enum usrdrv_block_op op, uint64_t offset, uint64_t len, void *data,
		       unsigned int flags, struct usrdrv_gate *gate)
{
	struct block_unit *u = (struct block_unit *)b;
	struct block_channel *ch = u->channel[u->channels > 1 ? (unsigned int)sched_getcpu() % u->channels : 0];
	uint8_t *buf = data;
	int ret = block_check(u, op, offset, len);

	if (ret || (!len && op != USRDRV_BLOCK_FLUSH))
		return ret;
	do {
		struct block_request r = { .wait = BLOCK_PENDING };
		struct block_segment *first = take(ch, wanted(u, ch, op, len), gate);
		uint64_t n = fill(u, first, &r, op, offset, len, buf, flags);

		ret = send(ch, first);
		if (!ret) {
			wait_for(&r, gate);
			ret = r.status;
		}
		if (!ret && op == USRDRV_BLOCK_READ)
			block_copy_out(first, buf);
		give_back(ch, first);
		if (buf)
			buf += n;
		offset += n;
		len -= n;
	} while (!ret && len);
	return ret;
}

/** block_unit_ops - the operations of every unit's top end */
const struct usrdrv_block_ops block_unit_ops = {
	.submit_wait = submit_wait,
};
