/* SPDX-License-Identifier: GPL-2.0 */
/* What differs between the kernels that this builds for (6.1 to today), and nothing else. */
#ifndef USRLOOP_COMPAT_H
#define USRLOOP_COMPAT_H

#include <linux/blk-mq.h>
#include <linux/eventfd.h>
#include <linux/version.h>

#include "include/uapi/usrloop.h"

/* 6.5: GSO has a header of its own */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 5, 0)
#include <net/gso.h>
#endif

/* 6.2: a header can say that UDP is to be segmented; before, there is nothing to offer */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 2, 0)
#define VIRTIO_NET_HDR_GSO_UDP_L4	5
#define USRLOOP_COMPAT_USO		0
#else
#define USRLOOP_COMPAT_USO		USRLOOP_NET_USO
#endif

/* 6.8: always by one */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 8, 0)
#define usrloop_signal(ctx)	eventfd_signal(ctx, 1)
#else
#define usrloop_signal(ctx)	eventfd_signal(ctx)
#endif

/* 6.14: requests are merged unless a driver says no */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 14, 0)
#define USRLOOP_MQ_FLAGS	BLK_MQ_F_SHOULD_MERGE
#else
#define USRLOOP_MQ_FLAGS	0
#endif

/* 6.13: the namespace of symbols is a string */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 13, 0)
#define USRLOOP_IMPORT_NS(ns)	MODULE_IMPORT_NS(ns)
#else
#define USRLOOP_IMPORT_NS(ns)	MODULE_IMPORT_NS(#ns)
#endif

/* 6.16: a request knows its queue */
static inline int usrloop_map_sg(struct request *rq, struct scatterlist *sgl)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 16, 0)
	return blk_rq_map_sg(rq->q, rq, sgl);
#else
	return blk_rq_map_sg(rq, sgl);
#endif
}

/* 6.13, and some 6.12: lists of requests have a type; before, they point to the first one */
#define USRLOOP_RQ_LIST		typeof_member(struct blk_plug, mq_list)

/* 6.7: blk_mq_start_request() lets tags be looked up, for requests that come in lists too */
static inline void usrloop_start_request(struct request *rq)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 7, 0)
	rq->mq_hctx->tags->rqs[rq->tag] = rq;
#endif
	blk_mq_start_request(rq);
}

/* 6.11: limits and features are given when the disk is made; before, they are set one by one */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 11, 0)
static inline struct gendisk *usrloop_alloc_disk(struct blk_mq_tag_set *tags,
						 const struct usrloop_info *info, void *data)
{
	const struct usrloop_blk_params *p = &info->blk;
	struct gendisk *disk = blk_mq_alloc_disk(tags, data);
	struct request_queue *q;

	if (IS_ERR(disk))
		return disk;
	q = disk->queue;
	blk_queue_logical_block_size(q, p->logical_block);
	blk_queue_physical_block_size(q, p->physical_block);
	blk_queue_io_min(q, p->physical_block);
	blk_queue_max_hw_sectors(q, p->max_io >> SECTOR_SHIFT);
	blk_queue_max_segments(q, p->max_segments);
	blk_queue_max_segment_size(q, min_t(u64, p->max_io, p->segment_mask + 1ULL));
	blk_queue_segment_boundary(q, p->segment_mask);
	blk_queue_dma_alignment(q, 3);
	if (info->features & USRLOOP_BLK_DISCARD) {
		blk_queue_max_discard_sectors(q, p->max_discard >> SECTOR_SHIFT);
		q->limits.discard_granularity = p->discard_granularity;
	}
	if (info->features & USRLOOP_BLK_ZEROES)
		blk_queue_max_write_zeroes_sectors(q, p->max_discard >> SECTOR_SHIFT);
	blk_queue_write_cache(q, info->features & USRLOOP_BLK_CACHE,
			      info->features & USRLOOP_BLK_FUA);
	if (!(info->features & USRLOOP_BLK_ROTATIONAL))
		blk_queue_flag_set(QUEUE_FLAG_NONROT, q);
	blk_queue_flag_clear(QUEUE_FLAG_ADD_RANDOM, q);
	return disk;
}
#else
static inline struct gendisk *usrloop_alloc_disk(struct blk_mq_tag_set *tags,
						 const struct usrloop_info *info, void *data)
{
	const struct usrloop_blk_params *p = &info->blk;
	struct queue_limits lim = {
		.logical_block_size	= p->logical_block,
		.physical_block_size	= p->physical_block,
		.io_min			= p->physical_block,
		.max_hw_sectors		= p->max_io >> SECTOR_SHIFT,
		.max_segments		= p->max_segments,
		.max_segment_size	= min_t(u64, p->max_io, p->segment_mask + 1ULL),
		.seg_boundary_mask	= p->segment_mask,
		.dma_alignment		= 3,
	};

	if (info->features & USRLOOP_BLK_DISCARD) {
		lim.max_hw_discard_sectors = p->max_discard >> SECTOR_SHIFT;
		lim.discard_granularity = p->discard_granularity;
	}
	if (info->features & USRLOOP_BLK_ZEROES)
		lim.max_write_zeroes_sectors = p->max_discard >> SECTOR_SHIFT;
	if (info->features & USRLOOP_BLK_CACHE)
		lim.features |= BLK_FEAT_WRITE_CACHE;
	if (info->features & USRLOOP_BLK_FUA)
		lim.features |= BLK_FEAT_FUA;
	if (info->features & USRLOOP_BLK_ROTATIONAL)
		lim.features |= BLK_FEAT_ROTATIONAL;
	return blk_mq_alloc_disk(tags, &lim, data);
}
#endif

#endif
