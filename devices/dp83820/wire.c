// SPDX-License-Identifier: MIT
/* The MAC's end of the wire: frames go on it as they are, through whatever is broken, or later. */
#include <stdlib.h>
#include <string.h>

#include "nic.h"

/* Give the wire a frame as it is. False: no room. Without a wire it is lost. */
bool nic_wire_put(struct nic *n, const void *frame, size_t len, uint32_t flags)
{
	void *room;

	if (!n->wire)
		return true;
	room = n->wire->ops->reserve(n->wire);
	if (!room)
		return false;
	memcpy(room, frame, len);
	n->wire->ops->commit(n->wire, len, flags);
	return true;
}

/* Send a frame later; it is lost if too many are on their way already. */
static void later(struct nic *n, const uint8_t *frame, size_t len, double ms)
{
	struct delayed *d = &n->delayed[n->delays];

	if (n->delays == sizeof(n->delayed) / sizeof(n->delayed[0]))
		return;
	d->data = malloc(len ? len : 1);
	if (!d->data)
		return;
	memcpy(d->data, frame, len);
	d->len = len;
	d->when = nic_now() + (uint64_t)(ms * 1e6);
	n->delays++;
	nic_kick(n);
}

/* Give the wire a frame through whatever is broken. False: no room. */
bool nic_wire_send(struct nic *n, uint8_t *frame, size_t len, uint32_t flags)
{
	double ms;

	if (n->wire && !n->wire->ops->reserve(n->wire))
		return false;
	if (nic_fault(n, DP83820_FAULT_LOSE, DP83820_ON_TX))
		return true;
	ms = nic_fault_ms(n, DP83820_FAULT_DELAY, DP83820_ON_TX);
	if (ms > 0) {
		later(n, frame, len, ms);
		return true;
	}
	if (nic_fault(n, DP83820_FAULT_CORRUPT, DP83820_ON_TX)) {
		frame[len / 2] ^= 0x10;
		flags |= WIRE_BAD_FCS;
	}
	if (nic_fault(n, DP83820_FAULT_DAMAGE, DP83820_ON_TX))
		frame[len / 2] ^= 0x10;
	if (nic_fault(n, DP83820_FAULT_DUPLICATE, DP83820_ON_TX))
		nic_wire_put(n, frame, len, flags);
	return nic_wire_put(n, frame, len, flags);
}

/* Give the wire the frames whose time has come. */
void nic_wire_due(struct nic *n, uint64_t now)
{
	for (unsigned int i = 0; i < n->delays;) {
		struct delayed d = n->delayed[i];

		if (now < d.when) {
			i++;
			continue;
		}
		memmove(&n->delayed[i], &n->delayed[i + 1], (--n->delays - i) * sizeof(d));
		nic_wire_put(n, d.data, d.len, 0);
		free(d.data);
	}
}

/* When nic_wire_due() has something to do. */
uint64_t nic_wire_timer(const struct nic *n)
{
	uint64_t next = NEVER;

	for (unsigned int i = 0; i < n->delays; i++)
		if (n->delayed[i].when < next)
			next = n->delayed[i].when;
	return next;
}
