// SPDX-License-Identifier: MIT
/*
 * Transmission: a packet is read from the port straight into memory that the chip reaches. One that
 * fits is one descriptor; a large one is cut into frames of two: headers of its own, and the
 * payload where it lies. The doorbell is rung once for many frames.
 */
#include <errno.h>
#include <string.h>

#include "dp.h"

#define HEADER_ROOM	256u	/* bytes for the headers of one segment, per descriptor */
#define PULLS		32u	/* packets in one round */
#define ALIGN		64u
#define FRAME_SPARE	4u	/* descriptors that a packet needs before it is pulled */

static volatile struct dp_desc *desc(struct dp_tx *tx, uint32_t i)
{
	return &tx->ring[i % DP_TX_RING];
}

static uint32_t room(const struct dp_tx *tx)
{
	return DP_TX_RING - 1 - (tx->head - tx->done);
}

int dp_tx_alloc(struct dp *dp)
{
	struct dp_tx *tx = &dp->tx;
	const struct usrdrv_dev_ops *ops = dp->dev->ops;
	int ret = ops->dma_alloc(dp->dev, DP_TX_RING * sizeof(struct dp_desc), 4096, UINT32_MAX, &tx->ring_mem);

	if (!ret)
		ret = ops->dma_alloc(dp->dev, DP_TX_RING * HEADER_ROOM, 4096, UINT32_MAX, &tx->header_mem);
	if (!ret)
		ret = ops->dma_alloc(dp->dev, DP_TX_AREA, 4096, UINT32_MAX, &tx->area_mem);
	tx->ring = tx->ring_mem.cpu;
	return ret;
}

void dp_tx_free(struct dp *dp)
{
	struct usrdrv_dma *all[] = { &dp->tx.ring_mem, &dp->tx.header_mem, &dp->tx.area_mem };

	for (unsigned int i = 0; i < 3; i++)
		if (all[i]->cpu)
			dp->dev->ops->dma_free(dp->dev, all[i]);
}

/* An empty ring; what was in it is lost. The chip's transmitter is reset. */
void dp_tx_init(struct dp *dp)
{
	struct dp_tx *tx = &dp->tx;

	dp->stats->tx_dropped += tx->head - tx->done;
	tx->head = tx->done = tx->rung = 0;
	tx->area_head = tx->area_tail = 0;
	tx->segment = tx->segmenter.segments = 0;
	tx->pulling = true;
	tx->blocked = false;
	for (uint32_t i = 0; i < DP_TX_RING; i++) {
		tx->ring[i].link = (uint32_t)tx->ring_mem.bus + (i + 1) % DP_TX_RING * (uint32_t)sizeof(struct dp_desc);
		tx->ring[i].cmdsts = 0;
	}
}

/* Take back what the chip has sent. */
void dp_tx_reclaim(struct dp *dp)
{
	struct dp_tx *tx = &dp->tx;
	bool any = false;

	while (tx->done != tx->head) {
		uint32_t status = desc(tx, tx->done)->cmdsts;
		const struct dp_tx_meta *meta = &tx->meta[tx->done % DP_TX_RING];

		if (status & DP83820_OWN)
			break;
		if (meta->last && !(status & DP83820_OK))
			dp->stats->tx_errors++;
		tx->area_tail = meta->area_end;
		tx->done++;
		any = true;
	}
	if (any || tx->done == tx->head)
		tx->progress_ms = dp_now_ms();
}

/* One descriptor more; the frame's first one gets OWN when all are there. */
static void add(struct dp *dp, uint64_t bus, size_t len, uint32_t flags, uint32_t extsts, uint32_t first,
		uint32_t area_end)
{
	struct dp_tx *tx = &dp->tx;
	volatile struct dp_desc *d = desc(tx, tx->head);
	bool last = !(flags & DP83820_MORE);

	tx->meta[tx->head % DP_TX_RING] = (struct dp_tx_meta){ .area_end = area_end, .last = last };
	d->buf = (uint32_t)bus;
	d->extsts = extsts;
	d->cmdsts = (uint32_t)len | flags | (tx->head == first ? 0 : DP83820_OWN);
	tx->head++;
	if (last) {
		atomic_thread_fence(memory_order_release);
		desc(tx, first)->cmdsts |= DP83820_OWN;
		dp->stats->tx_frames++;
	}
}

