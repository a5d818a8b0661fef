/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the parts of block devices share: disk.c has the disk, blk.c its requests, alone.c those
 * that servers die of, zc_blk.c their data if they are not copied.
 */
#ifndef USRLOOP_BLK_H
#define USRLOOP_BLK_H

#include <linux/blk-mq.h>

#include "usrloop.h"

/* blk.c */
extern const struct blk_mq_ops usrloop_blk_ops;
void usrloop_blk_attached(struct usrloop_queue *q);
void usrloop_blk_detached(struct usrloop_queue *q, bool fail_lost, bool fail_held);
unsigned int usrloop_blk_collect(struct usrloop_end *end);
bool usrloop_blk_finish(struct usrloop_end *end, u32 tag, u32 seq);

/* alone.c */
bool usrloop_alone_waits(const struct usrloop_queue *q, const struct usrloop_slot *slot);
bool usrloop_alone_ended(struct usrloop_queue *q, const struct usrloop_slot *slot);
bool usrloop_alone_blame(const struct usrloop_queue *q, struct usrloop_slot *slot);
void usrloop_alone_forget(struct usrloop_queue *q);
bool usrloop_alone_next(struct usrloop_dev *dev, struct usrloop_queue **q, u32 *tag);

/* zc_blk.c */
#if IS_ENABLED(CONFIG_USRDRV)
extern const struct usrloop_zc_ops usrloop_zc_blk;
int usrloop_zc_map(struct usrloop_end *end, struct request *rq, struct usrloop_sqe *sqe);
void usrloop_zc_unmap(struct usrloop_end *end, u32 tag);
void usrloop_zc_unmap_entered(struct usrloop_end *end, u32 tag);
#else	/* no device has the feature */
static inline int usrloop_zc_map(struct usrloop_end *end, struct request *rq,
				 struct usrloop_sqe *sqe)
{
	return -EOPNOTSUPP;
}

static inline void usrloop_zc_unmap(struct usrloop_end *end, u32 tag) {}

static inline void usrloop_zc_unmap_entered(struct usrloop_end *end, u32 tag) {}
#endif

#endif
