// SPDX-License-Identifier: GPL-2.0
/* Disks: made, started, resized, stopped. Their requests are in blk.c. */
#include <linux/backing-dev.h>
#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/module.h>
#include <linux/rwsem.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "blk.h"
#include "compat.h"

struct usrloop_blk {
	struct blk_mq_tag_set tags;
	struct gendisk *disk;		/* between start and stop */
	struct rw_semaphore telling;	/* user space of a new size; taken under dev->lock */
	struct mutex resizing;		/* the disk; taken under telling alone */
};

/* What the block layer keeps for requests, with a scheduler's: it accounts nothing itself. */
static unsigned long disk_pages(const struct usrloop_info *info)
{
	unsigned long requests = info->depth + min(2 * info->depth, 256u);

	return DIV_ROUND_UP(info->queues * requests * (sizeof(struct request) + 2 * sizeof(void *)),
			    PAGE_SIZE);
}

static int disk_create(struct usrloop_dev *dev)
{
	struct usrloop_blk *blk;
	int ret;

	ret = usrloop_check_disk(&dev->info);
	if (!ret)
		ret = usrloop_charge(&dev->charge, disk_pages(&dev->info));
	if (ret)
		return ret;
	blk = kzalloc(sizeof(*blk), GFP_KERNEL_ACCOUNT);
	if (!blk)
		return -ENOMEM;
	blk->tags.ops = &usrloop_blk_ops;
	blk->tags.nr_hw_queues = dev->info.queues;
	blk->tags.queue_depth = dev->info.depth;
	blk->tags.numa_node = NUMA_NO_NODE;
	/*
	 * STACKING: going offline, the last processor of a queue does not wait for its requests.
	 * They may wait long for a server, or for one that suspend has frozen already; and they
	 * need no processor of the queue's to be completed.
	 */
	blk->tags.flags = USRLOOP_MQ_FLAGS | BLK_MQ_F_STACKING;
	blk->tags.driver_data = dev;
	/* How often is looked: a server that got its request a bit later has not twice the time. */
	if (dev->info.timeout_ms)
		blk->tags.timeout = max(msecs_to_jiffies(dev->info.timeout_ms) / 4, 1UL);
	ret = blk_mq_alloc_tag_set(&blk->tags);
	if (ret) {
		kfree(blk);
		return ret;
	}
	init_rwsem(&blk->telling);
	mutex_init(&blk->resizing);
	dev->blk = blk;
	return 0;
}

static void disk_free(struct usrloop_dev *dev)
{
	blk_mq_free_tag_set(&dev->blk->tags);
	mutex_destroy(&dev->blk->resizing);
	kfree(dev->blk);
}

static const struct block_device_operations disk_fops = {
	.owner = THIS_MODULE,
};

static int disk_start(struct usrloop_dev *dev)
{
	struct gendisk *disk;
	int ret;

	disk = usrloop_alloc_disk(&dev->blk->tags, &dev->info, dev);
	if (IS_ERR(disk))
		return PTR_ERR(disk);
	snprintf(disk->disk_name, sizeof(disk->disk_name), "usrblk%u", dev->info.id);
	disk->fops = &disk_fops;
	disk->private_data = dev;
	set_capacity(disk, dev->info.blk.size >> SECTOR_SHIFT);
	set_disk_ro(disk, dev->info.features & USRLOOP_BLK_READ_ONLY);
	/*
	 * Not now: the thread that serves may be in START. The first open() looks for partitions.
	 * What udev reads in sysfs is complete by the uevent that device_add_disk() sends.
	 */
	set_bit(GD_SUPPRESS_PART_SCAN, &disk->state);
	/*
	 * A user's disk may be slow on purpose, and sync waits for all its dirty pages. So it may
	 * have a hundredth of what the system may have, and no more, as with FUSE.
	 */
	if (!dev->privileged) {
		disk->bdi->capabilities |= BDI_CAP_STRICTLIMIT;
		bdi_set_max_ratio(disk->bdi, 1);
	}
	ret = device_add_disk(NULL, disk, usrloop_disk_groups);
	if (ret) {
		put_disk(disk);
		return ret;
	}
	/* The kernel reads no partition table that a user without privileges may have written. */
	if (dev->privileged) {
		set_bit(GD_NEED_PART_SCAN, &disk->state);
		clear_bit(GD_SUPPRESS_PART_SCAN, &disk->state);
	}
	dev->blk->disk = disk;
	return 0;
}

static void disk_stop(struct usrloop_dev *dev)
{
	/* What disk_resized() may wait for has failed by now. */
	down_write(&dev->blk->telling);
	up_write(&dev->blk->telling);
	del_gendisk(dev->blk->disk);
	put_disk(dev->blk->disk);
	dev->blk->disk = NULL;
}

static bool disk_in_use(struct usrloop_dev *dev)
{
	return disk_openers(dev->blk->disk) > 0;
}

static int disk_resize(struct usrloop_dev *dev, u64 size)
{
	if (!size || size % dev->info.blk.logical_block || size > (u64)LLONG_MAX)
		return -EINVAL;
	WRITE_ONCE(dev->info.blk.size, size);
	if (!dev->blk->disk)
		return 0;
	down_read(&dev->blk->telling);	/* and so the disk stays */
	return 1;
}

/* Of several at once each sets the last size that was asked for. */
static void disk_resized(struct usrloop_dev *dev)
{
	struct usrloop_blk *blk = dev->blk;
	unsigned int noio;

	/* A server that resizes its own disk must not wait for memory that this disk is to free. */
	noio = memalloc_noio_save();
	mutex_lock(&blk->resizing);
	set_capacity_and_notify(blk->disk, READ_ONCE(dev->info.blk.size) >> SECTOR_SHIFT);
	mutex_unlock(&blk->resizing);
	memalloc_noio_restore(noio);
	up_read(&blk->telling);
}

const struct usrloop_kind usrloop_blk_kind = {
	.name		= "usrblk",
	.create		= disk_create,
	.free		= disk_free,
	.start		= disk_start,
	.stop		= disk_stop,
	.in_use		= disk_in_use,
	.attached	= usrloop_blk_attached,
	.detached	= usrloop_blk_detached,
	.resize		= disk_resize,
	.resized	= disk_resized,
	.collect	= usrloop_blk_collect,
	.finish		= usrloop_blk_finish,
#if IS_ENABLED(CONFIG_USRDRV)
	.zc		= &usrloop_zc_blk,
#endif
};
