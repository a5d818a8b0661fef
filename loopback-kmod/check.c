// SPDX-License-Identifier: GPL-2.0
/*
 * CREATE: what may be asked for and by whom, and whose memory it takes.
 *
 * Whoever can open /dev/usrloop may make devices. One without CAP_SYS_ADMIN must not make others
 * wait for it without end, use up what there is of devices, or have the kernel read what it did not
 * read before.
 *
 * See docs/design/rights.md.
 */
#include <linux/blkdev.h>
#include <linux/capability.h>
#include <linux/ctype.h>
#include <linux/log2.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>
#include <linux/user_namespace.h>

#include "usrloop.h"

static bool check_power_in_range(u32 value, u32 from, u32 to)
{
	return value >= from && value <= to && is_power_of_2(value);
}

/* Fields that only we fill in, and the room behind what the type uses. */
static bool check_unused_is_zero(const struct usrloop_info *info)
{
	size_t used = info->type == USRLOOP_BLOCK ? sizeof(info->blk) : sizeof(info->net);

	BUILD_BUG_ON(sizeof(info->blk) > sizeof(info->room));
	BUILD_BUG_ON(sizeof(info->net) > sizeof(info->room));
	return !info->state && !info->generation && !info->server_pid && !info->ifindex &&
	       !info->refused && (info->owner == 0 || info->flags & USRLOOP_OWNER) &&
	       !memchr_inv(info->room + used, 0, sizeof(info->room) - used);
}

/**
 * usrloop_check_info() - look for what cannot be in what CREATE asks for
 * @info:	all but what is special to a type
 *
 * Return: 0; -EOPNOTSUPP an unknown feature, flag or policy; -EINVAL.
 */
int usrloop_check_info(const struct usrloop_info *info)
{
	u32 known = info->type == USRLOOP_BLOCK ? USRLOOP_BLK_FEATURES : USRLOOP_NET_FEATURES;
	const char *c;

	if (info->type != USRLOOP_BLOCK && info->type != USRLOOP_NET)
		return -EINVAL;
	if (info->features & ~known || info->flags & ~USRLOOP_FLAGS ||
	    info->policy >= USRLOOP_POLICIES)
		return -EOPNOTSUPP;
	if (info->id != USRLOOP_ANY && info->id >= USRLOOP_MAX_DEVICES)
		return -EINVAL;
	if (!info->queues || info->queues > USRLOOP_MAX_QUEUES ||
	    !check_power_in_range(info->depth, 1, USRLOOP_MAX_DEPTH) ||
	    info->poll_us > USRLOOP_MAX_POLL_US || !check_unused_is_zero(info))
		return -EINVAL;
	if (strnlen(info->label, sizeof(info->label)) == sizeof(info->label))
		return -EINVAL;
	for (c = info->label; *c; c++)
		if (iscntrl(*c))
			return -EINVAL;
	return 0;
}

static bool check_is_short(u32 ms)
{
	return ms && ms <= USRLOOP_USER_MS;
}

/**
 * usrloop_check_rights() - whether the caller may have such a device
 * @info:	what it asks for, as checked by usrloop_check_info()
 * @dev:	owner, payer and privileged are filled in
 *
 * Return: 0; -EPERM; -EINVAL the owner is no user of the caller's namespace.
 */
int usrloop_check_rights(const struct usrloop_info *info, struct usrloop_dev *dev)
{
	struct user_namespace *ns = current_user_ns();

	dev->privileged = capable(CAP_SYS_ADMIN);
	dev->owner = current_euid();
	if (info->flags & USRLOOP_OWNER) {
		dev->owner = make_kuid(current_user_ns(), info->owner);
		if (!uid_valid(dev->owner))
			return -EINVAL;
		if (!uid_eq(dev->owner, current_euid()) && !dev->privileged)
			return -EPERM;
	}
	/* A user may be many in a namespace of its own. */
	dev->payer = current_euid();
	for (; ns != &init_user_ns; ns = ns->parent)
		dev->payer = ns->owner;
	/* A server of one may show readers what was in their pages before. */
	if (usrloop_zero_copy(info) && !capable(CAP_SYS_RAWIO))
		return -EPERM;
	if (!dev->privileged && info->type == USRLOOP_BLOCK &&
	    (info->policy == USRLOOP_DEATH_REISSUE || !check_is_short(info->recovery_ms) ||
	     !check_is_short(info->timeout_ms)))
		return -EPERM;
	return 0;
}

