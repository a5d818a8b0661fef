// SPDX-License-Identifier: GPL-2.0
/*
 * A device as an object: its references, and work that is put off to a worker and holds one. The
 * work itself is in device.c.
 */
#include <linux/kref.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "usrloop.h"

/* What it does lets requests of disks end: it must run when memory is short. */
static struct workqueue_struct *disk_work;
/* It waits for RTNL, whose owner may wait for memory, and so for a disk: none waits for it. */
static struct workqueue_struct *net_work;

struct workqueue_struct *usrloop_wq(const struct usrloop_dev *dev)
{
	return dev->info.type == USRLOOP_NET ? net_work : disk_work;
}

void usrloop_dev_get(struct usrloop_dev *dev)
{
	kref_get(&dev->ref);
}

static void object_free(struct kref *ref)
{
	struct usrloop_dev *dev = container_of(ref, struct usrloop_dev, ref);
	unsigned int i;

	if (dev->kind_made)
		dev->kind->free(dev);
	for (i = 0; dev->queue && i < dev->info.queues; i++)
		kvfree(dev->queue[i].slot);
	kfree(dev->queue);
	usrloop_uncharge(&dev->charge);
	mutex_destroy(&dev->lock);
	kfree(dev);
}

void usrloop_dev_put(struct usrloop_dev *dev)
{
	kref_put(&dev->ref, object_free);
}

/* Have a work of a device done, which puts its reference to it. Context: any. */
static void object_queue(struct usrloop_dev *dev, struct work_struct *work)
{
	usrloop_dev_get(dev);
	if (!queue_work(usrloop_wq(dev), work))
		usrloop_dev_put(dev);	/* it is on its way already */
}

/**
 * usrloop_dev_vanish() - the kernel takes an interface away by itself: stop the device
 * @dev:	network device
 *
 * Context: any; it is done by a worker.
 */
void usrloop_dev_vanish(struct usrloop_dev *dev)
{
	object_queue(dev, &dev->vanish);
}

/**
 * usrloop_dev_overdue() - a server did not answer in time: take the device away from it
 * @dev:	device
 * @generation:	the server's
 *
 * Context: any; it is done by a worker.
 */
void usrloop_dev_overdue(struct usrloop_dev *dev, u32 generation)
{
	WRITE_ONCE(dev->overdue, generation);
	object_queue(dev, &dev->revoke);
}

/**
 * usrloop_dev_resend() - send what is held though there is a server
 * @dev:	block device
 * @delay:	jiffies from now
 *
 * Context: any; it is done by a worker.
 */
void usrloop_dev_resend(struct usrloop_dev *dev, unsigned long delay)
{
	usrloop_dev_get(dev);
	if (mod_delayed_work(usrloop_wq(dev), &dev->resend, delay))
		usrloop_dev_put(dev);	/* it was on its way already */
}

int usrloop_work_init(void)
{
	disk_work = alloc_workqueue("usrloop", WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	net_work = disk_work ? alloc_workqueue("usrloop_net", WQ_UNBOUND, 0) : NULL;
	if (net_work)
		return 0;
	if (disk_work)
		destroy_workqueue(disk_work);
	return -ENOMEM;
}

/* No device is left: each keeps the module. Work of one that is gone may still be on its way. */
void usrloop_work_exit(void)
{
	destroy_workqueue(net_work);
	destroy_workqueue(disk_work);
}
