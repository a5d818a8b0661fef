// SPDX-License-Identifier: MIT
/*
 * Requests that a port brings. The chip moves data straight to and from the port's slots, or to and from the pages that the
 * slots name (zero copy); where the device cannot reach the slots, memory of ours stands for them.
 *
 * All of it is the dispatcher's, but for completions that other threads bring about (an error's verdict, the end, the main
 * dispatcher's interrupts): those wait in a list.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "front.h"

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
		block_copy_out(first, block_slot(o->port, tag));
	o->port->ops->complete(o->port, tag, r->seq, status);
}

static void complete(struct block_request *request)
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

/**
 * block_drain - note the completions that other threads brought about
 * @o:	orders of the calling dispatcher
 */
void block_drain(struct block_orders *o)
{
	struct block_order_request *r;

	pthread_mutex_lock(&o->lock);
	r = o->done;
	o->done = NULL;
	pthread_mutex_unlock(&o->lock);
	for (; r; r = r->next)
		hand_over(o, r);
}

/* Whether the slot has a table of where a request's data are, not the data. */
static int has_table(const struct block_orders *o, enum usrdrv_block_op op)
{
	return o->port->tables && (op == USRDRV_BLOCK_READ || op == USRDRV_BLOCK_WRITE);
}

/* Whether the unit can do an order and its data, or their table, fit the slot. Return: 0 or -errno. */
static int check(const struct block_orders *o, const struct block_order *order)
{
	if (order->op == USRDRV_BLOCK_FLUSH)
		return order->len ? -EINVAL : 0;
	if (!order->len)
		return -EINVAL;
	if (has_table(o, order->op)) {
		if (!order->pieces || order->pieces > o->port->slot_size / sizeof(struct usrloop_segment) ||
		    order->pieces > o->by->front->can.max_pieces || order->len / USRDRV_SECTOR > o->unit->max_sectors)
			return -EINVAL;
	} else if (order->op == USRDRV_BLOCK_TRIM) {
		if (order->len > o->per_slot * o->by->front->can.trim_bytes)
			return -EINVAL;
	} else if (order->len > o->port->slot_size) {
		return -EINVAL;
	}
	return block_check(o->unit, order->op, order->offset, order->len);
}

/* The kernel keeps a request whose pages are named to what one command can do. */
static void fill_segments(struct block_orders *o, struct block_order_request *r, const struct block_order *order)
{
	struct block_segment *segment = &o->segment[order->tag * o->per_slot];
	int table = has_table(o, order->op);
	uint64_t offset = order->offset, left = order->len, n;

	do {
		n = table ? left : block_share(o->unit, order->op, left);
		segment->alone = segment->tries = 0;
		block_fill(segment, o->unit, &r->request, order->op, offset, n, order->flags);
		offset += n;
		left -= n;
		segment->sibling = left ? segment + 1 : NULL;
		if (table) {
			segment->table = (const struct usrloop_segment *)block_slot(o->port, order->tag);
			segment->pieces = (uint16_t)order->pieces;
		}
	} while (segment++, left);
}

/* Make segments of an order and put them into the queue; channel locked. */
static void take_order(struct block_orders *o, const struct block_order *order)
{
	struct block_order_request *r = &o->request[order->tag];
	struct block_segment *first = &o->segment[order->tag * o->per_slot];

	/* One that waits to be told of its end may be this tag's last one. */
	assert(!o->channel->done);
	r->seq = order->seq;
	r->ended = 0;
	r->request.left = 0;
	r->request.status = check(o, order);
	if (!r->request.status && o->channel->state == BLOCK_DEAD)
		r->request.status = -ENODEV;
	if (r->request.status) {
		hand_over(o, r);
		return;
	}
	if (o->bounce && order->op == USRDRV_BLOCK_WRITE)
		memcpy(first->page, block_slot(o->port, order->tag), order->len);
	fill_segments(o, r, order);
	block_enqueue(o->channel, first);
}

/**
 * block_pump - take all orders that there are, and start what can be started
 * @o:	orders of the calling dispatcher
 */
