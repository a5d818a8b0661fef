// SPDX-License-Identifier: MIT
/* The host's memory: bus mastering, descriptors (section 4.1). */
#include <errno.h>

#include "nic.h"

bool nic_can_master(const struct nic *n)
{
	return (n->cfg_space[0x04] & 4) && nic_powered(n);
}

static int aborted(struct nic *n, int err)
{
	if (err) {
		n->count.master_aborts++;
		n->cfg_space[0x07] |= 0x20;	/* received master abort */
		nic_raise(n, DP83820_ISR_RMABT);
	}
	return err;
}

int nic_dma_read(struct nic *n, uint64_t addr, void *buf, size_t len)
{
	const struct usrdrv_model_host *h = &n->base.host;

	return !len ? 0 : aborted(n, h->dma_read ? h->dma_read(h->ctx, addr, buf, len) : -EFAULT);
}

int nic_dma_write(struct nic *n, uint64_t addr, const void *buf, size_t len)
{
	const struct usrdrv_model_host *h = &n->base.host;

	return !len ? 0 : aborted(n, h->dma_write ? h->dma_write(h->ctx, addr, buf, len) : -EFAULT);
}

/* Read a descriptor (section 4.1). */
int nic_fetch(struct nic *n, uint64_t at, struct descriptor *d)
{
	bool wide = n->cfg & DP83820_CFG_M64ADDR, extended = n->cfg & DP83820_CFG_EXTSTS_EN;
	uint32_t w[6] = { 0 };
	int ret;

	n->count.descriptors++;
	if (nic_fault(n, DP83820_FAULT_FETCH, 0))
		return aborted(n, -EFAULT);
	ret = nic_dma_read(n, at, w, (wide ? 20 : 12) + (extended ? 4 : 0));
	if (ret)
		return ret;
	if (wide)
		*d = (struct descriptor){ .link = w[0] | (uint64_t)w[1] << 32, .buf = w[2] | (uint64_t)w[3] << 32,
					  .cmdsts = w[4], .extsts = w[5] };
	else
		*d = (struct descriptor){ .link = w[0], .buf = w[1], .cmdsts = w[2], .extsts = w[3] };
	d->link &= ~(uint64_t)3;
	return 0;
}

/* Write a descriptor's status; OWN changes hands, so cmdsts goes last. */
int nic_store_status(struct nic *n, uint64_t at, uint32_t cmdsts, const uint32_t *extsts)
{
	uint64_t cmdsts_at = at + (n->cfg & DP83820_CFG_M64ADDR ? 16 : 8);
	int ret = 0;

	if (extsts && (n->cfg & DP83820_CFG_EXTSTS_EN))
		ret = nic_dma_write(n, cmdsts_at + 4, extsts, 4);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	return ret ? ret : nic_dma_write(n, cmdsts_at, &cmdsts, 4);
}

/* The list went on behind a completed descriptor? *there: dp is at the next one. */
int nic_refresh(struct nic *n, struct queue *q, bool *there)
{
	struct descriptor d;
	int ret;

	*there = true;
	if (!q->done)
		return 0;
	ret = nic_fetch(n, q->dp, &d);
	if (ret)
		return ret;
	*there = d.link != 0;
	if (*there) {
		q->dp = d.link;
		q->done = false;
	}
	return 0;
}
