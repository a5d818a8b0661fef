// SPDX-License-Identifier: MIT
/*
 * Transmission: a packet is read from the port straight into memory that the chip reaches; or, with zero
 * copy, only its headers are. One that fits is one frame; a large one is cut into frames of headers of
 * their own, and the payload where it lies. The doorbell is rung once for many frames.
 */
#include <errno.h>
#include <string.h>

#include "dp.h"

#define HEADER_ROOM	256u	/* bytes for the headers of one segment, per descriptor */
#define PULLS		32u	/* packets in one round */
#define ALIGN		64u
#define FRAME_SPARE	(USRLOOP_NET_SEGMENTS + 1)	/* descriptors that a frame may need */

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
	if (!ret && !dp->config.zero_copy)
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

/* One descriptor is done: what that means to the kernel. */
static void finish(struct dp *dp, const struct dp_tx_meta *meta)
{
	if (!meta->sent)
		return;
	dp->tx.awaited -= meta->awaited;
	dp->port->ops->sent(dp->port, meta->token);
}

/* All packets of the kernel's, sent or not. The chip's transmitter is reset. */
void dp_tx_give_back(struct dp *dp)
{
	struct dp_tx *tx = &dp->tx;

	for (; tx->done != tx->head; tx->done++)
		finish(dp, &tx->meta[tx->done % DP_TX_RING]);
	if (dp->config.zero_copy && tx->segment < tx->segmenter.segments)
		dp->port->ops->sent(dp->port, tx->packet.token);
	tx->segment = tx->segmenter.segments = tx->awaited = 0;
}

/* An empty ring; what was in it is lost. The chip's transmitter is reset. */
void dp_tx_init(struct dp *dp)
{
	struct dp_tx *tx = &dp->tx;

	dp->stats->tx_dropped += tx->head - tx->done;
	dp_tx_give_back(dp);
	tx->head = tx->done = tx->rung = 0;
	tx->area_head = tx->area_tail = 0;
	tx->pulling = true;
	tx->blocked = false;
	for (uint32_t i = 0; i < DP_TX_RING; i++) {
		tx->ring[i].link = (uint32_t)tx->ring_mem.bus + (i + 1) % DP_TX_RING * (uint32_t)sizeof(struct dp_desc);
		tx->ring[i].cmdsts = 0;
	}
}

/* Take back what the chip has sent. With nothing on its way, the watchdog's time begins anew. */
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
		finish(dp, meta);
		tx->area_tail = meta->area_end;
		tx->done++;
		any = true;
	}
	if (any || tx->done == tx->head)
		tx->progress_ms = dp_now_ms();
}

/*
 * One descriptor more of the packet in hand; the frame's first one gets OWN when all are there. MORE: the frame
 * has more of them; INTR: the packet has none.
 */
