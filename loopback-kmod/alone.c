// SPDX-License-Identifier: GPL-2.0
/*
 * A request that servers die of must not take the disk along. Nobody sees which one it is: a server
 * has many when it dies, and is given all of them again to the next. So each has points:
 *
 *	a server died with it					1
 *	likewise, and had ended no request at all		4
 *
 * From 8 points on it is sent alone, before all others, which wait meanwhile; whatever its
 * server does then is its doing. One with 12 points ends with EIO: after three servers that did
 * nothing but die. A server that was sent away (DETACH), or had not seen any work, does not count.
 *
 * See docs/design/poison-request.md.
 */
#include <linux/blk-mq.h>

#include "blk.h"

#define POINTS_DEATH	1
#define POINTS_BARREN	4
#define POINTS_ALONE	8
#define POINTS_LAST	12

static bool alone_suspect(const struct usrloop_slot *slot)
{
	return READ_ONCE(slot->points) >= POINTS_ALONE;
}

/**
 * usrloop_alone_waits() - whether a request has to wait until another one has been tried alone
 * @q:		its queue, locked
 * @slot:	its own
 */
bool usrloop_alone_waits(const struct usrloop_queue *q, const struct usrloop_slot *slot)
{
	return READ_ONCE(q->dev->alone) && !alone_suspect(slot);
}

/**
 * usrloop_alone_ended() - the server has ended a request
 * @q:		its queue
 * @slot:	which was the request's; not free yet
 *
 * Context: any.
 * Return: whether the next one is to be sent when the slot is free.
 */
bool usrloop_alone_ended(struct usrloop_queue *q, const struct usrloop_slot *slot)
{
	if (unlikely(!READ_ONCE(q->dev->worked)))
		WRITE_ONCE(q->dev->worked, true);
	return unlikely(alone_suspect(slot));
}

/**
 * usrloop_alone_blame() - note that a server died with a request
 * @q:		its queue
 * @slot:	its own
 *
 * Context: process, dev->lock held; the queue has no server.
 * Return: whether the request is to fail.
 */
bool usrloop_alone_blame(const struct usrloop_queue *q, struct usrloop_slot *slot)
{
	u8 points = READ_ONCE(q->dev->worked) ? POINTS_DEATH : POINTS_BARREN;
	const struct request *rq = slot->request;

	if (!READ_ONCE(q->told) || !READ_ONCE(slot->pushed))
		return false;
	WRITE_ONCE(slot->points, min(slot->points + points, POINTS_LAST));
	if (alone_suspect(slot))
		WRITE_ONCE(q->dev->alone, true);
	if (points != POINTS_BARREN || slot->points < POINTS_LAST)
		return false;
	pr_warn("%s%u: request of %u bytes at sector %llu fails: servers died of it\n",
		q->dev->kind->name, q->dev->info.id, blk_rq_bytes(rq),
		(unsigned long long)blk_rq_pos(rq));
	return true;
}

/**
 * usrloop_alone_forget() - the next server has not done anything yet
 * @q:	a queue, after usrloop_alone_blame() for each of its requests
 *
 * Context: process, dev->lock held; the queue has no server.
 */
void usrloop_alone_forget(struct usrloop_queue *q)
{
	q->told = false;
	if (q->index == q->dev->info.queues - 1)
		q->dev->worked = false;
}

/**
 * usrloop_alone_next() - look for requests that are to be alone
 * @dev:	block device
 * @q:		result: the queue of the next one; NULL: there is none
 * @tag:	result: its slot
 *
 * Context: process, dev->lock held.
 * Return: whether there is one that a server has; then there is no next one.
 */
bool usrloop_alone_next(struct usrloop_dev *dev, struct usrloop_queue **q, u32 *tag)
{
	unsigned int i;
	u32 n;

	*q = NULL;
	for (i = 0; i < dev->info.queues; i++) {
		for (n = 0; n < dev->info.depth; n++) {
			const struct usrloop_slot *slot = &dev->queue[i].slot[n];
			u32 state = usrloop_slot_state(atomic_read_acquire(&slot->word));

			if (state == SLOT_FREE || !alone_suspect(slot))
				continue;
			if (state != SLOT_HELD)
				return true;
			if (*q)
				continue;
			*q = &dev->queue[i];
			*tag = n;
		}
	}
	return false;
}
