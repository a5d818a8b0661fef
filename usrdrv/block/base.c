// SPDX-License-Identifier: MIT
/*
 * What every part of a block driver uses: the clock of deadlines, the dispatcher's kick, and registers. Register writes
 * are posted: they gather in a list that goes to the device in one piece, because on some back ends a message, not a
 * register, is what costs (docs/design/register-lists.md).
 */
#include <sys/eventfd.h>
#include <time.h>

#include "front.h"

#define LIST_SIZE (sizeof(((struct block_list *)0)->w) / sizeof(struct usrdrv_write))

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
 * block_kick - wake the main dispatcher
 * @front:	front end
 */
void block_kick(struct block_front *front)
{
	eventfd_write(front->dispatcher->kick_fd, 1);
}

/**
 * block_lost - note that there is no way on with the device
 * @front:	front end
 * @err:	of the access that failed: -ENODEV it is gone; else it was refused, which is the driver's own fault
 *
 * From any context; the main dispatcher ends all requests.
 */
void block_lost(struct block_front *front, int err)
{
	int none = 0;

	if (atomic_compare_exchange_strong(&front->gone, &none, -err))
		block_kick(front);
}

/**
 * block_put - add one register write to a list
 * @ch:		the channel it is counted for
 * @l:		the list; written out when full
 * @region:	BAR number
 * @offset:	in bytes
 * @width:	1, 2 or 4 bytes
 * @value:	what to write
 */
void block_put(struct block_channel *ch, struct block_list *l, uint8_t region, uint16_t offset, uint8_t width,
	       uint32_t value)
{
	if (l->n == LIST_SIZE)
		block_flush_list(ch, l);
	l->w[l->n++] = (struct usrdrv_write){
		.region = region, .width = width, .offset = offset, .value = value,
	};
	ch->count->register_writes++;
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

/**
 * block_get - read one register
 * @ch:		the channel it is counted for
 * @l:		writes that go in front, empty afterwards; NULL: none
 * @region:	BAR number
 * @offset:	in bytes
 * @width:	1, 2 or 4 bytes
 * @value:	result
 *
 * Return: 0, or -errno with the device given up.
 */
int block_get(struct block_channel *ch, struct block_list *l, uint8_t region, uint16_t offset, uint8_t width,
	      uint32_t *value)
{
	struct usrdrv_dev *dev = ch->front->dev;
	int ret = dev->ops->read(dev, l ? l->w : NULL, l ? l->n : 0, region, offset, width, value);

	if (l)
		l->n = 0;
	ch->count->register_reads++;
	if (ret)
		block_lost(ch->front, ret);
	return ret;
}
