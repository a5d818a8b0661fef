// SPDX-License-Identifier: MIT
/*
 * The receiver (section 5.2): filter, rules of RXCFG, checksum and VLAN results, then the frame goes
 * to memory, or while there is no descriptor for it, to the FIFO.
 */
#include <string.h>

#include "nic.h"

#define BUDGET		64u		/* frames in one go */
#define LONGEST		1518u		/* bytes with FCS, untagged */
#define SHORTEST	64u
#define PATIENCE_NS	10000000u	/* how long a wire without a speed of its own waits for the FIFO */

bool nic_rx_active(const struct nic *n)
{
	for (unsigned int i = 0; i < QUEUES; i++)
		if (n->rx[i].active)
			return true;
	return false;
}

void nic_rx_reset(struct nic *n)
{
	memset(n->rx, 0, sizeof(n->rx));
	n->rx_on = n->rx_choked = false;
	n->rx_at = 0;
	n->fifo_bytes = 0;
	n->fifo_frames = 0;
	n->held_until = 0;
	atomic_store(&n->fifo->head, 0);
	atomic_store(&n->fifo->tail, 0);
	n->fifo_in = n->fifo_out = (struct ring_end){ .ring = n->fifo };
}

static void idle(struct nic *n, struct queue *q)
{
	q->active = false;
	nic_raise_late(n, DP83820_ISR_RXIDLE);
}

/* Put a frame, or the rest of it, into memory. False: it has to wait for descriptors. */
static bool store(struct nic *n, const struct rx_meta *meta, const uint8_t *data, size_t len)
{
	struct queue *q = &n->rx[meta->queue];

	while (q->active && nic_can_master(n)) {
		struct descriptor d;
		uint32_t size, status;
		bool last;

		if (nic_fetch(n, q->dp, &d)) {
			q->active = false;
			return false;
		}
		if (d.cmdsts & DP83820_OWN) {
			idle(n, q);
			return false;
		}
		if (d.buf & 7)
			n->count.rx_misaligned++;
		size = d.cmdsts & DP83820_SIZE;
		size = size < len - n->rx_at ? size : (uint32_t)(len - n->rx_at);
		if (nic_dma_write(n, d.buf, data + n->rx_at, size)) {
			q->active = false;
			return false;
		}
		last = n->rx_at + size == len;
		status = DP83820_OWN | (d.cmdsts & DP83820_INTR) | size | (last ? meta->status : DP83820_MORE);
		if (nic_store_status(n, q->dp, status, last ? &meta->extsts : NULL)) {
			q->active = false;
			return false;
		}
		n->rx_at += size;
		if (d.cmdsts & DP83820_INTR)
			nic_raise(n, DP83820_ISR_RXDESC |
				  (n->pqcr & DP83820_PQCR_RXPQ ? DP83820_ISR_RXDESC0 << meta->queue : 0));
		if (d.link) {
			q->dp = d.link;
		} else {
			q->done = true;
			idle(n, q);
		}
		if (last) {
			n->rx_at = 0;
			n->count.rx_frames++;
			n->count.rx_bytes += len;
			nic_raise(n, meta->status & DP83820_OK ? DP83820_ISR_RXOK : DP83820_ISR_RXERR);
			return true;
		}
	}
	return false;
}

static void overrun(struct nic *n)
{
	n->count.rx_overruns++;
	nic_mib(n, DP83820_MIB_MISSED);
	nic_raise(n, DP83820_ISR_RXORN);
}

static void queue_up(struct nic *n, const struct rx_meta *meta, const uint8_t *data, size_t len)
{
	uint8_t *room;

	if (n->fifo_bytes + len > DP83820_RX_FIFO && n->fifo_frames) {
		overrun(n);
		return;
	}
	room = ring_reserve(&n->fifo_in);
	if (!room) {
		overrun(n);
		return;
	}
	memcpy(room, meta, sizeof(*meta));
	memcpy(room + sizeof(*meta), data, len);
	ring_commit(&n->fifo_in, sizeof(*meta) + len, 0);
	n->fifo_bytes += len;
	n->fifo_frames++;
	nic_pause_levels(n);
}

static void drain(struct nic *n)
{
	while (n->fifo_frames) {
		struct rx_meta meta;
		size_t len;
		uint32_t flags;
		const uint8_t *record = ring_peek(&n->fifo_out, &len, &flags);

		if (!record)
			return;
		memcpy(&meta, record, sizeof(meta));
		len -= sizeof(meta);
		if (!store(n, &meta, record + sizeof(meta), len))
			return;
		ring_next(&n->fifo_out);
		n->fifo_bytes -= len;
		n->fifo_frames--;
		nic_pause_levels(n);
	}
}

