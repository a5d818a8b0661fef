// SPDX-License-Identifier: MIT
/* Whether something that was asked to break does so now. */
#include <string.h>

#include "nic.h"

/* Mend one. */
void nic_fault_drop(struct nic *n, unsigned int i)
{
	n->faults--;
	memmove(&n->fault[i], &n->fault[i + 1], (n->faults - i) * sizeof(n->fault[0]));
}

static bool take(struct nic *n, unsigned int kind, unsigned int direction, double *ms)
{
	for (unsigned int i = 0; i < n->faults; i++) {
		struct dp83820_fault *f = &n->fault[i];

		if (f->kind != kind || (direction && f->on && !(f->on & direction)))
			continue;
		if (++f->seen % (f->every ? f->every : 1))
			continue;
		*ms = f->ms;
		f->hits++;
		if (f->count && f->hits >= f->count)
			nic_fault_drop(n, i);
		return true;
	}
	return false;
}

/* Whether this breaks now; counts a hit. */
bool nic_fault(struct nic *n, unsigned int kind, unsigned int direction)
{
	double ms;

	return n->faults && take(n, kind, direction, &ms);
}

/* The same for a fault that lasts; 0: no. */
double nic_fault_ms(struct nic *n, unsigned int kind, unsigned int direction)
{
	double ms = 0;

	return n->faults && take(n, kind, direction, &ms) ? ms : 0;
}
