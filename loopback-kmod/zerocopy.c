// SPDX-License-Identifier: GPL-2.0
/*
 * Data that are not copied: the pages of a request are mapped for the PCI function that the server
 * has claimed (usrdrv-patch), and its slot says where that function finds them.
 *
 * A page that the function was told of is its until the server says that the request is done, or
 * the claim ends, for which the function loses the bus and is reset. So before a request is taken
 * from a server that has not said so, its claim is ended.
 *
 * What is mapped changes between usrdrv_claim_enter() and usrdrv_claim_exit(), by who made the slot
 * BUSY; or when nobody can enter any more, by the notifier.
 */
#include <linux/blk-mq.h>
#include <linux/dma-mapping.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/scatterlist.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "compat.h"
#include "usrloop.h"

#if IS_ENABLED(CONFIG_USRDRV)
#include <linux/usrdrv.h>

/* A request's pages. */
struct usrloop_map {
	unsigned int pieces;		/* before they were mapped; 0: they are not */
	enum dma_data_direction dir;
	struct scatterlist *sgl;	/* max_segments */
};

struct usrloop_zc {
	struct usrdrv_claim *claim;
	struct notifier_block quiesced;
	struct scatterlist *sgl;
	unsigned int maps;
	struct usrloop_map map[];	/* queue * depth + tag */
};

static struct usrloop_map *map_of(const struct usrloop_end *end, u32 tag)
{
	return &end->zc->map[end->queue->index * (end->mask + 1) + tag];
}

/* Nobody else is at it: the claim was entered, or nobody can. */
static void unmap(struct usrloop_zc *zc, struct usrloop_map *map)
{
	if (!map->pieces)
		return;
	dma_unmap_sg(usrdrv_claim_device(zc->claim), map->sgl, map->pieces, map->dir);
	WRITE_ONCE(map->pieces, 0);
}

/* Memory that this takes must not be had by waiting for the very disk that it is to free. */
static void end_claim(struct usrdrv_claim *claim)
{
	unsigned int flags = memalloc_noio_save();

	usrdrv_claim_end(claim);
	memalloc_noio_restore(flags);
}

/* The claim ends. The function reaches no memory, and nobody is in the claim. */
static int on_quiesced(struct notifier_block *nb, unsigned long action, void *data)
{
	struct usrloop_zc *zc = container_of(nb, struct usrloop_zc, quiesced);
	unsigned int i;

	for (i = 0; i < zc->maps; i++)
		unmap(zc, &zc->map[i]);
	return NOTIFY_OK;
}

/* With the function bound, so that its limits are not another driver's. */
static int begin(struct usrloop_zc *zc, u32 mask)
{
	struct device *device = usrdrv_claim_device(zc->claim);
	int index, ret;

	ret = usrdrv_claim_notify(zc->claim, &zc->quiesced);
	if (ret)
		return ret;
	index = usrdrv_claim_enter(zc->claim);
	if (index < 0) {
		usrdrv_claim_forget(zc->claim, &zc->quiesced);
		return index;
	}
	if (dma_get_seg_boundary(device) > mask)
		dma_set_seg_boundary(device, mask);
	usrdrv_claim_exit(zc->claim, index);
	return 0;
}

/**
 * usrloop_zc_begin() - have a session's data mapped instead of copied
 * @s:		its device has USRLOOP_BLK_ZERO_COPY
 * @claim_fd:	of usr_pci_open()
 *
 * Context: process.
 * Return: 0; -EBADF, -EINVAL no claim; -ENODEV it has ended; -ENOMEM.
 */
