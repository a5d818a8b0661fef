// SPDX-License-Identifier: MIT
/*
 * What a port's orders need: a request and segments for each of its slots. The chip moves data straight to and from the
 * slots, or to and from the pages that the slots name (zero copy); where the device cannot reach the slots, memory of ours
 * stands for them.
 */
#include <errno.h>
#include <stdlib.h>

#include "front.h"

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
		o->request[i].request.complete = block_order_complete;
		for (unsigned int j = 0; j < o->per_slot; j++) {
			struct block_segment *segment = &o->segment[i * o->per_slot + j];
			const struct usrdrv_dma *data = &o->data[i / o->per_piece];
			size_t at = i % o->per_piece * o->stride + (size_t)j * BLOCK_SEGMENT_BYTES;

			segment->page = (uint8_t *)data->cpu + at;
			segment->bus = data->bus + at;
			segment->sibling = j + 1 < o->per_slot ? segment + 1 : NULL;
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
