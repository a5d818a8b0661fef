// SPDX-License-Identifier: MIT
/*
 * A request's way through a channel: it is cut into segments, which wait in the queue; they become a command, which the chip
 * is set off with; the command ends, with it its segments, and with the last of them the request.
 *
 *	block_enqueue()       block_run()          block_end()            block_unlock()
 *	request ------> queue ----------> flying ------------> complete ----------------> told
 *	                                     \___ block_error(): events.c
 *
 * A thread that submits starts the command itself if the channel has room; all else is the main dispatcher's
 * (docs/design/submission.md). Functions that take a channel want its lock held; block_run() and block_unlock() alone give it
 * up. Those that take a front end want no channel locked.
 */
#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "front.h"

#define SERVICE_ROUNDS	64	/* commands a submitter completes for others before it leaves */

static void hold(struct block_front *front)
{
	if (front->dev->ops->irq_hold)
		front->dev->ops->irq_hold(front->dev);
}

static int release(struct block_front *front)
{
	return front->dev->ops->irq_release ? front->dev->ops->irq_release(front->dev) : 0;
}

static int is_main(const struct block_front *front)
{
	return pthread_equal(pthread_self(), front->dispatcher->thread);
}

/**
 * block_now_ms - the clock of deadlines
 *
 * Return: milliseconds, monotonic, a few of them coarse.
 */
uint64_t block_now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/**
 * block_flush_list - hand the gathered writes to the device
 * @ch:	any channel of the device
 * @l:	the list, empty afterwards
 *
 * Return: 0, or -errno with the device given up.
 */
int block_flush_list(struct block_channel *ch, struct block_list *l)
{
	struct usrdrv_dev *dev = ch->front->dev;
	unsigned int n = l->n;
	int ret;

	if (!n)
		return 0;
	l->n = 0;
	ret = dev->ops->write_list(dev, l->w, n);
	if (ret)
		block_lost(ch->front, ret);
	return ret;
}

/* An operation of the chip finds room for BLOCK_WRITES, and for the one that sets a command off. */
static struct block_list *with_room(struct block_channel *ch, struct block_list *l)
{
	if (l->n >= BLOCK_WRITES)
		block_flush_list(ch, l);
	return l;
}

/**
 * block_check - see whether a unit can do a request
 * @u:		unit
 * @op:		of the request
 * @offset:	bytes
 * @len:	bytes
 *
 * Without a lock. Return: 0, -EINVAL, -EROFS, -EOPNOTSUPP.
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
 * block_segment_limit - how much of a request a segment takes
 * @u:	unit
 * @op:	of the request
 *
 * Without a lock. Return: bytes.
 */
uint64_t block_segment_limit(const struct block_unit *u, enum usrdrv_block_op op)
{
	return op == USRDRV_BLOCK_TRIM ? u->front->can.trim_bytes : BLOCK_SEGMENT_BYTES;
}

/**
 * block_enqueue - cut a request into segments (docs/design/segments.md) and append them to the queue
 * @ch:		channel
 * @u:		unit
 * @r:		request
 * @s:		the first of enough siblings; their pages hold the data of a write
 * @order:	what is to be done
 * @table:	of order->pieces: where the data are instead, in one segment; NULL: in the pages
 *
 * Return: 0; with nothing queued, and as r->status: -EINVAL, -EROFS, -EOPNOTSUPP, -ENODEV.
 */
