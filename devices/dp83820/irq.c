// SPDX-License-Identifier: MIT
/* Events and INTA# with its hold-off (section 3.5); the clock, and the kick that wakes the engine for both. */
#include <sys/eventfd.h>
#include <time.h>

#include "nic.h"

#define LATE_NS		20000u		/* how long the chip takes to notice (section 17, item 34) */
#define HOLD_UNIT_NS	100000u

uint64_t nic_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Make the engine look at the chip's state again; for whoever changed it. */
void nic_kick(struct nic *n)
{
	if (n->asleep) {
		n->asleep = false;
		eventfd_write(n->kick_fd, 1);
	}
}

static void set_inta(struct nic *n, bool level)
{
	n->inta = level;
	if (level)
		n->count.interrupts++;
	if (n->base.host.irq)
		n->base.host.irq(n->base.host.ctx, level);
}

/* INTA# = IER and an unmasked event, held off after the last one as IHR says. */
void nic_irq_update(struct nic *n)
{
	bool want = (n->ier & 1) && (n->isr & n->imr) && !n->muted && nic_powered(n);
	uint64_t now;

	if (want == n->inta)
		return;
	if (!want) {
		if (n->ihr & DP83820_IHR_TIME)
			n->holdoff_until = nic_now() + (n->ihr & DP83820_IHR_TIME) * (uint64_t)HOLD_UNIT_NS;
		set_inta(n, false);
		return;
	}
	if (n->holdoff_until) {
		now = nic_now();
		if (now < n->holdoff_until) {
			nic_kick(n);
			return;
		}
		n->holdoff_until = 0;
	}
	if (nic_fault(n, DP83820_FAULT_LOST_IRQ, 0)) {
		n->muted = true;
		return;
	}
	set_inta(n, true);
}

void nic_raise(struct nic *n, uint32_t bits)
{
	n->isr |= bits;
	if (n->isr & DP83820_ISR_HIGH)
		n->isr |= DP83820_ISR_HIBINT;
	nic_irq_update(n);
}

/* Events that silicon needs a moment for; at once if nobody waits for them. */
void nic_raise_late(struct nic *n, uint32_t bits)
{
	if (!(bits & n->imr & ~n->isr) || !(n->ier & 1)) {
		nic_raise(n, bits);
		return;
	}
	if (!n->late)
		n->late_at = nic_now() + LATE_NS;
	n->late |= bits;
	nic_kick(n);
}
