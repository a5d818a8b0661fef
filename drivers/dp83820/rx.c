// SPDX-License-Identifier: MIT
/*
 * Reception: frames stay in their buffers until the kernel has copied them; those of one TCP flow
 * go to it as one large packet. Then the descriptors are the chip's again.
 */
#include <errno.h>
#include <string.h>

#include "dp.h"

#define BUDGET		256u	/* frames in one round */

static uint8_t *buffer(struct dp_rx *rx, uint32_t i)
{
	const struct usrdrv_dma *mem = &rx->buffer_mem[i % DP_RX_RING / DP_RX_PIECE];

	return (uint8_t *)mem->cpu + (size_t)(i % DP_RX_PIECE) * rx->buffer;
}

int dp_rx_alloc(struct dp *dp)
{
	struct dp_rx *rx = &dp->rx;
	const struct usrdrv_dev_ops *ops = dp->dev->ops;
	int ret;

	/* Room for the FCS, should the chip leave it; buffers are on 64 bytes. */
	rx->buffer = (dp_frame_max(dp) + 4 + 63) & ~63u;
	ret = ops->dma_alloc(dp->dev, DP_RX_RING * sizeof(struct dp_desc), 4096, UINT32_MAX, &rx->ring_mem);
	for (uint32_t i = 0; i < DP_RX_RING / DP_RX_PIECE && !ret && !dp->config.zero_copy; i++)
		ret = ops->dma_alloc(dp->dev, (size_t)DP_RX_PIECE * rx->buffer, 4096, UINT32_MAX, &rx->buffer_mem[i]);
	rx->ring = rx->ring_mem.cpu;
	return ret;
}

void dp_rx_free(struct dp *dp)
{
	if (dp->rx.ring_mem.cpu)
		dp->dev->ops->dma_free(dp->dev, &dp->rx.ring_mem);
	for (uint32_t i = 0; i < DP_RX_RING / DP_RX_PIECE; i++)
		if (dp->rx.buffer_mem[i].cpu)
			dp->dev->ops->dma_free(dp->dev, &dp->rx.buffer_mem[i]);
}

/* A full ring of empty buffers. The chip's receiver is reset. */
void dp_rx_init(struct dp *dp)
{
	struct dp_rx *rx = &dp->rx;

	rx->entries = dp->config.zero_copy ? dp->port->buffers : DP_RX_RING;
	rx->next = rx->held = 0;
	rx->armed = rx->entries;
	rx->idle = rx->rest = false;
	net_coalesce_reset(&rx->coalescer);
	for (uint32_t i = 0; i < rx->entries; i++)
		rx->ring[i].link = (uint32_t)rx->ring_mem.bus + (i + 1) % rx->entries * (uint32_t)sizeof(struct dp_desc);
	if (dp->config.zero_copy) {
		dp_pages_init(dp);
		return;
	}
	for (uint32_t i = 0; i < rx->entries; i++) {
		rx->ring[i].buf = (uint32_t)rx->buffer_mem[i / DP_RX_PIECE].bus + i % DP_RX_PIECE * rx->buffer;
		rx->ring[i].extsts = 0;
		rx->ring[i].cmdsts = rx->buffer | DP83820_INTR;
	}
}

/* The descriptors behind us are the chip's again: nothing refers to their buffers any more. */
static void recycle(struct dp_rx *rx)
{
	for (; rx->held != rx->next; rx->held++) {
		volatile struct dp_desc *d = dp_rx_desc(rx, rx->held);

		d->extsts = 0;
		atomic_thread_fence(memory_order_release);
		d->cmdsts = rx->buffer | DP83820_INTR;
	}
	rx->armed = rx->held + rx->entries;
}

/* Hand over what was coalesced. */
static void flush(struct dp *dp)
{
	struct net_coalescer *c = &dp->rx.coalescer;

	if (!c->frames)
		return;
	net_coalesce_end(c);
	dp->stats->rx_packets++;
	if (dp->port->ops->push(dp->port, c->iov, c->iovs))
		dp->stats->rx_dropped += c->frames;
	net_coalesce_reset(c);
}

/* One frame of n descriptors from rx->next on; status and extsts are its last one's. */
static void frame(struct dp *dp, unsigned int n, uint32_t status, uint32_t extsts)
{
	struct dp_rx *rx = &dp->rx;
	struct net_coalescer *c = &rx->coalescer;
	struct iovec iov[DP_CHAIN_MAX];
	size_t len = 0;
	bool checked = (extsts & DP_RX_CHECKED) && !(extsts & DP_RX_WRONG);
	int vlan = -1;

	for (unsigned int i = 0; i < n; i++) {
		size_t size = dp_rx_desc(rx, rx->next + i)->cmdsts & DP83820_SIZE;

		size = size < rx->buffer ? size : rx->buffer;
		iov[i] = (struct iovec){ buffer(rx, rx->next + i), size };
		len += size;
	}
	if (!dp_rx_good(dp, status, extsts, len))
		return;
	if (extsts & DP83820_VPKT)
		vlan = (int)((extsts & 0xff) << 8 | (extsts >> 8 & 0xff));
	if (!net_coalesce_add(c, iov, (int)n, checked && dp->config.offloads, vlan)) {
		flush(dp);
		recycle(rx);
		net_coalesce_add(c, iov, (int)n, checked && dp->config.offloads, vlan);
	}
	dp->stats->copied += c->frames == 1 ? c->h.payload : 0;
	if (!dp->config.offloads)
		flush(dp);
}

/* Whether there is a frame; looks at memory only. */
bool dp_rx_waiting(struct dp *dp)
{
	return dp_rx_complete(dp) != 0;
}

/**
 * dp_rx_poll - give the kernel what the chip has received
 * @dp: device
 *
 * Return: frames.
 */
unsigned int dp_rx_poll(struct dp *dp)
{
	struct dp_rx *rx = &dp->rx;
	unsigned int frames = 0, n;

	if (dp->config.zero_copy)
		return dp_pages_poll(dp);
	while (frames < BUDGET && (n = dp_rx_complete(dp))) {
		volatile struct dp_desc *last = dp_rx_desc(rx, rx->next + n - 1);

		atomic_thread_fence(memory_order_acquire);
		frame(dp, n, last->cmdsts, last->extsts);
		rx->next += n;
		frames++;
		if (!rx->coalescer.frames || rx->next - rx->held > DP_RX_RING / 2) {
			flush(dp);
			recycle(rx);
		}
	}
	if (frames) {
		flush(dp);
		recycle(rx);
	}
	if (rx->idle) {
		rx->idle = false;
		dp_write(dp, DP83820_CR, DP83820_CR_RXE);
	}
	return frames;
}
