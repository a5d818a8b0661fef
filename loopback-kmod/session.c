// SPDX-License-Identifier: GPL-2.0
/*
 * A session's memory: rings of all queues, then the slots that data travels in.
 *
 * See docs/design/slots.md.
 */
#include <linux/capability.h>
#include <linux/mm.h>
#include <linux/overflow.h>
#include <linux/pid.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "usrloop.h"

/**
 * usrloop_layout() - where things are in a session's memory
 * @info:	device; queues, depth and sizes were checked
 * @layout:	result
 *
 * Return: 0; -E2BIG it would be more than USRLOOP_MAX_SESSION.
 */
int usrloop_layout(const struct usrloop_info *info, struct usrloop_layout *layout)
{
	bool net = info->type == USRLOOP_NET;
	u32 ring = sizeof(struct usrloop_ring);
	u64 slots = (u64)info->depth * (net ? 2 : 1);

	layout->sq = ring;
	ring += info->depth * sizeof(struct usrloop_sqe);
	layout->cq = ring;
	ring += info->depth * sizeof(struct usrloop_cqe);
	layout->rx = net ? ring : 0;
	if (net)
		ring += info->depth * sizeof(struct usrloop_rxe);
	layout->ring_stride = PAGE_ALIGN(ring);
	if (net && usrloop_zero_copy(info))
		layout->slot_size = USRLOOP_NET_TABLE +
				    USRLOOP_NET_SEGMENTS * sizeof(struct usrloop_segment);
	else if (net)
		layout->slot_size = PAGE_ALIGN(USRLOOP_PACKET_MAX);
	else if (usrloop_zero_copy(info))
		layout->slot_size = info->blk.max_segments * sizeof(struct usrloop_segment);
	else
		layout->slot_size = PAGE_ALIGN(info->blk.max_io);
	/*
	 * A chip's scatter list may break at 64 KiB: a slot never lies across more such borders
	 * than it must.
	 */
	layout->data = ALIGN((u64)info->queues * layout->ring_stride, SZ_64K);
	layout->data_stride = PAGE_ALIGN(slots * layout->slot_size);
	layout->size = PAGE_ALIGN(layout->data + info->queues * layout->data_stride);
	return layout->size > USRLOOP_MAX_SESSION ? -E2BIG : 0;
}

static void session_init_end(struct usrloop_session *s, struct usrloop_queue *q)
{
	struct usrloop_end *end = &s->end[q->index];
	const struct usrloop_layout *l = &s->layout;

	end->queue = q;
	end->session = s;
	end->ring = s->mem + (size_t)q->index * l->ring_stride;
	end->sq = (void *)end->ring + l->sq;
	end->cq = (void *)end->ring + l->cq;
	end->rx = (void *)end->ring + l->rx;
	end->data = s->mem + l->data + q->index * l->data_stride;
	end->mask = q->dev->info.depth - 1;
	end->slot_size = l->slot_size;
	rcuwait_init(&end->wait);
}

/* What a server has the kernel keep for it. */
static unsigned long session_pages(const struct usrloop_dev *dev,
				   const struct usrloop_layout *layout)
{
	unsigned long pages = layout->size >> PAGE_SHIFT;

	return usrloop_zero_copy(&dev->info) ? pages + usrloop_zc_pages(dev) : pages;
}

/**
 * usrloop_session_alloc() - make the memory of a server
 * @dev:	counted as long as the session is there
 * @claim_fd:	file of the function that data are mapped for, if the device has that feature
 *
 * Context: process; the memory counts against the caller's RLIMIT_MEMLOCK and its memory cgroup.
 * Return: session, all its memory zero; or -ENOMEM, -EPERM no right to zero copy, or an error of
 * usrloop_zc_begin(), as a pointer.
 */
struct usrloop_session *usrloop_session_alloc(struct usrloop_dev *dev, int claim_fd)
{
	struct usrloop_session *s;
	unsigned int i;
	int ret;

	/* Whoever it is that was handed a claim and a device: see usrloop_check_rights(). */
	if (usrloop_zero_copy(&dev->info) && !capable(CAP_SYS_RAWIO))
		return ERR_PTR(-EPERM);
	s = kvzalloc(struct_size(s, end, dev->info.queues), GFP_KERNEL_ACCOUNT);
	if (!s)
		return ERR_PTR(-ENOMEM);
	init_waitqueue_head(&s->poll);
	ret = usrloop_layout(&dev->info, &s->layout);
	if (!ret)
		ret = usrloop_charge(&s->charge, session_pages(dev, &s->layout));
	if (ret)
		goto err_free;
	ret = -ENOMEM;
	s->mem = __vmalloc(s->layout.size, GFP_KERNEL_ACCOUNT | __GFP_ZERO);
	if (!s->mem)
		goto err_charge;
	s->dev = dev;
	s->pid = get_pid(task_tgid(current));
	usrloop_dev_get(dev);
	for (i = 0; i < dev->info.queues; i++)
		session_init_end(s, &dev->queue[i]);
	if (usrloop_zero_copy(&dev->info)) {
		ret = usrloop_zc_begin(s, claim_fd);
		if (ret) {
			usrloop_session_free(s);
			return ERR_PTR(ret);
		}
	}
	return s;

err_charge:
	usrloop_uncharge(&s->charge);
err_free:
	kvfree(s);
	return ERR_PTR(ret);
}

/**
 * usrloop_session_mmap() - let the server see its session's memory
 * @s:		session
 * @vma:	shared
 *
 * A child of the server does not get the mapping: its death is to be seen.
 *
 * Context: process, the mmap lock held for writing.
 * Return: 0; -EINVAL there is not so much; -ENOMEM.
 */
int usrloop_session_mmap(struct usrloop_session *s, struct vm_area_struct *vma)
{
	unsigned long pages = s->layout.size >> PAGE_SHIFT, i;
	int ret;

	if (vma->vm_pgoff >= pages || vma_pages(vma) > pages - vma->vm_pgoff)
		return -EINVAL;
	usrloop_vma_set(vma, VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP);
	for (i = 0; i < vma_pages(vma); i++) {
		void *at = s->mem + ((vma->vm_pgoff + i) << PAGE_SHIFT);

		ret = vm_insert_page(vma, vma->vm_start + (i << PAGE_SHIFT), vmalloc_to_page(at));
		if (ret)
			return ret;
	}
	return 0;
}

/**
 * usrloop_session_free() - give everything back
 * @s:	detached; no thread is in ENTER, no mapping is left
 */
void usrloop_session_free(struct usrloop_session *s)
{
	unsigned int i;

	usrloop_events_clear(s);
	for (i = 0; i < s->dev->info.queues; i++)
		usrloop_finish_clear(&s->end[i]);
	if (s->zc)
		usrloop_zc_end(s);
	usrloop_uncharge(&s->charge);
	vfree(s->mem);
	put_pid(s->pid);
	usrloop_dev_put(s->dev);
	kvfree(s);
}