/* The rules of RXCFG about damaged and odd-sized frames. False: not to be stored. */
static bool judge(struct nic *n, const uint8_t *frame, size_t len, size_t wire_len, bool tagged, bool bad_fcs,
		  uint32_t *status)
{
	uint32_t c = n->rxcfg;
	size_t longest = LONGEST + (tagged ? VLAN : 0);
	unsigned int type = len >= 14 ? (unsigned int)frame[12] << 8 | frame[13] : 0x600;
	bool good = true;

	if (bad_fcs) {
		*status |= DP83820_RX_CRCE;
		nic_mib(n, DP83820_MIB_FCS);
		good &= (c & DP83820_RXCFG_AEP) != 0;
	}
	/* The check comes after the tag is taken out: an erratum (section 7). */
	if (len + FCS < SHORTEST) {
		*status |= DP83820_RX_RUNT;
		good &= (c & DP83820_RXCFG_ARP) != 0;
	}
	if (wire_len + FCS > longest) {
		*status |= DP83820_RX_LONG;
		nic_mib(n, DP83820_MIB_LONG);
		good &= (c & DP83820_RXCFG_ALP) != 0;
	}
	if (type <= 1500 && len >= 14 && (type >= 46 ? len - 14 != type : len > FRAME_MIN)) {
		*status |= DP83820_RX_IRL;
		nic_mib(n, DP83820_MIB_RANGE);
		good &= (c & DP83820_RXCFG_AIRL) != 0;
	}
	if (*status & (DP83820_RX_CRCE | DP83820_RX_RUNT)) {
		nic_mib(n, DP83820_MIB_ERRORED);
		if (!good)
			nic_raise(n, DP83820_ISR_RXERR);
	} else {
		*status |= DP83820_OK;
	}
	return good;
}

/* VLAN and checksum rules. False: not to be stored. */
static bool inspect(struct nic *n, uint8_t *frame, size_t *len, bool tagged, uint32_t *extsts)
{
	uint32_t v = n->vrcr;

	if (((v & DP83820_VRCR_DVTF) && tagged) || ((v & DP83820_VRCR_DUTF) && !tagged))
		return false;
	if ((v & DP83820_VRCR_VTDEN) && tagged) {
		uint16_t tag;

		memcpy(&tag, frame + 14, 2);
		*extsts |= DP83820_VPKT | tag;
	}
	if ((v & DP83820_VRCR_VTREN) && tagged) {
		memmove(frame + 12, frame + 12 + VLAN, *len - 12 - VLAN);
		*len -= VLAN;
	}
	if (v & DP83820_VRCR_IPEN)
		*extsts |= nic_check(frame, *len);
	return !((v & DP83820_VRCR_RIPE) && (*extsts & DP83820_IPERR)) &&
		!((v & DP83820_VRCR_RTCPE) && (*extsts & DP83820_TCPERR)) &&
		!((v & DP83820_VRCR_RUDPE) && (*extsts & DP83820_UDPERR));
}

/**
 * nic_rx_frame() - a frame came from the wire, or from our own transmitter
 * @n: chip
 * @frame: without FCS; not kept
 * @len: at most WIRE_FRAME_MAX
 * @bad_fcs: it is damaged
 * @looped: MAC loopback
 */
void nic_rx_frame(struct nic *n, const uint8_t *frame, size_t len, bool bad_fcs, bool looped)
{
	struct rx_meta meta = { 0 };
	size_t wire_len = len;
	unsigned int dest;
	bool accept, tagged;
	uint32_t fcs;

	if (!n->rx_on || (!looped && !nic_carries(n))) {
		n->count.rx_disabled++;
		return;
	}
	if (!bad_fcs && nic_pause_receive(n, frame, len))
		return;
	if (n->ccsr & DP83820_CCSR_PMEEN) {
		nic_wake(n, frame, len);
		return;
	}
	if (!(n->rfcr & DP83820_RFCR_RFEN)) {
		n->count.rx_disabled++;
		return;
	}
	dest = nic_filter(n, frame, len, &accept);
	if (!accept) {
		n->count.rx_filtered++;
		return;
	}
	memcpy(n->rx_buf, frame, len);
	tagged = len >= 18 && !memcmp(frame + 12, &n->vdr, 2);
	fcs = n->rxcfg & DP83820_RXCFG_STRIPCRC ? 0 : nic_crc(frame, len) ^ (bad_fcs ? 1 : 0);
	meta.status = dest << 23 | (looped ? DP83820_RX_LBP : 0);
	if (!inspect(n, n->rx_buf, &len, tagged, &meta.extsts) ||
	    !judge(n, n->rx_buf, len, wire_len, tagged, bad_fcs, &meta.status)) {
		n->count.rx_rejected++;
		return;
	}
	if (!(n->rxcfg & DP83820_RXCFG_STRIPCRC)) {
		memcpy(n->rx_buf + len, &fcs, FCS);
		len += FCS;
	}
	if (n->pqcr & DP83820_PQCR_RXPQ) {
		unsigned int queues = (n->pqcr >> 2 & 3) + 1;

		meta.queue = tagged ? (frame[14] >> 5) * queues / 8 : 0;
	}
	if (nic_fault(n, DP83820_FAULT_OVERRUN, 0)) {
		overrun(n);
		return;
	}
	if (n->fifo_frames || !store(n, &meta, n->rx_buf, len))
		queue_up(n, &meta, n->rx_buf, len);
}

