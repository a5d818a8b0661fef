// SPDX-License-Identifier: MIT
/*
 * Segments: the pool they come from, the queue they wait in, and how adjacent
 * ones become one command. Every function wants the channel lock held; it is
 * given up by ide_unlock() alone.
 */
#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ide.h"
#include "usrdrv/ata.h"

/**
 * ide_take_segments - get free segments, linked as siblings
 * @ch:		channel
 * @want:	how many would be welcome, at least 1
 *
 * Sleeps until there is one. Whoever holds segments always gets done with
 * them without taking more, so the sleep ends.
 *
 * Return: 1 to @want segments.
 */
struct ide_segment *ide_take_segments(struct ide_channel *ch, unsigned int want)
{
	struct ide_segment *first = NULL, **link = &first;

	while (!ch->free) {
		ch->pool_waiters++;
		pthread_cond_wait(&ch->pool_cond, &ch->lock);
		ch->pool_waiters--;
	}
	while (want-- && ch->free) {
		struct ide_segment *s = ch->free;

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
 * ide_give_segments - put siblings back into the pool
 * @ch:		channel
 * @first:	the first of them
 */
void ide_give_segments(struct ide_channel *ch, struct ide_segment *first)
{
	while (first) {
		struct ide_segment *s = first;

		first = s->sibling;
		s->next = ch->free;
		ch->free = s;
	}
	if (ch->pool_waiters)
		pthread_cond_broadcast(&ch->pool_cond);
}

/**
 * ide_enqueue - append siblings to the queue
 * @ch:		channel
 * @first:	the first of them
 */
void ide_enqueue(struct ide_channel *ch, struct ide_segment *first)
{
	for (; first; first = first->sibling) {
		first->next = NULL;
		*ch->queue_tail = first;
		ch->queue_tail = &first->next;
	}
}

/**
 * ide_requeue - put the segments of the command back in front of the queue
 * @ch:		channel
 * @alone:	they must not be merged again
 */
void ide_requeue(struct ide_channel *ch, int alone)
{
	struct ide_segment *s, **link = &ch->cmd.segments;

	if (!ch->cmd.segments)
		return;
	for (s = ch->cmd.segments; s; s = s->next) {
		s->alone |= alone;
		if (s->tries < UINT8_MAX)
			s->tries++;
		link = &s->next;
	}
	*link = ch->queue;
	if (!ch->queue)
		ch->queue_tail = link;
	ch->queue = ch->cmd.segments;
	ch->cmd.segments = NULL;
}

static void finish(struct ide_channel *ch, struct ide_segment *s, int status)
{
	struct ide_request *r = s->request;

	if (status) {
		ch->count.failed++;
		if (!r->status)
			r->status = status;
	}
	if (--r->left)
		return;
	r->next_done = ch->done;
	ch->done = r;
}

/**
 * ide_unlock - let go of the channel, then tell those whose requests are complete
 * @ch:	channel
 *
 * In this order, or they would wake only to wait for the lock.
 */
void ide_unlock(struct ide_channel *ch)
{
	struct ide_request *r = ch->done, *next;

	ch->done = NULL;
	pthread_mutex_unlock(&ch->lock);
	for (; r; r = next) {
		next = r->next_done;
		if (r->complete) {
			r->complete(r);
			continue;
		}
		/* After the exchange the waiter may be gone with its stack; a wake needs no more than the address. */
		if (__atomic_exchange_n(&r->wait, IDE_FINISHED, __ATOMIC_ACQ_REL) == IDE_SLEEPING)
			syscall(SYS_futex, &r->wait, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	}
}

/**
 * ide_finish_segments - end all segments of the command
 * @ch:		channel
 * @status:	0 or -errno for each
 */
void ide_finish_segments(struct ide_channel *ch, int status)
{
	struct ide_segment *s = ch->cmd.segments;

	ch->cmd.segments = NULL;
	while (s) {
		struct ide_segment *next = s->next;

		finish(ch, s, status);
		s = next;
	}
}

/**
 * ide_fail_queue - end what waits in the queue
 * @ch:		channel
 * @device:	0 or 1, or -1 for both
 * @err:	-errno for each
 */
void ide_fail_queue(struct ide_channel *ch, int device, int err)
{
	struct ide_segment **link = &ch->queue;

	while (*link) {
		struct ide_segment *s = *link;

		if (device < 0 || s->device == device) {
			*link = s->next;
			finish(ch, s, err);
		} else {
			link = &s->next;
		}
	}
	ch->queue_tail = link;
}

static int joins(const struct ide_command *cmd, const struct ide_segment *first,
		 const struct ide_segment *s, uint32_t max_sectors)
{
	return s->op == first->op && s->flags == first->flags && s->device == first->device &&
	       !s->alone && cmd->prds + s->prds <= IDE_PRDS && cmd->sectors + s->sectors <= max_sectors &&
	       (s->sector == cmd->sector + cmd->sectors || s->sector + s->sectors == cmd->sector);
}

/**
 * ide_next_command - make the oldest segment and all that join it the command
 * @ch:	channel
 *
 * Requests that wait at the same time have no order among each other, so a
 * neighbour may be taken from anywhere in the queue.
 *
 * Return: 1 if there is a command now, 0 if the queue is empty.
 */
int ide_next_command(struct ide_channel *ch)
{
	struct ide_command *cmd = &ch->cmd;
	struct ide_segment *first = ch->queue, *last = first, **link;
	uint32_t max_sectors;
	int found;

	if (!first)
		return 0;
	ch->queue = first->next;
	if (!ch->queue)
		ch->queue_tail = &ch->queue;
	first->next = NULL;
	cmd->segments = first;
	cmd->count = 1;
	cmd->prds = first->prds;
	cmd->sector = first->sector;
	cmd->sectors = first->sectors;
	cmd->device = first->device;
	cmd->op = first->op;
	if (first->alone || (first->op != USRDRV_BLOCK_READ && first->op != USRDRV_BLOCK_WRITE))
		return 1;

	max_sectors = ch->drive[first->device].conf.lba48 ? IDE_MAX_SECTORS : IDE_MAX_SECTORS_28;
	do {
		found = 0;
		for (link = &ch->queue; *link;) {
			struct ide_segment *s = *link;

			if (!joins(cmd, first, s, max_sectors)) {
				link = &s->next;
				continue;
			}
			*link = s->next;
			if (s->sector < cmd->sector) {
				s->next = cmd->segments;
				cmd->segments = s;
				cmd->sector = s->sector;
			} else {
				s->next = NULL;
				last->next = s;
				last = s;
			}
			cmd->sectors += s->sectors;
			cmd->count++;
			cmd->prds += s->prds;
			found = 1;
		}
		ch->queue_tail = link;
	} while (found && ch->queue);
	ch->count.merged += cmd->count - 1;
	return 1;
}
