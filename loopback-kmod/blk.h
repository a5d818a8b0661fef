/* SPDX-License-Identifier: GPL-2.0 */
/* What the parts of block devices share: disk.c has the disk, blk.c its requests. */
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

#endif