/* Move the tag from the frame into extsts; the addresses move up against the rest. */
static uint8_t *take_tag(const struct dp *dp, uint8_t *frame, uint32_t *extsts)
{
	uint16_t tag;

	if (!dp->config.offloads || frame[12] != 0x81 || frame[13] != 0)
		return frame;
	memcpy(&tag, frame + 14, 2);
	*extsts |= DP83820_VPKT | tag;
	memmove(frame + 4, frame, 12);
	return frame + 4;
}

/* Whether the chip fills in the checksum of a frame (section 6), and as which. It looks behind one 802.1Q tag. */
static uint32_t offload(const struct dp *dp, const uint8_t *frame, const struct net_headers *h, size_t len)
{
	if (!dp->config.offloads || h->version != 4 || !h->l4 || len > DP83820_TX_CSUM_MAX ||
	    (h->l3 != 14 && (h->l3 != 18 || frame[12] != 0x81)))
		return 0;
	return h->protocol == 6 ? DP83820_TCPPKT : DP83820_UDPPKT;
}

/* Whether the checksum that the kernel asks for is the one that the chip knows; a tunnel's is further in. */
static bool outermost(const struct usrdrv_net_header *header, const struct net_headers *h)
{
	return header->csum_start == h->l4 && header->csum_offset == (h->protocol == 6 ? 16 : 6);
}

static uint64_t area_bus(const struct dp *dp, const uint8_t *p)
{
	return dp->tx.area_mem.bus + (uint64_t)(p - (uint8_t *)dp->tx.area_mem.cpu);
}

/* Queue the segments of the packet in hand that there is room for. */
static void cut(struct dp *dp)
{
	struct dp_tx *tx = &dp->tx;
	struct net_segmenter *s = &tx->segmenter;

	for (; tx->segment < s->segments && room(tx) >= 2; tx->segment++) {
		uint32_t first = tx->head, extsts;
		bool last = tx->segment + 1 == s->segments;
		uint8_t *headers = (uint8_t *)tx->header_mem.cpu + first % DP_TX_RING * HEADER_ROOM, *start;
		size_t offset, size, len;

		net_segment(s, tx->segment, headers, &offset, &size);
		len = s->h.payload;
		extsts = offload(dp, s->frame, &s->h, len + size);
		if (extsts) {
			dp->stats->tx_checksums++;
		} else {
			uint8_t *field = headers + s->h.l4 + (s->udp ? 6 : 16);
			uint64_t sum = net_sum(s->frame + offset, size, 0);
			uint16_t value;

			value = net_fold(net_sum(headers + s->h.l4, len - s->h.l4, sum));
			if (s->udp && !value)
				value = 0xffff;
			memcpy(field, &value, 2);
			dp->stats->tx_soft_checksums++;
		}
		dp->stats->copied += len;
		dp->stats->tx_bytes += len + size;
		start = take_tag(dp, headers, &extsts);
		len -= (size_t)(start - headers);
		add(dp, tx->header_mem.bus + (uint64_t)(start - (uint8_t *)tx->header_mem.cpu), len, DP83820_MORE, extsts,
		    first, tx->segment_start);
		add(dp, area_bus(dp, s->frame + offset), size, last ? DP83820_INTR : 0, extsts, first,
		    last ? tx->segment_end : tx->segment_start);
	}
}

/* Where the next packet goes, or NULL: the area is full. */
static uint8_t *place(struct dp_tx *tx)
{
	uint32_t to_end = DP_TX_AREA - tx->area_head % DP_TX_AREA;
	uint32_t skip = to_end < USRDRV_NET_PACKET_MAX ? to_end : 0;

	if (DP_TX_AREA - (tx->area_head - tx->area_tail) < skip + USRDRV_NET_PACKET_MAX)
		return NULL;
	tx->area_head += skip;
	return (uint8_t *)tx->area_mem.cpu + tx->area_head % DP_TX_AREA;
}