int block_enqueue(struct block_channel *ch, struct block_unit *u, struct block_request *r, struct block_segment *s,
		  const struct block_order *order, const struct block_piece *table)
{
	uint64_t offset = order->offset, left = order->len, n;
	uint64_t most = table ? left : block_segment_limit(u, order->op);

	r->left = 0;
	r->len = left;
	r->status = block_check(u, order->op, offset, left);
	if (!r->status && ch->state == BLOCK_DEAD)
		r->status = -ENODEV;
	if (r->status)
		return r->status;
	do {
		n = left < most ? left : most;
		s->next = NULL;
		s->request = r;
		s->unit = u;
		s->op = (uint8_t)order->op;
		s->flags = (uint8_t)order->flags;
		s->alone = s->tries = 0;
		s->sector = offset / USRDRV_SECTOR;
		s->sectors = (uint32_t)(n / USRDRV_SECTOR);
		s->table = table;
		s->pieces = table ? (uint16_t)order->pieces : 1;
		if (order->op == USRDRV_BLOCK_TRIM && u->front->ops->prepare_trim)
			u->front->ops->prepare_trim(s);
		r->left++;
		*ch->queue_tail = s;
		ch->queue_tail = &s->next;
		s = s->sibling;
		offset += n;
		left -= n;
	} while (left);
	return 0;
}

/* Make the oldest segment and all that join it a command. NULL: the queue is empty, or the channel has as many as it can. */
static struct block_command *next_command(struct block_channel *ch)
{
	struct block_segment *first = ch->queue;
	struct block_command *cmd = ch->idle;

	if (!first || !cmd)
		return NULL;
	ch->queue = first->next;
	if (!ch->queue)
		ch->queue_tail = &ch->queue;
	ch->idle = cmd->next;
	ch->flying++;
	first->next = NULL;
	cmd->flying = 1;
	cmd->finishes = 0;
	cmd->segments = first;
	cmd->count = 1;
	cmd->pieces = first->pieces;
	cmd->sector = first->sector;
	cmd->sectors = first->sectors;
	cmd->unit = first->unit;
	cmd->op = first->op;
	if (ch->queue && !first->alone && (first->op == USRDRV_BLOCK_READ || first->op == USRDRV_BLOCK_WRITE))
		block_join(ch, cmd);
	return cmd;
}

static void count(struct block_channel *ch, const struct block_command *cmd)
{
	ch->count->commands++;
	switch (cmd->op) {
	case USRDRV_BLOCK_READ:
		ch->count->reads += cmd->count;
		ch->count->sectors_read += cmd->sectors;
		break;
	case USRDRV_BLOCK_WRITE:
		ch->count->writes += cmd->count;
		ch->count->sectors_written += cmd->sectors;
		break;
	case USRDRV_BLOCK_FLUSH:
		ch->count->flushes++;
		break;
	case USRDRV_BLOCK_TRIM:
		ch->count->trims++;
		break;
	}
}

/* Whether a command ends without the chip, and how. */
static int ends_here(const struct block_command *cmd, int *status)
{
	const struct block_unit *u = cmd->unit;

	*status = u->offline;
	if (u->offline)
		return 1;
	/* nothing is cached; or a hint that only the chip's engine could pass on, which may be dropped */
	if ((cmd->op == USRDRV_BLOCK_FLUSH && !u->block.can_flush) || (cmd->op == USRDRV_BLOCK_TRIM && u->by_cpu))
		return 1;
	/* the control plane keeps a unit with zero copy from this: the CPU has no address of the data */
	if (u->by_cpu && cmd->segments->table) {
		*status = -EIO;
		return 1;
	}
	return 0;
}

/* Set a command off; the kernel may end it from then on, if it is the dispatcher that does so. */
static void set_off(struct block_channel *ch, struct block_command *cmd, struct block_list *l,
		    const struct usrdrv_write *go)
{
	struct block_orders *o = atomic_load(&ch->front->dispatcher->orders);

	/* Armed after all writes but this one: before it, which the steps expect first, no interrupt is this command's. */
	if (o && o->channel == ch && is_main(ch->front) && o->finishes && block_may_arm(o, cmd) &&
	    !block_flush_list(ch, l))
		block_arm(o, cmd);
	l->w[l->n++] = *go;
	ch->count->register_writes++;
}

