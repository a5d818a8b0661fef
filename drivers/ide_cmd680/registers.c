// SPDX-License-Identifier: MIT
/*
 * Register access of the data path. Writes are posted: they gather in a list
 * that goes to the device in one piece, because on some backends a message,
 * not a register, is what costs.
 */
#include "ide.h"

#define LIST_SIZE (sizeof(((struct ide_list *)0)->w) / sizeof(struct usrdrv_write))

/**
 * ide_put - add one register write to a list
 * @ch:		the channel it is counted for
 * @l:		the list; written out when full
 * @region:	BAR number
 * @offset:	in bytes
 * @width:	1, 2 or 4 bytes
 * @value:	what to write
 */
void ide_put(struct ide_channel *ch, struct ide_list *l, uint8_t region, uint16_t offset,
	     uint8_t width, uint32_t value)
{
	if (l->n == LIST_SIZE)
		ide_flush_list(ch, l);
	l->w[l->n++] = (struct usrdrv_write){
		.region = region, .width = width, .offset = offset, .value = value,
	};
	ch->count.register_writes++;
}

/**
 * ide_flush_list - hand the gathered writes to the device
 * @ch:	any channel of the device
 * @l:	the list, empty afterwards
 *
 * Return: 0, or -errno with the device given up.
 */
int ide_flush_list(struct ide_channel *ch, struct ide_list *l)
{
	struct usrdrv_dev *dev = ch->ide->dev;
	unsigned int n = l->n;
	int ret;

	if (!n)
		return 0;
	l->n = 0;
	ret = dev->ops->write_list(dev, l->w, n);
	if (ret)
		ide_lost(ch->ide, ret);
	return ret;
}

/**
 * ide_get - read one register
 * @ch:		the channel it is counted for
 * @l:		writes that go in front, empty afterwards; NULL: none
 * @region:	BAR number
 * @offset:	in bytes
 * @width:	1, 2 or 4 bytes
 * @value:	result
 *
 * Return: 0, or -errno with the device given up.
 */
int ide_get(struct ide_channel *ch, struct ide_list *l, uint8_t region, uint16_t offset, uint8_t width,
	    uint32_t *value)
{
	struct usrdrv_dev *dev = ch->ide->dev;
	int ret = dev->ops->read(dev, l ? l->w : NULL, l ? l->n : 0, region, offset, width, value);

	if (l)
		l->n = 0;
	ch->count.register_reads++;
	if (ret)
		ide_lost(ch->ide, ret);
	return ret;
}
