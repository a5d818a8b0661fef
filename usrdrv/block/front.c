// SPDX-License-Identifier: MIT
/* Life of a front end: memory, locks, channels, units and ports, made and given back. */
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "front.h"

#define COUNTERS	(BLOCK_MAX_CHANNELS * sizeof(struct block_counters))

_Static_assert(COUNTERS <= 4096, "the supervisor's memory for counters is a page (usrdrv/base/counters.py)");

extern const struct usrdrv_block_ops block_unit_ops;

static struct block_dispatcher *new_dispatcher(struct block_front *front)
{
	struct block_dispatcher *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->front = front;
	d->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (d->kick_fd >= 0)
		return d;
	free(d);
	return NULL;
}

static void free_dispatcher(struct block_dispatcher *d)
{
	struct block_orders *o = atomic_load(&d->orders);

	if (o)
		block_free_orders(o);
	if (d->ended)
		block_free_orders(d->ended);
	if (d->idle_port)
		d->idle_port->ops->close(d->idle_port);
	close(d->kick_fd);
	free(d);
}

/**
 * block_init - make a front end
 * @front:	zeroed
 * @dev:	claimed function; stays the caller's
 * @ops:	of the chip
 * @can:	what it can do, copied
 *
 * Return: 0, or -errno; block_free() in either case.
 */
