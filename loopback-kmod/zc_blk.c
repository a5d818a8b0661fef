// SPDX-License-Identifier: GPL-2.0
/*
 * Zero copy of disks: the pages of a request are mapped from when it is sent until it completes.
 *
 * See docs/design/zero-copy-blocks.md.
 */
#include <linux/blk-mq.h>
#include <linux/dma-mapping.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>

#include "blk.h"
#include "compat.h"

#if IS_ENABLED(CONFIG_USRDRV)
#include "zerocopy.h"

/* A request's pages. */
struct usrloop_map {
	unsigned int pieces;		/* before they were mapped; 0: they are not */
	enum dma_data_direction dir;
	struct scatterlist *sgl;	/* max_segments */
};

struct blk_zc {
	struct usrloop_zc zc;
	struct scatterlist *sgl;
	unsigned int maps;
	struct usrloop_map map[];	/* queue * depth + tag */
};

static struct blk_zc *zcb_of(const struct usrloop_zc *zc)
{
	return container_of(zc, struct blk_zc, zc);
}

static struct usrloop_map *zcb_map_of(const struct usrloop_end *end, u32 tag)
{
	return &zcb_of(end->zc)->map[end->queue->index * (end->mask + 1) + tag];
}

/* The tables of zcb_alloc(). */
static unsigned long zcb_pages(const struct usrloop_info *info)
{
	unsigned long maps = info->queues * info->depth;

	return DIV_ROUND_UP(maps * (sizeof(struct usrloop_map) +
				    info->blk.max_segments * sizeof(struct scatterlist)),
			    PAGE_SIZE);
}

static struct usrloop_zc *zcb_alloc(const struct usrloop_info *info)
{
	unsigned int maps = info->queues * info->depth, i;
	struct blk_zc *b;

	b = kvzalloc(struct_size(b, map, maps), GFP_KERNEL_ACCOUNT);
	if (!b)
		return NULL;
	b->sgl = kvcalloc(maps, array_size(info->blk.max_segments, sizeof(*b->sgl)),
			  GFP_KERNEL_ACCOUNT);
	if (!b->sgl) {
		kvfree(b);
		return NULL;
	}
	for (i = 0; i < maps; i++) {
		b->map[i].sgl = &b->sgl[i * info->blk.max_segments];
		sg_init_table(b->map[i].sgl, info->blk.max_segments);
	}
	b->maps = maps;
	return &b->zc;
}

static void zcb_free(struct usrloop_zc *zc)
{
	kvfree(zcb_of(zc)->sgl);
	kvfree(zcb_of(zc));
}

static int zcb_begin(struct usrloop_session *s)
{
	struct device *device = usrloop_zc_device(s->zc);
	u32 mask = s->dev->info.blk.segment_mask;

	if (dma_get_seg_boundary(device) > mask)
		dma_set_seg_boundary(device, mask);
	return 0;
}

static void zcb_unmap(struct usrloop_zc *zc, struct usrloop_map *map)
{
	if (!map->pieces)
		return;
	dma_unmap_sg(usrloop_zc_device(zc), map->sgl, map->pieces, map->dir);
	/* Pairs with zcb_mapped(): what dma_unmap_sg() did, such as to copy back, came before. */
	smp_store_release(&map->pieces, 0);
}

static void zcb_unmap_all(struct usrloop_zc *zc)
{
	unsigned int i;

	for (i = 0; i < zcb_of(zc)->maps; i++)
		zcb_unmap(zc, &zcb_of(zc)->map[i]);
}

/*
 * zcb_unmap() may run meanwhile, for a completion or the end of the claim: once a request looks
 * unmapped, its pages go to others. Nothing is mapped meanwhile: zcb_map() runs under queue->lock,
 * and queue->end was cleared under it.
 */
static bool zcb_mapped(const struct usrloop_zc *zc, bool any)
{
	unsigned int i;

	for (i = 0; i < zcb_of(zc)->maps; i++)
		/* Pairs with zcb_unmap(). */
		if (smp_load_acquire(&zcb_of(zc)->map[i].pieces))
			return true;
	return false;
}

const struct usrloop_zc_ops usrloop_zc_blk = {
	.pages		= zcb_pages,
	.alloc		= zcb_alloc,
	.free		= zcb_free,
	.begin		= zcb_begin,
	.unmap_all	= zcb_unmap_all,
	.mapped		= zcb_mapped,
};

/* The claim was entered. */
static int zcb_map(struct usrloop_end *end, struct request *rq, struct usrloop_sqe *sqe)
{
	struct usrloop_segment *out = usrloop_data(end, rq->tag);
	struct usrloop_map *map = zcb_map_of(end, rq->tag);
	struct scatterlist *sg;
	int mapped, i;

#ifdef CONFIG_NEED_SG_DMA_FLAGS
	map->sgl->dma_flags = 0;	/* of the last request */
#endif
	map->pieces = usrloop_map_sg(rq, map->sgl);
	map->dir = rq_dma_dir(rq);
	mapped = dma_map_sg_attrs(usrloop_zc_device(end->zc), map->sgl, map->pieces, map->dir,
				  DMA_ATTR_NO_WARN);
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
 * @end:	the server's end that is to have the request
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
	index = usrloop_zc_enter(end->zc);
	if (index < 0)
		return index;
	ret = zcb_map(end, rq, sqe);
	usrloop_zc_exit(end->zc, index);
	return ret;
}

/**
 * usrloop_zc_unmap() - the server is done with a request
 * @end:	the server's end that had it
 * @tag:	its slot, BUSY
 *
 * Context: process, no locks.
 */
void usrloop_zc_unmap(struct usrloop_end *end, u32 tag)
{
	int index = usrloop_zc_enter(end->zc);

	if (index < 0) {
		/* It is on its way out: to wait for that does it. */
		usrloop_zc_end_claim(end->zc);
		return;
	}
	usrloop_zc_unmap_entered(end, tag);
	usrloop_zc_exit(end->zc, index);
}

/* The same, for a caller that has entered the claim. Context: any. */
void usrloop_zc_unmap_entered(struct usrloop_end *end, u32 tag)
{
	zcb_unmap(end->zc, zcb_map_of(end, tag));
}
#endif
