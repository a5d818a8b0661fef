// SPDX-License-Identifier: MIT
/*
 * The threads that sleep in a port. The main dispatcher has the interrupt: it services it, takes the orders of its port, and
 * looks after commands under way: while there are any its sleep has a time-out, the tick, at which hung commands and lost
 * interrupts are looked for; idle, it sleeps without one. Each further port has a feeder: a thread that takes orders and
 * starts them as any submitter does; what the main dispatcher completes of them, it is told by a kick.
 *
 * Orders are their dispatcher's, but for completions that other threads bring about (an error's verdict, the end, the main
 * dispatcher's interrupts): those wait in a list.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

#include "front.h"

#define TICK_MS		100

static uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* An order is done: note it in its port. */
static void hand_over(struct block_orders *o, struct block_order_request *r)
{
	uint32_t tag = (uint32_t)(r - o->request);
	const struct block_segment *first = &o->segment[tag * o->per_slot];
	int status = r->request.status;

	/*
	 * At the end of the device, or ours, the order is left as it is: whoever is started next gets it
	 * again, or the kernel fails it when nobody is. What the kernel has ended is not told to it.
	 */
	if (status == -ENODEV || r->ended)
		return;
	if (!status && o->bounce && first->op == USRDRV_BLOCK_READ)
		block_copy_out(&r->request, first, block_slot(o->port, tag));
	o->port->ops->complete(o->port, tag, r->seq, status);
}

/**
 * block_order_complete - an order's request is complete
 * @request:	of a struct block_order_request
 */
void block_order_complete(struct block_request *request)
{
	struct block_order_request *r = (struct block_order_request *)request;
	struct block_orders *o = r->orders;

	if (pthread_equal(pthread_self(), o->by->thread)) {
		hand_over(o, r);
		return;
	}
	pthread_mutex_lock(&o->lock);
	r->next = o->done;
	o->done = r;
	pthread_mutex_unlock(&o->lock);
	eventfd_write(o->by->kick_fd, 1);
}

/* Note the completions that other threads brought about. */
static void drain(struct block_orders *o)
{
	struct block_order_request *r;

	pthread_mutex_lock(&o->lock);
	r = o->done;
	o->done = NULL;
	pthread_mutex_unlock(&o->lock);
	for (; r; r = r->next)
		hand_over(o, r);
}

/* See to the chip ourselves from here on; channel locked. Return: whether the kernel has ended the command. */
static int take_back(struct block_orders *o)
{
	struct block_command *cmd = block_disarm(o);

	if (!cmd)
		return 0;
	o->by->front->ops->finished(o->channel, cmd);
	block_end(o->channel, cmd, 0);
	return 1;
}

/* The same where nothing is locked, and what waited for the command is started. */
static void own_chip(struct block_orders *o)
{
	if (!o || !o->armed)
		return;
	pthread_mutex_lock(&o->channel->lock);
	if (take_back(o))
		block_run(o->channel);
	else
		block_unlock(o->channel);
}

static int has_table(const struct block_orders *o, const struct block_order *order)
{
	return o->port->tables && (order->op == USRDRV_BLOCK_READ || order->op == USRDRV_BLOCK_WRITE);
}

/* Whether an order's data, or the table that names them, fit its slot and the chip. */
static int fits(const struct block_orders *o, const struct block_order *order)
{
	if (order->op == USRDRV_BLOCK_FLUSH)
		return !order->len;
	if (!order->len)
		return 0;
	if (has_table(o, order))
		return order->pieces && order->pieces <= o->port->slot_size / sizeof(struct block_piece) &&
		       order->pieces <= o->by->front->can.max_pieces &&
		       order->len / USRDRV_SECTOR <= o->unit->max_sectors;
	if (order->op == USRDRV_BLOCK_TRIM)
		return order->len <= o->per_slot * o->by->front->can.trim_bytes;
	return order->len <= o->port->slot_size;
}

