// SPDX-License-Identifier: GPL-2.0
/* The numbers of devices: how they are found, and how many a user may have. */
#include <linux/cred.h>
#include <linux/idr.h>
#include <linux/module.h>
#include <linux/sched/mm.h>

#include "usrloop.h"

static DEFINE_MUTEX(idr_lock);
static DEFINE_IDR(blk_devices);
static DEFINE_IDR(net_devices);

static struct idr *registry_of(u32 type)
{
	return type == USRLOOP_NET ? &net_devices : &blk_devices;
}

/* How many devices of both kinds a user without privileges has. idr_lock held. */
static unsigned int registry_count(kuid_t payer)
{
	struct usrloop_dev *dev;
	unsigned int n = 0;
	int id;

	idr_for_each_entry(&blk_devices, dev, id)
		n += !dev->privileged && uid_eq(dev->payer, payer);
	idr_for_each_entry(&net_devices, dev, id)
		n += !dev->privileged && uid_eq(dev->payer, payer);
	return n;
}

/**
 * usrloop_dev_publish() - give a device its number, and let it be found
 * @dev:	device; the number wanted, or USRLOOP_ANY, becomes the one that it has
 *
 * It is counted, and keeps the module, until usrloop_dev_forget().
 *
 * Return: 0; -EEXIST the number is taken; -ENOSPC all are; -EDQUOT its maker has as many as it
 * may have; -ENOMEM.
 */
int usrloop_dev_publish(struct usrloop_dev *dev)
{
	u32 wanted = dev->info.id, from = 0, to = USRLOOP_MAX_DEVICES;
	unsigned int noio;
	int id;

	if (wanted != USRLOOP_ANY) {
		from = wanted;
		to = wanted + 1;
	}
	/* Memory must not be had by waiting for a disk whose next server waits for this lock. */
	noio = memalloc_noio_save();
	mutex_lock(&idr_lock);
	if (!dev->privileged && registry_count(dev->payer) >= USRLOOP_USER_DEVICES)
		id = -EDQUOT;
	else
		id = idr_alloc(registry_of(dev->info.type), dev, from, to, GFP_KERNEL_ACCOUNT);
	if (id >= 0) {
		dev->info.id = id;
		usrloop_dev_get(dev);
		__module_get(THIS_MODULE);
	}
	mutex_unlock(&idr_lock);
	memalloc_noio_restore(noio);
	if (id >= 0)
		return 0;
	return id == -ENOSPC && wanted != USRLOOP_ANY ? -EEXIST : id;
}

/* Undo usrloop_dev_publish(). */
void usrloop_dev_forget(struct usrloop_dev *dev)
{
	mutex_lock(&idr_lock);
	idr_remove(registry_of(dev->info.type), dev->info.id);
	mutex_unlock(&idr_lock);
	usrloop_dev_put(dev);
	module_put(THIS_MODULE);
}

/**
 * usrloop_dev_find() - look a device up
 * @type:	USRLOOP_BLOCK or USRLOOP_NET
 * @id:		number
 *
 * Return: device, counted for the caller; NULL.
 */
struct usrloop_dev *usrloop_dev_find(u32 type, u32 id)
{
	struct usrloop_dev *dev = NULL;

	if (type != USRLOOP_BLOCK && type != USRLOOP_NET)
		return NULL;
	mutex_lock(&idr_lock);
	if (id < USRLOOP_MAX_DEVICES)
		dev = idr_find(registry_of(type), id);
	if (dev)
		usrloop_dev_get(dev);
	mutex_unlock(&idr_lock);
	return dev;
}

/**
 * usrloop_dev_each() - do something to each device
 * @act:	what; finds no device and makes none
 *
 * Context: process.
 */
void usrloop_dev_each(void (*act)(struct usrloop_dev *dev))
{
	struct usrloop_dev *dev;
	int id;

	mutex_lock(&idr_lock);
	idr_for_each_entry(&blk_devices, dev, id)
		act(dev);
	idr_for_each_entry(&net_devices, dev, id)
		act(dev);
	mutex_unlock(&idr_lock);
}

/* No device is left: each keeps the module. */
void usrloop_registry_exit(void)
{
	idr_destroy(&blk_devices);
	idr_destroy(&net_devices);
}