/* A packet of len bytes lies at frame. */
static void queue(struct dp *dp, const struct usrdrv_net_header *header, uint8_t *frame, size_t len)
{
	struct dp_tx *tx = &dp->tx;
	uint32_t end = tx->area_head + (uint32_t)((len + ALIGN - 1) & ~(size_t)(ALIGN - 1)), extsts = 0;
	struct net_headers h;
	uint8_t *start;

	dp->stats->tx_packets++;
	if (len < 14 || !atomic_load_explicit(&dp->link, memory_order_relaxed)) {
		dp->stats->tx_dropped++;
		return;
	}
	if (header->gso_type != USRDRV_NET_GSO_NONE) {
		if (net_segment_begin(&tx->segmenter, header, frame, len)) {
			dp->stats->tx_dropped++;
			return;
		}
		tx->segment = 0;
		tx->segment_start = tx->area_head;
		tx->segment_end = tx->area_head = end;
		cut(dp);
		return;
	}
	if (len > dp->config.mtu + 18) {
		dp->stats->tx_dropped++;
		return;
	}
	if (header->flags & USRDRV_NET_NEEDS_CSUM) {
		if (!net_parse(frame, len, len, &h) && outermost(header, &h))
			extsts = offload(dp, frame, &h, len);
		if (extsts) {
			dp->stats->tx_checksums++;
		} else if (net_fill_checksum(frame, len, header)) {
			dp->stats->tx_dropped++;
			return;
		} else {
			dp->stats->tx_soft_checksums++;
		}
	}
	dp->stats->tx_bytes += len;
	tx->area_head = end;
	start = take_tag(dp, frame, &extsts);
	add(dp, area_bus(dp, start), len - (size_t)(start - frame), DP83820_INTR, extsts, tx->head, end);
}

static void ring_bell(struct dp *dp)
{
	struct dp_tx *tx = &dp->tx;

	if (tx->rung == tx->head)
		return;
	tx->rung = tx->head;
	dp_write(dp, DP83820_CR, DP83820_CR_TXE);
}

/**
 * dp_tx_poll - transmit what the port has
 * @dp: device
 *
 * Return: packets taken, plus one if a large packet made progress. tx.blocked says that
 * more could be done when the chip has sent something.
 */
unsigned int dp_tx_poll(struct dp *dp)
{
	struct dp_tx *tx = &dp->tx;
	unsigned int packets = 0, work = 0;

	if (tx->head != tx->done)
		dp_tx_reclaim(dp);
	if (tx->segment < tx->segmenter.segments) {
		uint32_t before = tx->head;

		cut(dp);
		work = tx->head != before;
	}
	while (tx->pulling && packets < PULLS && tx->segment >= tx->segmenter.segments) {
		struct usrdrv_net_header header;
		struct iovec iov[2] = { { &header, sizeof(header) } };
		uint8_t *frame = room(tx) < FRAME_SPARE ? NULL : place(tx);
		int len;

		if (!frame)
			break;
		iov[1] = (struct iovec){ frame, USRDRV_NET_PACKET_MAX - sizeof(header) };
		len = dp->port->ops->pull(dp->port, iov, 2);
		if (len <= 0) {
			tx->pulling = false;
			if (len < 0 && len != -ENETDOWN && len != -EIO)
				dp_post(dp, DP_EVENT_PORT);
			break;
		}
		if ((size_t)len <= sizeof(header))
			continue;
		queue(dp, &header, frame, (size_t)len - sizeof(header));
		packets++;
		if (header.gso_type != USRDRV_NET_GSO_NONE)
			ring_bell(dp);
	}
	ring_bell(dp);
	tx->blocked = tx->segment < tx->segmenter.segments || (tx->pulling && packets < PULLS);
	return packets + work;
}
