// SPDX-License-Identifier: GPL-2.0
/*
 * ENTER: a server hands over what it has done and sleeps until there is something to do: a
 * request, a packet, an eventfd (its device's interrupt), or the end of the device.
 */
#include <linux/eventfd.h>
#include <linux/file.h>
#include <linux/sched/clock.h>
#include <linux/sched/signal.h>

#include "compat.h"
#include "usrloop.h"

/* Look for what ENTER reports. The barrier after setting it pairs with that of going to sleep. */
static long wait_ready(struct usrloop_end *end)
{
	long mask = 0;

	if (READ_ONCE(end->ring->sq_head) != READ_ONCE(end->sq_tail))
		mask |= USRLOOP_READY_WORK;
	if (READ_ONCE(end->events))
		mask |= USRLOOP_READY_EVENT;
	if (READ_ONCE(end->queue->dev->stopping))
		mask |= USRLOOP_READY_STOP;
	if (READ_ONCE(end->session->revoked))
		mask = -ESTALE;
	return mask;
}

static long wait_take_events(struct usrloop_end *end, long mask)
{
	if (mask > 0 && mask & USRLOOP_READY_EVENT) {
		unsigned long now = xchg(&end->events, 0);

		/* Of those before, some may not be acknowledged yet. */
		end->reported |= now;
		mask = (mask & ~USRLOOP_READY_EVENT) | now * USRLOOP_READY_EVENT;
	}
	return mask;
}

static long wait_poll(struct usrloop_end *end, u32 us)
{
	u64 until = local_clock() + us * NSEC_PER_USEC;
	long mask;

	do {
		mask = wait_ready(end);
		if (mask || need_resched() || signal_pending(current))
			break;
		cpu_relax();
	} while (local_clock() < until);
	return mask;
}

static long wait_sleep(struct usrloop_end *end)
{
	u32 ms = READ_ONCE(end->ring->timeout_ms);
	long left = ms ? msecs_to_jiffies(ms) : MAX_SCHEDULE_TIMEOUT;
	long mask;

	prepare_to_rcuwait(&end->wait);
	for (;;) {
		set_current_state(TASK_INTERRUPTIBLE);
		mask = wait_ready(end);
		if (mask || !left)
			break;
		if (signal_pending(current)) {
			mask = -EINTR;
			break;
		}
		left = schedule_timeout(left);
	}
	finish_rcuwait(&end->wait);
	return mask;
}

static void wait_acknowledge(struct usrloop_end *end)
{
	unsigned int i;

	for (i = 0; i < USRLOOP_EVENTFDS; i++)
		if (end->reported & BIT(i) && end->event[i].ack)
			usrloop_signal(end->event[i].ack);
	end->reported = 0;
}

/**
 * usrloop_enter() - take what the server has done, wait for more
 * @session:	of the server's file
 * @arg:	queue and USRLOOP_ENTER_* flags
 *
 * Context: process, no locks.
 * Return: USRLOOP_READY_* bits, 0 after the time-out; -ESTALE the device was taken from this
 * server; -EBUSY another thread is in ENTER for that queue; -EINTR; -EINVAL.
 */
long usrloop_enter(struct usrloop_session *session, unsigned long arg)
{
	unsigned int index = arg & USRLOOP_ENTER_QUEUE;
	struct usrloop_dev *dev = session->dev;
	struct usrloop_end *end;
	unsigned int refused;
	long mask;

	if (arg & ~(unsigned long)(USRLOOP_ENTER_QUEUE | USRLOOP_ENTER_NOWAIT |
				   USRLOOP_ENTER_ACK) ||
	    index >= dev->info.queues)
		return -EINVAL;
	end = &session->end[index];
	if (test_and_set_bit_lock(0, &end->entered))
		return -EBUSY;
	refused = dev->kind->collect(end);
	if (arg & USRLOOP_ENTER_ACK)
		wait_acknowledge(end);
	mask = wait_ready(end);
	if (!mask && !refused && !(arg & USRLOOP_ENTER_NOWAIT)) {
		if (dev->info.poll_us)
			mask = wait_poll(end, dev->info.poll_us);
		if (!mask)
			mask = wait_sleep(end);
	}
	mask = wait_take_events(end, mask);
	if (mask >= 0) {
		if (mask & USRLOOP_READY_WORK && !READ_ONCE(end->queue->told))
			WRITE_ONCE(end->queue->told, true);
		mask |= refused;
	}
	clear_bit_unlock(0, &end->entered);
	return mask;
}