static void add(struct dp *dp, uint64_t bus, size_t len, uint32_t flags, uint32_t extsts, uint32_t first)
{
	struct dp_tx *tx = &dp->tx;
	volatile struct dp_desc *d = desc(tx, tx->head);
	bool last = !(flags & DP83820_MORE), all = flags & DP83820_INTR;

	tx->meta[tx->head % DP_TX_RING] = (struct dp_tx_meta){
		.area_end = all ? tx->packet_end : tx->packet_start, .token = tx->packet.token, .last = last,
		.sent = all && dp->config.zero_copy, .awaited = tx->packet.at < tx->packet.len,
	};
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

/* Descriptors for size bytes of the packet in hand from offset on; the last one has flags. */
static void add_pieces(struct dp *dp, size_t offset, size_t size, uint32_t flags, uint32_t extsts, uint32_t first)
{
	const struct usrdrv_net_packet *p = &dp->tx.packet;

	offset -= p->at;
	for (unsigned int i = 0; size && i < p->pieces; i++) {
		const struct usrloop_segment *piece = &p->piece[i];
		size_t part;

		if (offset >= piece->len) {
			offset -= piece->len;
			continue;
		}
		part = piece->len - offset < size ? piece->len - offset : size;
		size -= part;
		add(dp, piece->addr + offset, part, size ? DP83820_MORE : flags, extsts, first);
		offset = 0;
	}
}

/* What the chip does not do of a checksum. */
static void finish_checksum(struct dp *dp, uint8_t *headers, size_t offset, size_t size)
{
	struct net_segmenter *s = &dp->tx.segmenter;
	uint16_t value = net_fold(net_sum(headers + s->h.l4, s->h.payload - s->h.l4, net_sum(s->frame + offset, size, 0)));

	if (s->udp && !value)
		value = 0xffff;
	memcpy(headers + s->h.l4 + (s->udp ? 6 : 16), &value, 2);
	dp->stats->tx_soft_checksums++;
}

static uint64_t header_bus(const struct dp_tx *tx, const uint8_t *p)
{
	return tx->header_mem.bus + (uint64_t)(p - (const uint8_t *)tx->header_mem.cpu);
}

/* Room for the headers of the frame whose first descriptor is the next one. */
static uint8_t *header_room(const struct dp_tx *tx)
{
	return (uint8_t *)tx->header_mem.cpu + tx->head % DP_TX_RING * HEADER_ROOM;
}

/* Queue the segments of the packet in hand that there is room for. */
static void cut(struct dp *dp)
{
	struct dp_tx *tx = &dp->tx;
	struct net_segmenter *s = &tx->segmenter;

	for (; tx->segment < s->segments && room(tx) >= FRAME_SPARE; tx->segment++) {
		uint32_t first = tx->head, extsts;
		bool last = tx->segment + 1 == s->segments;
		uint8_t *headers = header_room(tx), *start;
		size_t offset, size, len;

		net_segment(s, tx->segment, headers, &offset, &size);
		len = s->h.payload;
		extsts = offload(dp, s->frame, &s->h, len + size);
		if (extsts)
			dp->stats->tx_checksums++;
		else
			finish_checksum(dp, headers, offset, size);
		dp->stats->copied += len;
		dp->stats->tx_bytes += len + size;
		start = take_tag(dp, headers, &extsts);
		len -= (size_t)(start - headers);
		add(dp, header_bus(tx, start), len, DP83820_MORE, extsts, first);
		add_pieces(dp, offset, size, last ? DP83820_INTR : 0, extsts, first);
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

/* The packet in hand goes no further. */
static void drop(struct dp *dp)
{
	dp->stats->tx_dropped++;
	if (dp->config.zero_copy)
		dp->port->ops->sent(dp->port, dp->tx.packet.token);
}

static void queue_large(struct dp *dp)
{
	struct dp_tx *tx = &dp->tx;
	struct usrdrv_net_packet *p = &tx->packet;
	struct net_segmenter *s = &tx->segmenter;
	int ret = net_segment_begin(s, &p->header, p->head, p->head_len, p->len);

	/* The kernel leaves no checksum to us that the chip cannot do, if we cannot either. */
	if (!ret && dp->config.zero_copy &&
	    (p->at > s->h.payload || !offload(dp, p->head, &s->h, (size_t)s->h.payload + s->gso_size)))
		ret = -EINVAL;
	tx->segment = 0;
	if (ret) {
		s->segments = 0;
		drop(dp);
		return;
	}
	tx->awaited += dp->config.zero_copy;
	tx->area_head = tx->packet_end;
	cut(dp);
}

/* A packet that fits is one frame: its head, of which the chip sees the copy at frame, and the rest where it lies. */
static void queue_one(struct dp *dp, uint8_t *frame, uint64_t bus)
{
	struct dp_tx *tx = &dp->tx;
	struct usrdrv_net_packet *p = &tx->packet;
	uint32_t extsts = 0, first = tx->head;
	bool whole = p->head_len == p->len;
	struct net_headers h;
	size_t shift;

	if (p->len > dp_frame_max(dp)) {
		drop(dp);
		return;
	}
	if (p->header.flags & USRDRV_NET_NEEDS_CSUM) {
		if (!net_parse(frame, p->head_len, p->len, &h) && outermost(&p->header, &h))
			extsts = offload(dp, frame, &h, p->len);
		if (extsts) {
			dp->stats->tx_checksums++;
		} else if (!whole || net_fill_checksum(frame, p->len, &p->header)) {
			drop(dp);
			return;
		} else {
			dp->stats->tx_soft_checksums++;
		}
	}
	dp->stats->tx_bytes += p->len;
	tx->area_head = tx->packet_end;
	tx->awaited += !whole;
	shift = (size_t)(take_tag(dp, frame, &extsts) - frame);
	add(dp, bus + shift, p->head_len - shift, whole ? DP83820_INTR : DP83820_MORE, extsts, first);
	if (!whole)
		add_pieces(dp, p->head_len, p->len - p->head_len, DP83820_INTR, extsts, first);
}

/* Send the packet in hand; frame: where its head is, or, with zero copy, room for that. */
static void queue(struct dp *dp, uint8_t *frame, uint64_t bus)
{
	struct usrdrv_net_packet *p = &dp->tx.packet;

	dp->stats->tx_packets++;
	if (p->len < 14 || !atomic_load_explicit(&dp->link, memory_order_relaxed)) {
		drop(dp);
		return;
	}
	if (p->header.gso_type != USRDRV_NET_GSO_NONE) {
		queue_large(dp);
		return;
	}
	if (dp->config.zero_copy) {
		memcpy(frame, p->head, p->head_len);
		dp->stats->copied += p->head_len;
	}
	queue_one(dp, frame, bus);
}

/* Have the port copy a packet into the area. Return: 1; 0 there is none, or no room; -errno. */
static int pull(struct dp *dp)
{
	struct dp_tx *tx = &dp->tx;
	struct usrdrv_net_packet *p = &tx->packet;
	uint8_t *frame = place(tx);
	struct iovec iov[2] = {
		{ &p->header, sizeof(p->header) }, { frame, USRDRV_NET_PACKET_MAX - sizeof(p->header) },
	};
	uint64_t bus;
	int len;

	if (!frame)
		return 0;
	len = dp->port->ops->pull(dp->port, iov, 2);
	if (len <= 0) {
		tx->pulling = false;
		return len;
	}
	if ((size_t)len <= sizeof(p->header))
		return 1;
	bus = tx->area_mem.bus + (uint64_t)(frame - (uint8_t *)tx->area_mem.cpu);
	p->head = frame;
	p->len = p->head_len = (uint32_t)len - (uint32_t)sizeof(p->header);
	tx->whole = (struct usrloop_segment){ .addr = bus, .len = p->len };
	p->piece = &tx->whole;
	p->pieces = 1;
	p->at = 0;
	tx->packet_start = tx->area_head;
	tx->packet_end = tx->area_head + ((p->len + ALIGN - 1) & ~(ALIGN - 1));
	queue(dp, frame, bus);
	return 1;
}

/* Likewise with zero copy. */
static int take(struct dp *dp)
{
	struct dp_tx *tx = &dp->tx;
	uint8_t *frame = header_room(tx);
	int ret = dp->port->ops->take(dp->port, &tx->packet);

	if (ret <= 0)
		tx->pulling = false;
	else
		queue(dp, frame, header_bus(tx, frame));
	return ret;
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

	dp_tx_reclaim(dp);
	if (tx->segment < tx->segmenter.segments) {
		uint32_t before = tx->head;

		cut(dp);
		work = tx->head != before;
	}
	while (tx->pulling && packets < PULLS && tx->segment >= tx->segmenter.segments) {
		int ret = room(tx) < FRAME_SPARE ? 0 : dp->config.zero_copy ? take(dp) : pull(dp);

		if (ret < 0 && ret != -ENETDOWN && ret != -EIO)
			dp_post(dp, DP_EVENT_PORT);
		if (ret <= 0)
			break;
		packets++;
		if (tx->packet.header.gso_type != USRDRV_NET_GSO_NONE)
			ring_bell(dp);
	}
	ring_bell(dp);
	tx->blocked = tx->segment < tx->segmenter.segments || (tx->pulling && packets < PULLS);
	return packets + work;
}