/**
 * usrloop_charge() - have pages count against the caller's RLIMIT_MEMLOCK
 * @charge:	filled in, for usrloop_uncharge()
 * @pages:	how many
 *
 * They count together with memory that is kept for DMA, such as that of usrdrv's calls.
 *
 * Context: process.
 * Return: 0; -ENOMEM it would be more than the limit, and the caller has no CAP_IPC_LOCK.
 */
int usrloop_charge(struct usrloop_charge *charge, unsigned long pages)
{
	unsigned long limit = rlimit(RLIMIT_MEMLOCK) >> PAGE_SHIFT;
	struct mm_struct *mm = current->mm;

	if (atomic64_add_return(pages, &mm->pinned_vm) > limit && !capable(CAP_IPC_LOCK)) {
		atomic64_sub(pages, &mm->pinned_vm);
		return -ENOMEM;
	}
	mmgrab(mm);
	charge->mm = mm;
	charge->pages = pages;
	return 0;
}

/* Undo usrloop_charge(), if that was done. */
void usrloop_uncharge(struct usrloop_charge *charge)
{
	if (!charge->mm)
		return;
	atomic64_sub(charge->pages, &charge->mm->pinned_vm);
	mmdrop(charge->mm);
	charge->mm = NULL;
}

static int check_segments(struct usrloop_info *info)
{
	struct usrloop_blk_params *p = &info->blk;

	if (p->reserved)
		return -EINVAL;
	if (!(info->features & USRLOOP_BLK_ZERO_COPY)) {
		p->max_segments = USHRT_MAX;
		p->segment_mask = U32_MAX;
		return 0;
	}
	if (!p->segment_mask)
		p->segment_mask = U32_MAX;
	if (!p->max_segments || p->max_segments > USRLOOP_MAX_SEGMENTS ||
	    !is_power_of_2(p->segment_mask + 1ULL) || p->segment_mask < PAGE_SIZE - 1)
		return -EINVAL;
	return 0;
}

/**
 * usrloop_check_disk() - check what is asked of a disk, and fill in what is left to the kernel
 * @info:	of CREATE
 *
 * Return: 0; -EINVAL.
 */
int usrloop_check_disk(struct usrloop_info *info)
{
	struct usrloop_blk_params *p = &info->blk;

	if (!is_power_of_2(p->logical_block) || p->logical_block < SECTOR_SIZE ||
	    p->logical_block > SZ_4K || !is_power_of_2(p->physical_block) ||
	    p->physical_block < p->logical_block || p->physical_block > SZ_64K ||
	    !is_power_of_2(p->max_io) || p->max_io < PAGE_SIZE || p->max_io > USRLOOP_MAX_IO)
		return -EINVAL;
	if (!p->size || p->size % p->logical_block || p->size > (u64)LLONG_MAX)
		return -EINVAL;
	if (!p->discard_granularity)
		p->discard_granularity = p->physical_block;
	if (!is_power_of_2(p->discard_granularity) || p->discard_granularity < p->logical_block ||
	    p->max_discard % p->logical_block ||
	    (p->max_discard && p->max_discard < p->discard_granularity))
		return -EINVAL;
	if (!p->max_discard)
		p->max_discard = round_down(UINT_MAX, p->discard_granularity);
	if (info->features & USRLOOP_BLK_FUA && !(info->features & USRLOOP_BLK_CACHE))
		return -EINVAL;
	return check_segments(info);
}