/* A registered eventfd was signalled. Context: any, also a hard interrupt; its lock is held. */
static int wait_eventfd_wake(wait_queue_entry_t *entry, unsigned int mode, int sync, void *key)
{
	struct usrloop_event *event = container_of(entry, struct usrloop_event, entry);
	struct usrloop_end *end = event->end;
	u64 count;

	if (!(key_to_poll(key) & EPOLLIN))
		return 0;
	eventfd_ctx_do_read(event->ctx, &count);
	set_bit(event->index, &end->events);
	usrloop_wake(end);
	return 1;
}

static void wait_eventfd_queue(struct file *file, wait_queue_head_t *head, poll_table *table)
{
	struct usrloop_event *event = container_of(table, struct usrloop_event, table);

	add_wait_queue(head, &event->entry);
}

static void wait_eventfd_clear(struct usrloop_event *event)
{
	u64 count;

	if (!event->file)
		return;
	eventfd_ctx_remove_wait_queue(event->ctx, &event->entry, &count);
	eventfd_ctx_put(event->ctx);
	if (event->ack)
		eventfd_ctx_put(event->ack);
	event->ack = NULL;
	fput(event->file);
	event->file = NULL;
}

/* Nobody is in ENTER. */
static int wait_eventfd_register(struct usrloop_event *event, const struct usrloop_eventfd *want)
{
	struct eventfd_ctx *ctx, *ack = NULL;
	struct file *file;

	/* The file, not just its context: it does not go away while it is registered. */
	file = eventfd_fget(want->fd);
	if (IS_ERR(file))
		return PTR_ERR(file);
	ctx = eventfd_ctx_fileget(file);
	if (!IS_ERR(ctx) && want->ack_fd >= 0) {
		ack = eventfd_ctx_fdget(want->ack_fd);
		if (IS_ERR(ack)) {
			eventfd_ctx_put(ctx);
			ctx = ERR_CAST(ack);
		}
	}
	if (IS_ERR(ctx)) {
		fput(file);
		return PTR_ERR(ctx);
	}
	event->index = want->index;
	event->file = file;
	event->ctx = ctx;
	event->ack = ack;
	init_waitqueue_func_entry(&event->entry, wait_eventfd_wake);
	init_poll_funcptr(&event->table, wait_eventfd_queue);
	/* One that is signalled already will not be again. */
	if (vfs_poll(file, &event->table) & EPOLLIN)
		set_bit(event->index, &event->end->events);
	return 0;
}

/**
 * usrloop_event_set() - register an eventfd with a queue, or take it away
 * @session:	of the server's file
 * @want:	what; replaces what had that index
 *
 * Context: process. The eventfd's file is kept open.
 * Return: 0; -EBUSY a thread is in ENTER for that queue; -EINVAL, -EBADF: no eventfd.
 */
int usrloop_event_set(struct usrloop_session *session, const struct usrloop_eventfd *want)
{
	struct usrloop_event *event;
	struct usrloop_end *end;
	int ret = 0;

	if (want->queue >= session->dev->info.queues || want->index >= USRLOOP_EVENTFDS)
		return -EINVAL;
	end = &session->end[want->queue];
	event = &end->event[want->index];
	if (test_and_set_bit_lock(0, &end->entered))
		return -EBUSY;
	wait_eventfd_clear(event);
	clear_bit(want->index, &end->events);
	end->reported &= ~BIT(want->index);
	event->end = end;
	if (want->fd >= 0)
		ret = wait_eventfd_register(event, want);
	clear_bit_unlock(0, &end->entered);
	return ret;
}

/* Take all eventfds of a session away. Nobody is in ENTER. */
void usrloop_events_clear(struct usrloop_session *session)
{
	unsigned int i, j;

	for (i = 0; i < session->dev->info.queues; i++)
		for (j = 0; j < USRLOOP_EVENTFDS; j++)
			wait_eventfd_clear(&session->end[i].event[j]);
}

/* poll() of a server: is there work on any queue? */
__poll_t usrloop_session_poll(struct usrloop_session *session, struct file *file, poll_table *wait)
{
	__poll_t mask = 0;
	unsigned int i;

	poll_wait(file, &session->poll, wait);
	/* Pairs with the barrier of usrloop_wake(). */
	smp_mb();
	for (i = 0; i < session->dev->info.queues && !mask; i++) {
		long found = wait_ready(&session->end[i]);

		if (found)
			mask = found < 0 ? EPOLLHUP : EPOLLIN;
	}
	return mask;
}
