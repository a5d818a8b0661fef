// SPDX-License-Identifier: GPL-2.0
/*
 * Data that are not copied: the memory that they are in is mapped for the PCI function that the
 * server has claimed (usrdrv-patch), and a slot says where that function finds it.
 *
 * What a function was told of is its until the server says that it is done with it, or the claim
 * ends, for which the function loses the bus and is reset. So before anything is taken from a
 * server that has not said so, its claim is ended.
 *
 * What is mapped changes between usrdrv_claim_enter() and usrdrv_claim_exit(), by the owner of the
 * slot; or when the claim cannot be entered any more, by the notifier.
 */
#include <linux/module.h>
#include <linux/sched/mm.h>

#include "compat.h"
#include "usrloop.h"

#if IS_ENABLED(CONFIG_USRDRV)
#include "zerocopy.h"

/**
 * usrloop_zc_end_claim() - have everything unmapped, whatever the server does
 * @zc:		of a session
 *
 * Context: process; the claim was not entered.
 */
void usrloop_zc_end_claim(struct usrloop_zc *zc)
{
	/* Memory that this takes must not be had by waiting for the very disk that it frees. */
	unsigned int flags = memalloc_noio_save();

	usrdrv_claim_end(zc->claim);
	memalloc_noio_restore(flags);
}

/* The claim ends. The function reaches no memory, and no thread is in the claim. */
static int zc_on_quiesced(struct notifier_block *nb, unsigned long action, void *data)
{
	struct usrloop_zc *zc = container_of(nb, struct usrloop_zc, quiesced);

	zc->ops->unmap_all(zc);
	return NOTIFY_OK;
}

/* With the function bound, so that its limits are not another driver's. */
static int zc_begin(struct usrloop_session *s)
{
	struct usrloop_zc *zc = s->zc;
	int index, ret;

	ret = usrdrv_claim_notify(zc->claim, &zc->quiesced);
	if (ret)
		return ret;
	index = usrdrv_claim_enter(zc->claim);
	if (index < 0) {
		ret = index;
	} else {
		/* The claim's end, which a disk may wait for, waits for this. */
		unsigned int noio = memalloc_noio_save();

		ret = zc->ops->begin(s);
		memalloc_noio_restore(noio);
		if (ret)
			zc->ops->unmap_all(zc);
		usrdrv_claim_exit(zc->claim, index);
	}
	if (ret)
		usrdrv_claim_forget(zc->claim, &zc->quiesced);
	return ret;
}

/**
 * usrloop_zc_pages() - what zero copy takes besides the session's memory
 * @dev:	device that has the feature
 *
 * Return: pages of tables, and of what frames from the wire go to.
 */
unsigned long usrloop_zc_pages(const struct usrloop_dev *dev)
{
	return dev->kind->zc->pages(&dev->info);
}

/**
 * usrloop_zc_begin() - have a session's data mapped instead of copied
 * @s:		its device has ZERO_COPY; its ends are made
 * @claim_fd:	of usr_pci_open()
 *
 * Context: process.
 * Return: 0; -EBADF, -EINVAL no claim; -ENODEV it has ended; -ENOMEM.
 */
int usrloop_zc_begin(struct usrloop_session *s, int claim_fd)
{
	const struct usrloop_info *info = &s->dev->info;
	const struct usrloop_zc_ops *ops = s->dev->kind->zc;
	struct usrloop_zc *zc;
	unsigned int i;
	int ret;

	zc = ops->alloc(info);
	if (!zc)
		return -ENOMEM;
	zc->ops = ops;
	zc->quiesced.notifier_call = zc_on_quiesced;
	zc->claim = usrdrv_claim_fdget(claim_fd);
	ret = PTR_ERR_OR_ZERO(zc->claim);
	if (ret)
		goto err_free;
	s->zc = zc;
	ret = zc_begin(s);
	if (ret)
		goto err_put;
	for (i = 0; i < info->queues; i++)
		s->end[i].zc = zc;
	return 0;

err_put:
	s->zc = NULL;
	usrdrv_claim_put(zc->claim);
err_free:
	ops->free(zc);
	return ret;
}

/* No server was told of what is mapped. */
static void zc_give_back(struct usrloop_zc *zc)
{
	int index = usrdrv_claim_enter(zc->claim);

	if (index < 0) {
		/* It is on its way out: to wait for that does it. */
		usrloop_zc_end_claim(zc);
		return;
	}
	zc->ops->unmap_all(zc);
	usrdrv_claim_exit(zc->claim, index);
}

/* Undo usrloop_zc_begin(), for a session that is detached. Context: process. */
void usrloop_zc_end(struct usrloop_session *s)
{
	struct usrloop_zc *zc = s->zc;

	if (!s->generation)
		zc_give_back(zc);
	else if (zc->ops->mapped(zc, true))
		usrloop_zc_end_claim(zc);
	usrdrv_claim_forget(zc->claim, &zc->quiesced);
	usrdrv_claim_put(zc->claim);
	zc->ops->free(zc);
}

/**
 * usrloop_zc_recall() - take back what a server has not said to be done with
 * @s:		session whose queues have lost their ends
 *
 * Context: process; dev->lock may be held.
 */
void usrloop_zc_recall(struct usrloop_session *s)
{
	struct usrloop_zc *zc = s->zc;

	if (zc->ops->mapped(zc, false))
		usrloop_zc_end_claim(zc);
	if (zc->ops->recalled)
		zc->ops->recalled(zc);
}

/**
 * usrloop_zc_enter() - begin to map, unmap, or both
 * @zc:		of a session that is not let go of meanwhile
 *
 * Context: any.
 * Return: for usrloop_zc_exit(); -ENODEV the claim is going, and its server with it.
 */
int usrloop_zc_enter(struct usrloop_zc *zc)
{
	return usrdrv_claim_enter(zc->claim);
}

void usrloop_zc_exit(struct usrloop_zc *zc, int index)
{
	usrdrv_claim_exit(zc->claim, index);
}

USRLOOP_IMPORT_NS(USRDRV);
#endif
