// SPDX-License-Identifier: MIT
/* The receive ring as the chip leaves it: which frame is complete, and whether it is a good one. */
#include "dp.h"

#define RUNT_MIN	56u	/* bytes of a good frame whose tag was taken out (section 7) */
#define FAULTY		(DP83820_RX_ABORT | DP83820_RX_OVERRUN | DP83820_RX_ISE | DP83820_RX_CRCE | DP83820_RX_FAE)

/* How many descriptors the frame at rx->next has; 0: it is not complete. */
unsigned int dp_rx_complete(struct dp *dp)
{
	struct dp_rx *rx = &dp->rx;

	for (unsigned int n = 0; n < DP_CHAIN_MAX; n++) {
		uint32_t status;

		if (rx->next + n == rx->armed)
			return 0;
		status = dp_rx_desc(rx, rx->next + n)->cmdsts;

		if (!(status & DP83820_OWN))
			return 0;
		if (!(status & DP83820_MORE))
			return n + 1;
	}
	return DP_CHAIN_MAX;	/* longer than any frame: what follows is its rest */
}

/*
 * Whether the chip found nothing wrong with a frame, and it is not too long; counts it. Those that take more
 * than a chain come in parts, of which the last has no MORE.
 */
bool dp_rx_good(struct dp *dp, uint32_t status, uint32_t extsts, size_t len)
{
	bool tagged = extsts & DP83820_VPKT, rest = dp->rx.rest;

	dp->rx.rest = status & DP83820_MORE;
	if (rest)
		return false;
	if (dp->rx.rest || len + (tagged ? 4 : 0) > dp_frame_max(dp)) {
		dp->stats->rx_errors++;
		return false;
	}
	if (!(status & DP83820_OK) &&
	    !((status & DP83820_RX_RUNT) && !(status & FAULTY) && tagged && len >= RUNT_MIN)) {
		dp->stats->rx_errors++;
		dp->stats->rx_crc += (status & DP83820_RX_CRCE) != 0;
		return false;
	}
	dp->stats->rx_frames++;
	dp->stats->rx_bytes += len + (tagged ? 4 : 0);
	dp->stats->rx_checked += (extsts & DP_RX_CHECKED) && !(extsts & DP_RX_WRONG);
	return true;
}