int block_init(struct block_front *front, struct usrdrv_dev *dev, const struct block_chip_ops *ops,
	       const struct block_abilities *can)
{
	front->dev = dev;
	front->ops = ops;
	front->can = *can;
	front->limits = (struct block_limits){ .rw_ms = 10000, .flush_ms = 30000, .lost_ms = 500 };
	pthread_mutex_init(&front->event_lock, NULL);
	pthread_cond_init(&front->event_cond, NULL);
	front->counters = mmap(NULL, COUNTERS, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (front->counters == MAP_FAILED)
		front->counters = NULL;
	front->dispatcher = new_dispatcher(front);
	if (!front->dispatcher || !front->counters)
		return -ENOMEM;
	front->dispatcher->idle_port = block_epoll_port();
	return front->dispatcher->idle_port ? 0 : -ENOMEM;
}

static int make_pool(struct block_channel *ch, unsigned int segments)
{
	struct usrdrv_dev *dev = ch->front->dev;
	int ret = dev->ops->dma_alloc(dev, (size_t)segments * BLOCK_SEGMENT_BYTES, BLOCK_SEGMENT_BYTES,
				      ch->front->can.dma_limit, &ch->pages);

	if (ret)
		return ret;
	ch->segment = calloc(segments, sizeof(*ch->segment));
	if (!ch->segment)
		return -ENOMEM;
	ch->segments = segments;
	while (segments--) {
		struct block_segment *s = &ch->segment[segments];

		s->page = (uint8_t *)ch->pages.cpu + (size_t)segments * BLOCK_SEGMENT_BYTES;
		s->bus = ch->pages.bus + (uint64_t)segments * BLOCK_SEGMENT_BYTES;
		s->next = ch->free;
		ch->free = s;
	}
	return 0;
}

/**
 * block_add_channel - add the next channel
 * @front:	front end, not started
 * @ch:		zeroed, the driver's; frozen until block_start()
 * @depth:	commands at once, at least 1
 * @segments:	in its pool, 64 KiB of DMA memory each
 *
 * Return: 0 or -errno.
 */
int block_add_channel(struct block_front *front, struct block_channel *ch, unsigned int depth, unsigned int segments)
{
	ch->front = front;
	ch->number = front->channels;
	ch->count = &front->counters[ch->number];
	ch->state = BLOCK_FROZEN;
	ch->queue_tail = &ch->queue;
	ch->failed_tail = &ch->failed;
	pthread_mutex_init(&ch->lock, NULL);
	pthread_cond_init(&ch->pool_cond, NULL);
	front->channel[front->channels++] = ch;
	ch->command = calloc(depth, sizeof(*ch->command));
	if (!ch->command)
		return -ENOMEM;
	ch->depth = depth;
	while (depth--) {
		ch->command[depth].tag = (uint16_t)depth;
		ch->command[depth].next = ch->idle;
		ch->idle = &ch->command[depth];
	}
	return make_pool(ch, segments);
}

/**
 * block_add_unit - add a disk, or change what it is while its channels are frozen
 * @front:	front end
 * @number:	0 to BLOCK_MAX_UNITS - 1
 * @channel:	number of its first channel
 * @channels:	that it is spread over
 *
 * Return: the unit, whose `block` and `max_sectors` are the caller's to fill in; owned by @front.
 */
struct block_unit *block_add_unit(struct block_front *front, unsigned int number, unsigned int channel,
				  unsigned int channels)
{
	struct block_unit *u = &front->unit[number];

	u->front = front;
	u->number = number;
	u->channel = &front->channel[channel];
	u->channels = channels;
	u->offline = 0;
	u->block.ops = &block_unit_ops;
	u->block.max_trim = front->can.trim_bytes;
	return u;
}

/**
 * block_count_in - count in memory that others see, from what it says already
 * @front:	front end, not started
 * @fd:		memory file of at least a page
 *
 * Return: 0 or -errno.
 */
int block_count_in(struct block_front *front, int fd)
{
	void *map = mmap(front->counters, COUNTERS, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);

	return map == MAP_FAILED ? -errno : 0;
}

/**
 * block_set_limits - set the time-outs of commands started from now on
 * @front:	front end
 * @limits:	copied
 */
void block_set_limits(struct block_front *front, const struct block_limits *limits)
{
	front->limits = *limits;
}

/**
 * block_top_end - the top end of a unit
 * @front:	front end
 * @unit:	its number
 *
 * Return: owned by @front; NULL if there is no such unit.
 */
struct usrdrv_block *block_top_end(struct block_front *front, unsigned int unit)
{
	return unit < BLOCK_MAX_UNITS && front->unit[unit].front ? &front->unit[unit].block : NULL;
}

/**
 * block_get_counters - read a channel's statistics
 * @front:	front end
 * @channel:	its number
 * @out:	copied as they stand, without a lock
 */
void block_get_counters(struct block_front *front, unsigned int channel, struct block_counters *out)
{
	*out = *front->channel[channel]->count;
}

static int run(struct block_dispatcher *d, void *(*sleep_in_port)(void *))
{
	int ret = -pthread_create(&d->thread, NULL, sleep_in_port, d);

	d->running = !ret;
	return ret;
}

/* End a dispatcher that runs; front->stop is set. */
static void join(struct block_dispatcher *d)
{
	if (!d->running)
		return;
	eventfd_write(d->kick_fd, 1);
	pthread_join(d->thread, NULL);
	d->running = 0;
}

/**
 * block_start - open the channels for requests
 * @front:	front end with its units
 *
 * Return: 0 or -errno.
 */
int block_start(struct block_front *front)
{
	struct block_dispatcher *d = front->dispatcher;
	struct usrdrv_dev *dev = front->dev;
	const struct block_wakers wakers = {
		.irq_fd = dev->irq_fd, .unmask_fd = -1, .kick_fd = d->kick_fd, .hangup_fd = dev->hangup_fd,
		.hangup_events = dev->hangup_events,
	};
	int ret = d->idle_port->ops->join(d->idle_port, &wakers);

	if (!ret)
		ret = run(d, block_dispatch);
	if (ret)
		return ret;
	for (unsigned int i = 0; i < front->channels; i++)
		block_resume(front, i, BLOCK_DONE, 0);
	dev->ops->irq_unmask(dev, NULL, 0);
	return 0;
}

/* Sleep in a port: the main dispatcher if it has none, else a thread of its own. */
static int begin(struct block_dispatcher *d, struct block_orders *o)
{
	struct block_front *front = d->front;

	atomic_fetch_add(&front->ports, 1);
	atomic_store(&d->orders, o);
	block_kick(front);	/* the main one takes its orders, or takes back a command that is armed */
	if (d == front->dispatcher)
		return 0;
	d->next = atomic_load(&front->feeders);
	atomic_store(&front->feeders, d);
	return run(d, block_feed);
}

/* Take over a port of a unit, also on an error. */
static int serve_queue(struct block_unit *u, struct block_channel *ch, struct block_port *port)
{
	struct block_front *front = u->front;
	struct block_dispatcher *d = front->dispatcher;
	struct block_orders *o;
	int ret;

	if (atomic_load(&d->orders) || d->ended)
		d = new_dispatcher(front);
	if (!d) {
		port->ops->close(port);
		return -ENOMEM;
	}
	ret = block_make_orders(d, u, ch, port, &o);
	if (!ret)
		return begin(d, o);
	if (d != front->dispatcher)
		free_dispatcher(d);
	return ret;
}

/**
 * block_serve - take a unit's requests from ports from now on
 * @front:	front end, started
 * @unit:	its number
 * @port:	each gets a channel of the unit; the front end's from now on, which closes them, also after an error
 * @ports:	how many
 *
 * One caller at a time. After an error only block_stop() is left to do.
 *
 * Return: 0; -EINVAL no such unit; -EBUSY it is or was served; -errno.
 */
int block_serve(struct block_front *front, unsigned int unit, struct block_port *const *port, unsigned int ports)
{
	struct block_unit *u = unit < BLOCK_MAX_UNITS ? &front->unit[unit] : NULL;
	int ret = !u || !u->front ? -EINVAL : u->served ? -EBUSY : 0;

	for (unsigned int i = 0; i < ports; i++) {
		if (ret) {
			port[i]->ops->close(port[i]);
			continue;
		}
		u->served = 1;
		ret = serve_queue(u, u->channel[i % u->channels], port[i]);
	}
	return ret;
}

static uint64_t calls(const struct block_dispatcher *d)
{
	struct block_orders *o = atomic_load(&((struct block_dispatcher *)d)->orders);

	return o ? o->port->calls : 0;
}

/**
 * block_served_calls - how often ports were called
 * @front:	front end
 *
 * Return: system calls of the data path for the ports that are served.
 */
uint64_t block_served_calls(struct block_front *front)
{
	uint64_t sum = calls(front->dispatcher);

	for (const struct block_dispatcher *d = atomic_load(&front->feeders); d; d = d->next)
		sum += calls(d);
	return sum;
}

/**
 * block_stop - end all requests and the dispatchers
 * @front:	front end
 *
 * Commands that run are given up with -ENODEV: the caller stops the engines
 * before DMA memory goes. block_wait_event() returns -ESHUTDOWN.
 */
void block_stop(struct block_front *front)
{
	atomic_store(&front->stop, 1);
	join(front->dispatcher);
	for (struct block_dispatcher *d = atomic_load(&front->feeders); d; d = d->next)
		join(d);
	block_fail_everything(front);
}

/* Stopped channels fail every request at once, so their threads are on the way out. */
static void wait_for_users(struct block_channel *ch)
{
	const struct timespec pause = { .tv_nsec = 1000000 };

	pthread_mutex_lock(&ch->lock);
	while (ch->users) {
		block_unlock(ch);
		nanosleep(&pause, NULL);
		pthread_mutex_lock(&ch->lock);
	}
	block_unlock(ch);
}

/**
 * block_free - give everything back
 * @front:	front end, stopped, the device's bus master off; no new request may come
 */
void block_free(struct block_front *front)
{
	struct block_dispatcher *d, *next;

	for (unsigned int i = 0; i < front->channels; i++)
		wait_for_users(front->channel[i]);
	for (d = atomic_load(&front->feeders); d; d = next) {
		next = d->next;
		free_dispatcher(d);
	}
	if (front->dispatcher)
		free_dispatcher(front->dispatcher);
	for (unsigned int i = 0; i < front->channels; i++) {
		struct block_channel *ch = front->channel[i];

		if (ch->pages.cpu)
			front->dev->ops->dma_free(front->dev, &ch->pages);
		free(ch->segment);
		free(ch->command);
	}
	if (front->counters)
		munmap(front->counters, COUNTERS);
}