void block_pump(struct block_orders *o)
{
	struct block_channel *ch = o->channel;
	struct block_order order;
	int room;

	pthread_mutex_lock(&ch->lock);
	if (block_take_back(o)) {
		/* The kernel may have given its tag to the next request already: be done with it before that is read. */
		block_unlock(ch);
		pthread_mutex_lock(&ch->lock);
	}
	while (o->port->ops->next(o->port, &order))
		take_order(o, &order);
	room = ch->idle != NULL;
	block_unlock(ch);
	if (room)
		block_run_channel(ch);
}

/* Give each slot its segments, which lie where its data do. */
static int make_segments(struct block_orders *o)
{
	unsigned int depth = o->port->depth;

	o->per_slot = (unsigned int)((o->stride + BLOCK_SEGMENT_BYTES - 1) / BLOCK_SEGMENT_BYTES);
	o->request = calloc(depth, sizeof(*o->request));
	o->segment = calloc((size_t)depth * o->per_slot, sizeof(*o->segment));
	if (!o->request || !o->segment)
		return -ENOMEM;
	for (unsigned int i = 0; i < depth; i++) {
		o->request[i].orders = o;
		o->request[i].request.complete = complete;
		for (unsigned int j = 0; j < o->per_slot; j++) {
			struct block_segment *segment = &o->segment[i * o->per_slot + j];
			const struct usrdrv_dma *data = &o->data[i / o->per_piece];
			size_t at = i % o->per_piece * o->stride + (size_t)j * BLOCK_SEGMENT_BYTES;

			segment->page = (uint8_t *)data->cpu + at;
			segment->bus = data->bus + at;
		}
	}
	return 0;
}

static int make_data(struct block_orders *o)
{
	struct usrdrv_dev *dev = o->by->front->dev;
	const struct usrdrv_dev_ops *ops = dev->ops;
	unsigned int depth = o->port->depth;
	uint64_t limit = o->by->front->can.dma_limit;
	int ret = -EOPNOTSUPP;

	/* A slot of less than 64 KiB is a power of two: neither crosses a multiple of 64 KiB. */
	o->per_piece = depth;
	o->stride = o->port->tables ? USRDRV_SECTOR : o->port->slot_size;
	if (ops->dma_map && !o->port->tables)
		ret = ops->dma_map(dev, o->port->slots, depth * o->stride, BLOCK_SEGMENT_BYTES, limit, &o->data[0]);
	if (!ret)
		return 0;
	if (!o->port->tables) {
		o->bounce = 1;
		o->per_piece = (depth + BLOCK_PIECES - 1) / BLOCK_PIECES;
	}
	ret = 0;
	for (unsigned int i = 0; i * o->per_piece < depth && !ret; i++)
		ret = ops->dma_alloc(dev, o->per_piece * o->stride, BLOCK_SEGMENT_BYTES, limit, &o->data[i]);
	return ret;
}

/**
 * block_make_orders - make what a port's orders need
 * @by:		dispatcher that sleeps in it
 * @unit:	that they are for
 * @ch:		channel of it
 * @port:	closed with the orders, also if this fails
 * @out:	result
 *
 * Return: 0 or -errno.
 */
int block_make_orders(struct block_dispatcher *by, struct block_unit *unit, struct block_channel *ch,
		      struct block_port *port, struct block_orders **out)
{
	struct block_orders *o = calloc(1, sizeof(*o));
	int ret;

	if (!o) {
		port->ops->close(port);
		return -ENOMEM;
	}
	*o = (struct block_orders){ .unit = unit, .channel = ch, .port = port, .by = by };
	pthread_mutex_init(&o->lock, NULL);
	ret = make_data(o);
	if (!ret)
		ret = make_segments(o);
	if (ret) {
		block_free_orders(o);
		return ret;
	}
	*out = o;
	return 0;
}

/**
 * block_free_orders - give them back, with their port
 * @o:	orders; no command of them is at the chip
 */
void block_free_orders(struct block_orders *o)
{
	for (unsigned int i = 0; i < BLOCK_PIECES; i++)
		if (o->data[i].cpu)
			o->by->front->dev->ops->dma_free(o->by->front->dev, &o->data[i]);
	free(o->request);
	free(o->segment);
	pthread_mutex_destroy(&o->lock);
	o->port->ops->close(o->port);
	free(o);
}