/* A frame at the wire's end that the FIFO has no room for; false: take it now, whatever becomes of it. */
static bool hold(struct nic *n, size_t len, uint64_t now)
{
	if (!n->rx_on || !n->fifo_frames || n->fifo_bytes + len + FCS <= DP83820_RX_FIFO || n->config.rate) {
		n->held_until = 0;
		return false;
	}
	if (!n->held_until)
		n->held_until = now + PATIENCE_NS;
	return now < n->held_until;
}

bool nic_rx_wants_frames(const struct nic *n)
{
	return (!n->held_until || nic_now() >= n->held_until) && (n->rx_on || !n->wire->patient);
}

static void take(struct nic *n, const uint8_t *frame, size_t len, uint32_t flags)
{
	/* The other end may write to it at any time: look at a copy. */
	uint8_t *copy = n->rx_wire;

	memcpy(copy, frame, len);
	n->wire->ops->next(n->wire);
	if (nic_fault(n, DP83820_FAULT_LOSE, DP83820_ON_RX))
		return;
	if (nic_fault(n, DP83820_FAULT_CORRUPT, DP83820_ON_RX)) {
		copy[len / 2] ^= 0x10;
		flags |= WIRE_BAD_FCS;
	}
	if (nic_fault(n, DP83820_FAULT_DAMAGE, DP83820_ON_RX))
		copy[len / 2] ^= 0x10;
	nic_rx_frame(n, copy, len, flags & WIRE_BAD_FCS, false);
	if (nic_fault(n, DP83820_FAULT_DUPLICATE, DP83820_ON_RX))
		nic_rx_frame(n, copy, len, flags & WIRE_BAD_FCS, false);
}

/* Receive what there is. Return: true if there may be more. */
bool nic_rx_work(struct nic *n, uint64_t now)
{
	drain(n);
	if (!n->wire || (n->wire->patient && (!n->rx_on || !nic_carries(n))))
		return false;
	for (unsigned int i = 0; i < BUDGET; i++) {
		size_t len;
		uint32_t flags;
		const void *frame = n->wire->ops->peek(n->wire, &len, &flags);

		if (!frame) {
			n->held_until = 0;
			return false;
		}
		if (len > WIRE_FRAME_MAX) {
			n->wire->ops->next(n->wire);
			continue;
		}
		if (hold(n, len, now))
			return false;
		take(n, frame, len, flags);
	}
	return true;
}

/*
 * RXE: the chip looks at its descriptor at once, not when a frame comes. A driver that is behind
 * points RXDP to a filled one; by the time of the frame that one may be free again, and not the next
 * one that the driver expects to be filled.
 */
static void start(struct nic *n, struct queue *q)
{
	struct descriptor d;
	bool there;

	n->rx_on = true;
	if (!nic_can_master(n)) {
		q->active = true;	/* it waits for the bus */
		return;
	}
	if (nic_refresh(n, q, &there) || (there && nic_fetch(n, q->dp, &d))) {
		q->active = false;
		return;
	}
	q->active = there && !(d.cmdsts & DP83820_OWN);
	if (!q->active)
		idle(n, q);
}

/* CR.RXE and CR.RXD for the queues in the mask. */
void nic_rx_command(struct nic *n, unsigned int queues, bool enable, bool disable)
{
	for (unsigned int i = 0; i < QUEUES; i++) {
		struct queue *q = &n->rx[i];

		if (!(queues & 1u << i))
			continue;
		if (disable) {
			q->active = false;
			n->rx_on = nic_rx_active(n);
		} else if (enable) {
			start(n, q);
		}
	}
	nic_kick(n);
}