int usrloop_zc_begin(struct usrloop_session *s, int claim_fd)
{
	const struct usrloop_info *info = &s->dev->info;
	unsigned int maps = info->queues * info->depth, i;
	struct usrloop_zc *zc;
	int ret = -ENOMEM;

	zc = kvzalloc(struct_size(zc, map, maps), GFP_KERNEL_ACCOUNT);
	if (!zc)
		return -ENOMEM;
	zc->sgl = kvcalloc(maps, array_size(info->blk.max_segments, sizeof(*zc->sgl)),
			   GFP_KERNEL_ACCOUNT);
	if (!zc->sgl)
		goto err_free;
	for (i = 0; i < maps; i++) {
		zc->map[i].sgl = &zc->sgl[i * info->blk.max_segments];
		sg_init_table(zc->map[i].sgl, info->blk.max_segments);
	}
	zc->maps = maps;
	zc->quiesced.notifier_call = on_quiesced;
	zc->claim = usrdrv_claim_fdget(claim_fd);
	ret = PTR_ERR_OR_ZERO(zc->claim);
	if (ret)
		goto err_free;
	ret = begin(zc, info->blk.segment_mask);
	if (ret)
		goto err_put;
	s->zc = zc;
	return 0;

err_put:
	usrdrv_claim_put(zc->claim);
err_free:
	kvfree(zc->sgl);
	kvfree(zc);
	return ret;
}

/* Undo usrloop_zc_begin(). Nothing is mapped any more. Context: process. */
void usrloop_zc_end(struct usrloop_session *s)
{
	struct usrloop_zc *zc = s->zc;

	usrdrv_claim_forget(zc->claim, &zc->quiesced);
	usrdrv_claim_put(zc->claim);
	kvfree(zc->sgl);
	kvfree(zc);
}

/* The claim was entered. */
static int map(struct usrloop_end *end, struct request *rq, struct usrloop_sqe *sqe)
{
	struct usrloop_segment *out = usrloop_data(end, rq->tag);
	struct usrloop_map *map = map_of(end, rq->tag);
	struct scatterlist *sg;
	int mapped, i;

	map->pieces = usrloop_map_sg(rq, map->sgl);
	map->dir = rq_dma_dir(rq);
	mapped = dma_map_sg_attrs(usrdrv_claim_device(end->zc->claim), map->sgl, map->pieces,
				  map->dir, DMA_ATTR_NO_WARN);
	if (!mapped) {
		map->pieces = 0;
		return -ENOMEM;
	}
	for_each_sg(map->sgl, sg, mapped, i)
		out[i] = (struct usrloop_segment) {
			.addr = sg_dma_address(sg),
			.len = sg_dma_len(sg),
		};
	sqe->segments = mapped;
	return 0;
}

/**
 * usrloop_zc_map() - let the server's function reach a request's data
 * @end:	who is to have the request
 * @rq:		request, whose slot is BUSY
 * @sqe:	what the server is told of it
 *
 * Context: any, queue->lock held: the session is not let go of meanwhile.
 * Return: 0; -ENOMEM not now; -ENODEV the claim is going.
 */
int usrloop_zc_map(struct usrloop_end *end, struct request *rq, struct usrloop_sqe *sqe)
{
	int index, ret;

	if (sqe->op != USRLOOP_OP_READ && sqe->op != USRLOOP_OP_WRITE)
		return 0;
	index = usrdrv_claim_enter(end->zc->claim);
	if (index < 0)
		return index;
	ret = map(end, rq, sqe);
	usrdrv_claim_exit(end->zc->claim, index);
	return ret;
}

/**
 * usrloop_zc_unmap() - the server is done with a request
 * @end:	who had it
 * @tag:	its slot, BUSY
 *
 * Context: process, no locks.
 */
void usrloop_zc_unmap(struct usrloop_end *end, u32 tag)
{
	struct usrdrv_claim *claim = end->zc->claim;
	int index = usrdrv_claim_enter(claim);

	if (index < 0) {
		/* It is on its way out: to wait for that does it. */
		end_claim(claim);
		return;
	}
	unmap(end->zc, map_of(end, tag));
	usrdrv_claim_exit(claim, index);
}

/**
 * usrloop_zc_recall() - take back what a server has not said to be done with
 * @s:		session whose queues have lost their ends
 *
 * Context: process; dev->lock may be held.
 */
void usrloop_zc_recall(struct usrloop_session *s)
{
	unsigned int i;

	for (i = 0; i < s->zc->maps; i++) {
		if (!READ_ONCE(s->zc->map[i].pieces))
			continue;
		end_claim(s->zc->claim);
		return;
	}
}

USRLOOP_IMPORT_NS(USRDRV);
#endif
