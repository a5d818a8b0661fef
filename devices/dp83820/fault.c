// SPDX-License-Identifier: MIT
/* Whether something that was asked to break does so now. */
#include "nic.h"

static bool take(struct nic *n, unsigned int kind, unsigned int direction, double *ms)
{
	for (unsigned int i = 0; i < n->faults.n; i++) {
		struct dp83820_fault *f = &n->fault[i];

		if (f->base.kind != kind || (direction && f->base.on && !(f->base.on & direction)))
			continue;
		if (++f->seen % (f->every ? f->every : 1))
			continue;
		*ms = f->ms;
		faults_hit(&n->faults, &f->base);
		return true;
	}
	return false;
}

/* Whether this breaks now; counts a hit. */
bool nic_fault(struct nic *n, unsigned int kind, unsigned int direction)
{
	double ms;

	return n->faults.n && take(n, kind, direction, &ms);
}

/* The same for a fault that lasts; 0: no. */
double nic_fault_ms(struct nic *n, unsigned int kind, unsigned int direction)
{
	double ms = 0;

	return n->faults.n && take(n, kind, direction, &ms) ? ms : 0;
}
