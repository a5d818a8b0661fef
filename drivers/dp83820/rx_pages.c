// SPDX-License-Identifier: MIT
/*
 * Reception into pages of the kernel's, one for each descriptor: a frame is handed over where it lies, in as
 * many of them as it takes, and the kernel gives others in their place.
 */
#include "dp.h"

#define BUDGET	256u	/* frames in one round */

/* Give the chip what the kernel has given us. */
static void arm(struct dp *dp)
{
	const struct usrdrv_net_port_ops *ops = dp->port->ops;
	struct dp_rx *rx = &dp->rx;
	uint32_t first, end = ops->buffers(dp->port, &first), len;

	for (; rx->armed != end; rx->armed++) {
		volatile struct dp_desc *d = dp_rx_desc(rx, rx->armed);

		d->buf = ops->buffer(dp->port, rx->armed, &len);
		d->extsts = 0;
		atomic_thread_fence(memory_order_release);
		d->cmdsts = len | DP83820_INTR;
	}
}

/* The ring as far as there are buffers. The chip's receiver is reset, and begins at rx->next. */
void dp_pages_init(struct dp *dp)
{
	struct dp_rx *rx = &dp->rx;

	for (uint32_t i = 0; i < rx->entries; i++)
		rx->ring[i].cmdsts = DP83820_OWN;	/* ours */
	dp->port->ops->buffers(dp->port, &rx->next);
	rx->armed = rx->next;
	arm(dp);
}

/* One frame of n descriptors from rx->next on; status and extsts are its last one's. */
static void frame(struct dp *dp, unsigned int n, uint32_t status, uint32_t extsts)
{
	struct usrdrv_net_header header = { 0 };
	uint32_t len[DP_CHAIN_MAX], total = 0;

	for (unsigned int i = 0; i < n; i++) {
		len[i] = dp_rx_desc(&dp->rx, dp->rx.next + i)->cmdsts & DP83820_SIZE;
		total += len[i];
	}
	if (!dp_rx_good(dp, status, extsts, total)) {
		dp->port->ops->received(dp->port, NULL, len, n);
		return;
	}
	if (dp->config.offloads && (extsts & DP_RX_CHECKED) && !(extsts & DP_RX_WRONG))
		header.flags = USRDRV_NET_DATA_VALID;
	dp->stats->rx_packets++;
	dp->port->ops->received(dp->port, &header, len, n);
}

/**
 * dp_pages_poll - give the kernel what the chip has received
 * @dp: device
 *
 * Return: frames.
 */
unsigned int dp_pages_poll(struct dp *dp)
{
	struct dp_rx *rx = &dp->rx;
	unsigned int frames = 0, n;

	arm(dp);
	for (; frames < BUDGET && (n = dp_rx_complete(dp)); frames++) {
		volatile struct dp_desc *last = dp_rx_desc(rx, rx->next + n - 1);

		atomic_thread_fence(memory_order_acquire);
		frame(dp, n, last->cmdsts, last->extsts);
		rx->next += n;
	}
	/* Without a buffer the receiver would only stop again. */
	if (rx->idle && rx->next != rx->armed) {
		rx->idle = false;
		dp_write(dp, DP83820_CR, DP83820_CR_RXE);
	}
	return frames;
}
