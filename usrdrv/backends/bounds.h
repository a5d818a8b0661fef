/* SPDX-License-Identifier: MIT */
/* Which accesses there are: the same for every backend. */
#ifndef USRDRV_BOUNDS_H
#define USRDRV_BOUNDS_H

#include <errno.h>

#include "usrdrv/dev.h"

/**
 * bounds_check - whether a register can be accessed
 * @dev:	device
 * @config:	bytes of its configuration space
 * @region:	BAR or USRDRV_REGION_CONFIG
 * @offset:	in the region; a multiple of @width
 * @width:	1, 2, 4, and in memory 8 bytes
 *
 * Return: 0, -EINVAL; -ENODEV once the device is gone.
 */
static inline int bounds_check(const struct usrdrv_dev *dev, uint64_t config, unsigned int region, uint64_t offset,
			       unsigned int width)
{
	const struct usrdrv_bar *bar = region < USRDRV_NUM_BARS ? &dev->bar[region] : NULL;
	uint64_t size = bar ? bar->size : config;

	if (!bar && region != USRDRV_REGION_CONFIG)
		return -EINVAL;
	if (width != 1 && width != 2 && width != 4 && !(width == 8 && bar && !(bar->flags & USRDRV_BAR_IO)))
		return -EINVAL;
	if (offset & (width - 1) || offset >= size || width > size - offset)
		return -EINVAL;
	return dev->gone ? -ENODEV : 0;
}

#endif
