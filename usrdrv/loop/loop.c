// SPDX-License-Identifier: MIT
/* Rings of usrloop: mapped. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "usrdrv/loop.h"

/**
 * loop_map() - map what ATTACH described
 * @fd:		of /dev/usrloop, attached
 * @attach:	what ATTACH returned
 * @map:	result, attach->size bytes, for munmap()
 *
 * Return: 0 or -errno.
 */
int loop_map(int fd, const struct usrloop_attach *attach, void **map)
{
	*map = mmap(NULL, attach->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	return *map == MAP_FAILED ? -errno : 0;
}

/**
 * loop_queue_init() - find a queue in a mapping
 * @q:		result
 * @fd:		as for loop_map(), stays the caller's
 * @attach:	as for loop_map()
 * @map:	from loop_map()
 * @index:	0 to attach->queues - 1
 */
void loop_queue_init(struct loop_queue *q, int fd, const struct usrloop_attach *attach, void *map,
		     unsigned int index)
{
	uint8_t *ring = (uint8_t *)map + (size_t)index * attach->ring_stride;

	memset(q, 0, sizeof(*q));
	q->fd = fd;
	q->index = index;
	q->mask = attach->depth - 1;
	q->slot_size = attach->slot_size;
	q->ring = (struct usrloop_ring *)ring;
	q->sq = (struct usrloop_sqe *)(ring + attach->sq);
	q->cq = (struct usrloop_cqe *)(ring + attach->cq);
	q->rx = (struct usrloop_rxe *)(ring + attach->rx);
	q->data = (uint8_t *)map + attach->data + index * attach->data_stride;
}
