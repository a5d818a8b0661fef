// SPDX-License-Identifier: MIT
/* Faults on request: what wires and chips do when they break. */
#include <errno.h>

#include "nic.h"

static int start(struct faults *s, struct fault *fault)
{
	struct dp83820_fault *f = (struct dp83820_fault *)fault;
	struct nic *n = s->model;

	if (fault->kind >= DP83820_FAULT_KINDS || !(f->ms >= 0) || f->ms > 3.6e6)
		return -EINVAL;
	f->seen = 0;
	if (fault->kind != DP83820_FAULT_LINK_DOWN)
		return 0;
	fault->hits = 1;
	n->down_until = f->ms > 0 ? nic_now() + (uint64_t)(f->ms * 1e6) : NEVER;
	if (f->ms > 0)
		faults_drop(s, fault);	/* mends itself */
	nic_link_update(n, nic_now());	/* its interrupt may be another fault's hit */
	nic_kick(n);
	return 0;
}

static void mend(struct faults *s, const struct fault *fault)
{
	struct nic *n = s->model;

	if (fault->kind == DP83820_FAULT_LINK_DOWN)
		n->down_until = 0;
	nic_kick(n);
}

_Static_assert(!offsetof(struct dp83820_fault, base), "faults.c takes one for the other");

void nic_faults_init(struct nic *n)
{
	n->faults = (struct faults){
		.model = n, .lock = &n->lock, .array = n->fault, .size = sizeof(n->fault[0]),
		.start = start, .mend = mend,
	};
}

struct faults *dp83820_faults(struct usrdrv_model *model)
{
	return &to_nic(model)->faults;
}
