// SPDX-License-Identifier: MIT
/*
 * Wake-on-LAN (sections 3.11 and 3.17): with PME enabled, frames are only looked at. What
 * matches an enabled condition is noted in WCSR and signalled as a power management event.
 */
#include <string.h>

#include "nic.h"

static bool magic(const struct nic *n, const uint8_t *frame, size_t len, bool *hack)
{
	uint8_t want[102];
	size_t need = sizeof(want);

	memset(want, 0xff, 6);
	for (unsigned int i = 0; i < 96; i++)
		want[6 + i] = (uint8_t)(n->rf[DP83820_RF_PMATCH / 2 + i % 6 / 2] >> (i % 2 * 8));
	for (size_t at = 12; at + need <= len; at++) {
		if (memcmp(frame + at, want, need))
			continue;
		if (!(n->wcsr & DP83820_WCSR_SECURE))
			return true;
		if (len - at - need >= 6) {
			uint8_t password[6];

			for (unsigned int i = 0; i < 6; i++)
				password[i] = (uint8_t)(n->rf[DP83820_RF_SECURE / 2 + i / 2] >> (i % 2 * 8));
			if (!memcmp(frame + at + need, password, 6))
				return true;
		}
		*hack = true;	/* the right packet with the wrong password */
	}
	return false;
}

/* Examine a frame; NULL: the link changed. */
void nic_wake(struct nic *n, const uint8_t *frame, size_t len)
{
	uint32_t seen = 0, on = n->wcsr;
	bool accept, hack = false;
	unsigned int dest;

	if (!frame) {
		seen = DP83820_WCSR_PHY;
	} else if (len >= 14) {
		dest = nic_filter(n, frame, len, &accept);
		if (dest == 1)
			seen |= DP83820_WCSR_UNICAST;
		if (dest == 2)
			seen |= DP83820_WCSR_MULTICAST;
		if (dest == 3)
			seen |= DP83820_WCSR_BROADCAST;
		if (frame[12] == 0x08 && frame[13] == 0x06 && (dest == 1 || dest == 3))
			seen |= DP83820_WCSR_ARP;
		for (unsigned int i = 0; i < 4; i++)
			if ((on & DP83820_WCSR_PATTERN0 << i) && nic_pattern(n, i, frame, len))
				seen |= DP83820_WCSR_PATTERN0 << i;
		if ((on & DP83820_WCSR_MAGIC) && magic(n, frame, len, &hack))
			seen |= DP83820_WCSR_MAGIC;
	}
	if (hack)
		n->wcsr |= DP83820_WCSR_HACK;
	seen &= on;
	if (!seen)
		return;
	n->wcsr |= seen << DP83820_WCSR_STATUS_SHIFT;
	n->ccsr |= DP83820_CCSR_PMESTS;
	n->cfg_space[DP83820_CFG_PMCSR + 1] |= DP83820_PM_PME_STATUS >> 8;
	nic_raise(n, DP83820_ISR_PME);
}