/**
 * block_flush_ms - how long a flush or trim may take
 * @ch:		channel
 * @cmd:	command
 *
 * The last try has all of the limit, those before half of it.
 *
 * Return: milliseconds.
 */
uint32_t block_flush_ms(const struct block_channel *ch, const struct block_command *cmd)
{
	uint32_t all = ch->front->limits.flush_ms;

	return cmd->segments->tries < BLOCK_MAX_TRIES - 1 ? all / 2 : all;
}

static void start(struct block_channel *ch, struct block_command *cmd, struct block_list *l)
{
	struct block_front *front = ch->front;
	struct usrdrv_write go = { .width = 0 };

	cmd->started = block_now_ms();
	cmd->deadline = cmd->started + (cmd->op == USRDRV_BLOCK_READ || cmd->op == USRDRV_BLOCK_WRITE ?
					front->limits.rw_ms : block_flush_ms(ch, cmd));
	atomic_fetch_add_explicit(&front->activity, 1, memory_order_relaxed);
	count(ch, cmd);
	front->ops->start(ch, cmd, with_room(ch, l), &go);
	if (go.width)
		set_off(ch, cmd, l, &go);
}

/* Start as many commands as the channel can take and has. Writes may be left in the list. */
static void start_commands(struct block_channel *ch, struct block_list *l)
{
	struct block_command *cmd;
	int status;

	if (ch->pause && ch->state == BLOCK_OPEN) {
		if (!ch->flying && !block_flush_list(ch, l))
			block_freeze_idle(ch);
		return;
	}
	while (ch->state == BLOCK_OPEN && (cmd = next_command(ch))) {
		if (ends_here(cmd, &status))
			block_end(ch, cmd, status);
		else
			start(ch, cmd, l);
	}
}

/**
 * block_run - start what a channel can take, and let go of it
 * @ch:	channel
 *
 * If the device completes it before this returns, as the in-process model
 * does, the completion is serviced right here: no thread is switched to.
 */
void block_run(struct block_channel *ch)
{
	struct block_front *front = ch->front;
	struct block_list l = { .n = 0 };
	int interrupted, watched;

	if (ch->state != BLOCK_OPEN || !ch->idle || !(ch->queue || ch->pause)) {
		block_unlock(ch);
		return;
	}
	hold(front);
	start_commands(ch, &l);
	block_flush_list(ch, &l);
	interrupted = release(front);
	block_unlock(ch);
	if (interrupted)
		block_service(front);
	if (atomic_load(&front->asleep)) {
		pthread_mutex_lock(&ch->lock);
		watched = !ch->flying;
		block_unlock(ch);
		/* a command stays under way and the dispatcher has no time-out: it must have one now */
		if (!watched)
			block_kick(front);
	}
}

/* End what is done on a channel, and start what comes next. Return: whether something was. */
static int look(struct block_channel *ch, struct block_list *l)
{
	int mine = ch->front->ops->interrupt(ch, with_room(ch, l));

	start_commands(ch, l);
	return mine;
}

/* An interrupt that is no command's: have no channel raise it any longer. */
static void quieten(struct block_front *front, struct block_list *l)
{
	for (unsigned int i = 0; i < front->channels; i++) {
		struct block_channel *ch = front->channel[i];

		pthread_mutex_lock(&ch->lock);
		if (ch->state != BLOCK_DEAD && !ch->flying)
			front->ops->idle_interrupt(ch, with_room(ch, l));
		block_flush_list(ch, l);
		block_unlock(ch);
	}
}

/**
 * block_service - service interrupts until there is none left
 * @front:	front end
 *
 * The caller has an interrupt that is masked until this is done.
 */