/* Put an order into the queue; channel locked. */
static void take_order(struct block_orders *o, const struct block_order *order)
{
	struct block_order_request *r = &o->request[order->tag];
	struct block_segment *first = &o->segment[order->tag * o->per_slot];
	const struct block_piece *table = NULL;
	int ret = -EINVAL;

	/* One that waits to be told of its end may be this tag's last one. */
	assert(!o->channel->done);
	r->seq = order->seq;
	r->ended = 0;
	r->request.status = ret;
	if (fits(o, order)) {
		if (has_table(o, order))
			table = (const struct block_piece *)block_slot(o->port, order->tag);
		else if (o->bounce && order->op == USRDRV_BLOCK_WRITE)
			memcpy(first->page, block_slot(o->port, order->tag), order->len);
		ret = block_enqueue(o->channel, o->unit, &r->request, first, order, table);
	}
	if (ret)
		hand_over(o, r);
}

/* Take all orders that there are, and start what can be started. */
static void pump(struct block_orders *o)
{
	struct block_channel *ch = o->channel;
	struct block_order order;

	pthread_mutex_lock(&ch->lock);
	if (o->armed && take_back(o)) {
		/* The kernel may have given its tag to the next request already: be done with it before that is read. */
		block_unlock(ch);
		pthread_mutex_lock(&ch->lock);
	}
	while (o->port->ops->next(o->port, &order))
		take_order(o, &order);
	block_run(ch);
}

/*
 * Busy-poll the chip, for as long as the limits say, rather than wait for its interrupt: that stays masked until polling was
 * in vain, and one system call less is needed for each command. Returns how to sleep then.
 */
static enum block_sleep poll_chip(struct block_front *front)
{
	uint64_t until;

	/* Of several ports the others start commands meanwhile, whose interrupts must not stay masked. */
	if (!front->limits.poll_us || !atomic_load(&front->unmasks) || atomic_load(&front->ports) > 1)
		return BLOCK_SLEEP_UNMASK;
	until = now_us() + front->limits.poll_us;
	while (block_any_busy(front)) {
		if (block_poll_chip(front))
			return block_any_busy(front) ? BLOCK_SLEEP_NOT : BLOCK_SLEEP;
		if (now_us() >= until)
			return BLOCK_SLEEP_UNMASK;
	}
	return BLOCK_SLEEP;
}

/* Have the kernel end commands by itself where chip, port and kernel can. */
static void offer_finish(struct block_orders *o)
{
	struct block_step steps[BLOCK_STEPS] = { { .op = 0 } };
	unsigned int n;

	/* With room for more, a submitter would start a command while the kernel has the chip. */
	if (!o->port->tables || !o->port->ops->finish || !o->by->front->ops->finish_steps || o->channel->depth > 1)
		return;
	n = o->by->front->ops->finish_steps(o->channel, steps);
	o->finishes = !o->port->ops->finish(o->port, steps, n);
}

/* The main dispatcher begins to sleep in its port. */
static int join(struct block_orders *o)
{
	struct block_front *front = o->by->front;
	struct usrdrv_dev *dev = front->dev;
	const struct block_wakers wakers = {
		.irq_fd = dev->irq_fd, .unmask_fd = dev->unmask_fd, .kick_fd = o->by->kick_fd,
		.hangup_fd = dev->hangup_fd, .hangup_events = dev->hangup_events,
	};
	int ret = o->port->ops->join(o->port, &wakers);

	if (ret)
		return ret;
	atomic_store(&front->unmasks, o->port->unmasks);
	offer_finish(o);
	o->joined = 1;
	return 0;
}

static unsigned int wait_for_orders(struct block_orders *o, int timeout, enum block_sleep how)
{
	unsigned int on;

	if (!o->joined && join(o))
		return BLOCK_ON_END;
	drain(o);
	if (o->finishes) {
		pthread_mutex_lock(&o->channel->lock);
		block_arm_again(o);
		block_unlock(o->channel);
	}
	on = o->port->ops->wait(o->port, timeout, how);
	own_chip(o);
	return on;
}

