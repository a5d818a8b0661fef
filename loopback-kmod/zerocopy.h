/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the parts of zero copy share: zerocopy.c has the claim, zc_blk.c and zc_net.c what is
 * mapped.
 */
#ifndef USRLOOP_ZEROCOPY_H
#define USRLOOP_ZEROCOPY_H

#include <linux/notifier.h>
#include <linux/usrdrv.h>

#include "usrloop.h"

struct device;

/*
 * What is special to a kind. A caller that maps or unmaps is in the claim, or the claim cannot be
 * entered any more.
 */
struct usrloop_zc_ops {
	/* How much memory it takes to have a session. */
	unsigned long (*pages)(const struct usrloop_info *info);
	/* Make the kind's struct, whose first member is a struct usrloop_zc; or NULL. */
	struct usrloop_zc *(*alloc)(const struct usrloop_info *info);
	void (*free)(struct usrloop_zc *zc);
	/* Prepare the device, and map what a session has from its beginning. 0 or -errno. */
	int (*begin)(struct usrloop_session *session);
	void (*unmap_all)(struct usrloop_zc *zc);
	/*
	 * Whether something is mapped that others wait for; @any: whether something is mapped at
	 * all.
	 */
	bool (*mapped)(const struct usrloop_zc *zc, bool any);
	/* May be NULL. What others wait for is not mapped any more: it can be let go of. */
	void (*recalled)(struct usrloop_zc *zc);
};

struct usrloop_zc {
	const struct usrloop_zc_ops *ops;
	struct usrdrv_claim *claim;
	struct notifier_block quiesced;
};

void usrloop_zc_end_claim(struct usrloop_zc *zc);

static inline struct device *usrloop_zc_device(const struct usrloop_zc *zc)
{
	return usrdrv_claim_device(zc->claim);
}

#endif