void block_service(struct block_front *front)
{
	struct usrdrv_dev *dev = front->dev;
	unsigned int rounds = 0;
	int again;

	do {
		struct block_list l = { .n = 0 };
		int mine = 0, err;

		hold(front);
		for (unsigned int i = 0; i < front->channels; i++) {
			struct block_channel *ch = front->channel[i];

			pthread_mutex_lock(&ch->lock);
			if (ch->flying) {
				mine |= look(ch, &l);
				/*
				 * Nobody else may find the channel with writes outstanding: once it is free, a late
				 * acknowledgement would hit another command's interrupt; and a dispatcher that looks
				 * after a busy one would take the last command's interrupt for that of the next. Where
				 * submitters service interrupts (irq_release) one of them may be here as well.
				 */
				if (!ch->flying || ch->idle || !is_main(front) || dev->ops->irq_release)
					block_flush_list(ch, &l);
			}
			block_unlock(ch);
		}
		if (!mine)
			quieten(front, &l);
		err = atomic_load(&front->unmasks) ? dev->ops->write_list(dev, l.w, l.n) :
						     dev->ops->irq_unmask(dev, l.w, l.n);
		if (err)
			block_lost(front, err);
		again = release(front);
	} while (again && ++rounds < SERVICE_ROUNDS && !atomic_load(&front->gone));
	if (again) {
		atomic_store(&front->service, 1);
		block_kick(front);
	}
}

/**
 * block_poll_chip - end what is done, without an interrupt
 * @front:	front end
 *
 * Return: whether something was.
 */
int block_poll_chip(struct block_front *front)
{
	int mine = 0;

	for (unsigned int i = 0; i < front->channels; i++) {
		struct block_channel *ch = front->channel[i];
		struct block_list l = { .n = 0 };

		pthread_mutex_lock(&ch->lock);
		if (ch->flying) {
			mine |= look(ch, &l);
			block_flush_list(ch, &l);
		}
		block_unlock(ch);
	}
	return mine;
}

/**
 * block_watch - look at all busy channels once in a while
 * @front:	front end
 *
 * Return: whether there were any.
 */
int block_watch(struct block_front *front)
{
	uint64_t now = block_now_ms();
	int any = 0;

	hold(front);
	for (unsigned int i = 0; i < front->channels; i++) {
		struct block_channel *ch = front->channel[i];
		struct block_list l = { .n = 0 };

		pthread_mutex_lock(&ch->lock);
		if (ch->flying) {
			any = 1;
			front->ops->watch(ch, &l, now);
			start_commands(ch, &l);
			block_flush_list(ch, &l);
		}
		block_unlock(ch);
	}
	if (release(front))
		block_service(front);
	return any;
}

/**
 * block_any_busy - whether a command is at the chip
 * @front:	front end
 *
 * Return: 1 or 0.
 */
int block_any_busy(struct block_front *front)
{
	int any = 0;

	for (unsigned int i = 0; i < front->channels; i++) {
		pthread_mutex_lock(&front->channel[i]->lock);
		any |= front->channel[i]->flying > 0;
		block_unlock(front->channel[i]);
	}
	return any;
}

/**
 * block_end - a command is done: end its segments
 * @ch:		channel
 * @cmd:	flying
 * @status:	0 or -errno for each segment
 */
void block_end(struct block_channel *ch, struct block_command *cmd, int status)
{
	cmd->flying = 0;
	ch->flying--;
	block_end_segments(ch, cmd, status);
}

/**
 * block_end_segments - end those of a command that does not fly any more; it is idle then
 * @ch:		channel
 * @cmd:	the command
 * @status:	0 or -errno for each segment
 */
void block_end_segments(struct block_channel *ch, struct block_command *cmd, int status)
{
	struct block_segment *s = cmd->segments, *next;

	for (; s; s = next) {
		next = s->next;
		block_end_segment(ch, s, status);
	}
	cmd->segments = NULL;
	cmd->next = ch->idle;
	ch->idle = cmd;
}

/**
 * block_end_segment - end a segment, and with the last one its request
 * @ch:		channel
 * @s:		segment, in no list
 * @status:	0 or -errno
 */
void block_end_segment(struct block_channel *ch, struct block_segment *s, int status)
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