/* A port has ended. Commands of its orders may still be at the chip. */
static void end_orders(struct block_dispatcher *d, struct block_orders *o)
{
	d->ended = o;
	atomic_store(&d->orders, NULL);
	o->port->ops->leave(o->port);
	o->joined = 0;
	own_chip(o);
	atomic_fetch_sub(&d->front->ports, 1);
	block_post_unserved(d->front, o->unit->number);
}

/* Go back to sleeping without orders. */
static void leave(struct block_dispatcher *d, struct block_orders *o)
{
	struct usrdrv_dev *dev = d->front->dev;

	atomic_store(&d->front->unmasks, 0);
	end_orders(d, o);
	dev->ops->irq_unmask(dev, NULL, 0);
}

static unsigned int sleep_in_port(struct block_dispatcher *d, struct block_orders *o, int *timeout)
{
	struct block_front *front = d->front;
	enum block_sleep how = poll_chip(front);
	unsigned int on;

	if (*timeout < 0) {
		/* Say so first, look again then: a submitter does it the other way round. */
		atomic_store(&front->asleep, 1);
		if (block_any_busy(front)) {
			atomic_store(&front->asleep, 0);
			*timeout = TICK_MS;
		}
	}
	on = o ? wait_for_orders(o, *timeout, how) : d->idle_port->ops->wait(d->idle_port, *timeout, BLOCK_SLEEP);
	atomic_store(&front->asleep, 0);
	return on;
}

/**
 * block_dispatch - the main dispatcher
 * @dispatcher:	struct block_dispatcher
 *
 * Return: NULL.
 */
void *block_dispatch(void *dispatcher)
{
	struct block_dispatcher *d = dispatcher;
	struct block_front *front = d->front;
	unsigned long seen = 0;
	uint64_t next_tick = 0;
	int timeout = -1;

	while (!atomic_load(&front->stop)) {
		struct block_orders *o = atomic_load(&d->orders);
		unsigned int on = sleep_in_port(d, o, &timeout);

		if (on & BLOCK_ON_IRQ)
			block_service(front);
		if (on & BLOCK_ON_HANGUP)
			block_lost(front, -ENODEV);
		if (on & BLOCK_ON_KICK && atomic_exchange(&front->service, 0)) {
			own_chip(o);
			block_service(front);
		}
		if (on & BLOCK_ON_END)
			leave(d, o);
		if (atomic_load(&front->gone)) {
			own_chip(o);
			block_fail_everything(front);
			break;
		}
		/* What comes with the port's end stays in it: nobody would hear how it ends. */
		if (on & BLOCK_ON_WORK && !(on & BLOCK_ON_END))
			pump(o);
		if (timeout < 0) {
			timeout = TICK_MS;
			next_tick = block_now_ms() + TICK_MS;
		}
		if (block_now_ms() >= next_tick) {
			unsigned long activity = atomic_load_explicit(&front->activity, memory_order_relaxed);
			int any;

			own_chip(o);
			any = block_watch(front);
			timeout = any || activity != seen ? TICK_MS : -1;
			seen = activity;
			next_tick = block_now_ms() + TICK_MS;
		}
	}
	own_chip(atomic_load(&d->orders));
	return NULL;
}

/**
 * block_feed - a feeder
 * @dispatcher:	struct block_dispatcher
 *
 * Return: NULL.
 */
void *block_feed(void *dispatcher)
{
	struct block_dispatcher *d = dispatcher;
	struct block_orders *o = atomic_load(&d->orders);
	const struct block_wakers wakers = { .irq_fd = -1, .unmask_fd = -1, .kick_fd = d->kick_fd, .hangup_fd = -1 };
	unsigned int on = o->port->ops->join(o->port, &wakers) ? BLOCK_ON_END : 0;

	while (!atomic_load(&d->front->stop)) {
		if (on & BLOCK_ON_END) {
			end_orders(d, o);
			break;
		}
		if (on & BLOCK_ON_WORK)
			pump(o);
		drain(o);
		on = o->port->ops->wait(o->port, -1, BLOCK_SLEEP);
	}
	return NULL;
}
