// SPDX-License-Identifier: MIT
/* Faults on request: what wires and chips do when they break. */
#include <errno.h>
#include <string.h>

#include "nic.h"

static void start(struct nic *n, struct dp83820_fault *f)
{
	if (f->kind != DP83820_FAULT_LINK_DOWN)
		return;
	f->hits = 1;
	n->down_until = f->ms > 0 ? nic_now() + (uint64_t)(f->ms * 1e6) : NEVER;
	nic_link_update(n, nic_now());
	if (f->ms > 0)
		n->faults--;	/* mends itself */
	nic_kick(n);
}

/**
 * dp83820_fault_add() - break something from now on
 * @model: the NIC
 * @fault: what; id, hits and seen are ignored
 *
 * Return: the fault's id (> 0), -EINVAL, -ENOSPC.
 */
int dp83820_fault_add(struct usrdrv_model *model, const struct dp83820_fault *fault)
{
	struct nic *n = to_nic(model);
	struct dp83820_fault *f;
	int id = -ENOSPC;

	if (fault->kind >= DP83820_FAULT_KINDS || !(fault->ms >= 0) || fault->ms > 3.6e6)
		return -EINVAL;
	pthread_mutex_lock(&n->lock);
	if (n->faults < MAX_FAULTS) {
		f = &n->fault[n->faults++];
		*f = *fault;
		f->hits = f->seen = 0;
		f->id = ++n->next_fault;
		id = (int)f->id;
		start(n, f);
	}
	pthread_mutex_unlock(&n->lock);
	return id;
}

/**
 * dp83820_fault_clear() - mend it
 * @model: the NIC
 * @id: of one fault; 0: all of them
 *
 * Return: how many were cleared, -ENOENT when @id is not there (any more).
 */
int dp83820_fault_clear(struct usrdrv_model *model, uint32_t id)
{
	struct nic *n = to_nic(model);
	int cleared = 0;

	pthread_mutex_lock(&n->lock);
	for (unsigned int i = n->faults; i-- > 0;) {
		if (id && n->fault[i].id != id)
			continue;
		if (n->fault[i].kind == DP83820_FAULT_LINK_DOWN)
			n->down_until = 0;
		nic_fault_drop(n, i);
		cleared++;
	}
	nic_kick(n);
	pthread_mutex_unlock(&n->lock);
	return id && !cleared ? -ENOENT : cleared;
}

/* Copy at most max faults; returns how many there are. */
int dp83820_fault_list(struct usrdrv_model *model, struct dp83820_fault *faults, int max)
{
	struct nic *n = to_nic(model);
	int count;

	pthread_mutex_lock(&n->lock);
	count = (int)n->faults;
	memcpy(faults, n->fault, (size_t)(count < max ? count : max) * sizeof(*faults));
	pthread_mutex_unlock(&n->lock);
	return count;
}
