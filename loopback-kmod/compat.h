/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What differs between the kernels that this builds for (6.1 to today), and nothing else.
 * USRLOOP_HAS_* are what Kbuild found in the headers.
 */
#ifndef USRLOOP_COMPAT_H
#define USRLOOP_COMPAT_H

#include <linux/blk-mq.h>
#include <linux/eventfd.h>
#include <linux/mm.h>
#include <linux/version.h>
#include <linux/virtio_net.h>

#include "include/uapi/usrloop.h"

/* 6.5: GSO has a header of its own */
#ifdef USRLOOP_HAS_GSO_HEADER
#include <net/gso.h>
#endif

/* 6.2: a header can say that UDP is to be segmented; before, there is nothing to offer */
#ifdef VIRTIO_NET_HDR_GSO_UDP_L4
#define USRLOOP_COMPAT_USO		USRLOOP_NET_USO
#else
#define VIRTIO_NET_HDR_GSO_UDP_L4	5
#define USRLOOP_COMPAT_USO		0
#endif

/* Before 6.8 the count is said. */
#ifdef USRLOOP_HAS_SIGNAL_COUNT
#define usrloop_signal(ctx)	eventfd_signal(ctx, 1)
#else
#define usrloop_signal(ctx)	eventfd_signal(ctx)
#endif

/* Before 6.14 a driver says that requests are to be merged. */
#ifdef USRLOOP_HAS_MERGE_FLAG
#define USRLOOP_MQ_FLAGS	BLK_MQ_F_SHOULD_MERGE
#else
#define USRLOOP_MQ_FLAGS	0
#endif

/* 6.13: the namespace of symbols is a string */
#ifdef USRLOOP_HAS_STRING_NS
#define USRLOOP_IMPORT_NS(ns)	MODULE_IMPORT_NS(#ns)
#else
#define USRLOOP_IMPORT_NS(ns)	MODULE_IMPORT_NS(ns)
#endif

/* 6.3: flags of a mapping are set by a function */
static inline void usrloop_vma_set(struct vm_area_struct *vma, unsigned long flags)
{
#ifdef USRLOOP_HAS_VM_FLAGS_SET
	vm_flags_set(vma, flags);
#else
	vma->vm_flags |= flags;
#endif
}

/* Before 6.15 a request does not know its queue. */
static inline int usrloop_map_sg(struct request *rq, struct scatterlist *sgl)
{
#ifdef USRLOOP_HAS_MAP_SG_QUEUE
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

/* 6.11: what a queue is like is among its limits; before, it is set afterwards */
#ifdef USRLOOP_HAS_LIMITS_FEATURES
static inline void usrloop_set_features(struct queue_limits *lim, u32 features)
{
	if (features & USRLOOP_BLK_CACHE)
		lim->features |= BLK_FEAT_WRITE_CACHE;
	if (features & USRLOOP_BLK_FUA)
		lim->features |= BLK_FEAT_FUA;
	if (features & USRLOOP_BLK_ROTATIONAL)
		lim->features |= BLK_FEAT_ROTATIONAL;
}

static inline void usrloop_queue_features(struct request_queue *q, u32 features) {}
#else
static inline void usrloop_set_features(struct queue_limits *lim, u32 features) {}

static inline void usrloop_queue_features(struct request_queue *q, u32 features)
{
	blk_queue_write_cache(q, features & USRLOOP_BLK_CACHE, features & USRLOOP_BLK_FUA);
	if (!(features & USRLOOP_BLK_ROTATIONAL))
		blk_queue_flag_set(QUEUE_FLAG_NONROT, q);
	blk_queue_flag_clear(QUEUE_FLAG_ADD_RANDOM, q);
}
#endif

/* 6.9: limits are given when the disk is made; before, they are set one by one */
static inline struct gendisk *usrloop_alloc_disk(struct blk_mq_tag_set *tags,
						 const struct usrloop_info *info, void *data)
{
	const struct usrloop_blk_params *p = &info->blk;
	struct gendisk *disk;
#ifdef USRLOOP_HAS_ALLOC_LIMITS
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
	usrloop_set_features(&lim, info->features);
	disk = blk_mq_alloc_disk(tags, &lim, data);
	if (IS_ERR(disk))
		return disk;
#else
	struct request_queue *q;

	disk = blk_mq_alloc_disk(tags, data);
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
#endif
	usrloop_queue_features(disk->queue, info->features);
	return disk;
}

#endif
