// SPDX-License-Identifier: MIT
/*
 * The transmitter (section 5.1). It runs until a list ends, the wire is full, or the wire's speed or a
 * pause frame says to wait; then the frame in hand waits, finished, and the engine goes on with it.
 */
#include <string.h>

#include "nic.h"

#define BUDGET		1024u		/* descriptors in one go */
#define CSUM_FIFO	8170u		/* bytes of a frame that the FIFO can hold whole (section 6) */
#define WIRE_OVERHEAD	24u		/* bytes of preamble, FCS and gap */
#define SLACK_NS	50000u		/* by so much the wire may be ahead of the clock */
#define STATUS_KEPT	(DP83820_MORE | DP83820_INTR | DP83820_SIZE)

static uint8_t *packet(struct nic *n)
{
	return n->tx_space + VLAN;
}

bool nic_tx_active(const struct nic *n)
{
	if (n->tx_hung || n->tx_waiting)
		return true;
	for (unsigned int i = 0; i < QUEUES; i++)
		if (n->tx[i].active)
			return true;
	return false;
}

void nic_tx_reset(struct nic *n)
{
	memset(n->tx, 0, sizeof(n->tx));
	n->tx_next = n->tx_queue = 0;
	n->tx_in_packet = n->tx_waiting = n->tx_hung = n->tx_bad = n->tx_want_room = false;
	n->tx_len = 0;
	n->tx_at = 0;
}

static void idle(struct nic *n, struct queue *q)
{
	q->active = false;
	nic_raise_late(n, DP83820_ISR_TXIDLE);
}

/* The software's own FCS is the frame's last four bytes. */
static uint32_t own_fcs(struct nic *n)
{
	uint32_t fcs;

	if (n->tx_len < FCS)
		return WIRE_BAD_FCS;
	n->tx_len -= FCS;
	memcpy(&fcs, n->tx_frame + n->tx_len, FCS);
	return fcs == nic_crc(n->tx_frame, n->tx_len) ? 0 : WIRE_BAD_FCS;
}

static void insert_vlan(struct nic *n)
{
	uint32_t tag = 0;

	if (n->vtcr & DP83820_VTCR_VGTI)
		tag = n->vdr >> 16;
	else if ((n->vtcr & DP83820_VTCR_VPPTI) && (n->tx_extsts & DP83820_VPKT))
		tag = n->tx_extsts & DP83820_VTCI;
	else
		return;
	if (n->tx_len < 14)
		return;
	n->tx_frame -= VLAN;
	memmove(n->tx_frame, n->tx_frame + VLAN, 12);
	memcpy(n->tx_frame + 12, &n->vdr, 2);
	memcpy(n->tx_frame + 14, &tag, 2);
	n->tx_len += VLAN;
}

/* The last fragment is here: make the frame what goes on the wire. */
static void finish(struct nic *n)
{
	bool checksums = nic_wants_checksum(n, n->tx_extsts);

	n->tx_frame = packet(n);
	if (n->tx_len + FCS > DP83820_TX_FIFO - (n->txcfg >> 8 & 0xff) * 32 && (n->txcfg & DP83820_TXCFG_DRTH) == 0)
		n->count.tx_over_fifo++;
	if (checksums && n->tx_len > CSUM_FIFO) {
		n->tx_hung = true;
		n->count.tx_hangs++;
		return;
	}
	if (checksums) {
		nic_put_checksums(n, n->tx_frame, n->tx_len, n->tx_extsts);
		n->count.tx_checksums++;
	}
	insert_vlan(n);
	if (n->tx_len < FRAME_MIN && (n->txcfg & DP83820_TXCFG_ATP) && !(n->tx_first & DP83820_SUPCRC)) {
		memset(n->tx_frame + n->tx_len, 0, FRAME_MIN - n->tx_len);
		n->tx_len = FRAME_MIN;
	}
	n->tx_waiting = true;
}

/* False: not now. */
static bool send(struct nic *n)
{
	uint32_t flags = 0;
	uint64_t now = 0;

	n->tx_want_room = false;
	if (n->paused_until || n->config.rate) {
		now = nic_now();
		if (now < n->paused_until)
			return false;
		n->paused_until = 0;
		if (n->config.rate && n->tx_at > now + SLACK_NS)
			return false;
	}
	if (n->tx_first & DP83820_SUPCRC) {
		n->tx_first &= ~DP83820_SUPCRC;
		flags = own_fcs(n);
		n->tx_first |= flags ? DP83820_TX_ABORT : 0;	/* remembered if it has to wait */
	} else if (n->tx_first & DP83820_TX_ABORT) {
		flags = WIRE_BAD_FCS;
	}
	if (n->txcfg & DP83820_TXCFG_MLB) {
		if (n->rxcfg & DP83820_RXCFG_RX_FD)
			nic_rx_frame(n, n->tx_frame, n->tx_len, flags != 0, true);
	} else if (!nic_carries(n)) {
		n->count.tx_no_link++;
	} else if (!nic_wire_send(n, n->tx_frame, n->tx_len, flags)) {
		n->tx_want_room = true;
		return false;
	} else {
		n->count.tx_frames++;
		n->count.tx_bytes += n->tx_len;
	}
	if (n->config.rate) {
		if (n->tx_at < now)
			n->tx_at = now;
		n->tx_at += (n->tx_len + WIRE_OVERHEAD) * 8000 / n->config.rate;
	}
	return true;
}

static void advance(struct nic *n, struct queue *q, uint64_t link)
{
	if (link) {
		q->dp = link;
	} else {
		q->done = true;
		idle(n, q);
	}
}

/* A descriptor is done. False: its status could not be written. */
static bool complete(struct nic *n, struct queue *q, uint32_t status)
{
	const struct descriptor *d = &n->tx_desc;
	uint32_t event = 0;

	if (nic_store_status(n, q->dp, (d->cmdsts & STATUS_KEPT) | status, NULL)) {
		q->active = false;
		return false;
	}
	if (d->cmdsts & DP83820_INTR)
		event = DP83820_ISR_TXDESC |
			(n->pqcr & DP83820_PQCR_TXPQEN ? DP83820_ISR_TXDESC0 << (q - n->tx) : 0);
	if (!(d->cmdsts & DP83820_MORE))
		event |= status & DP83820_OK ? DP83820_ISR_TXOK : DP83820_ISR_TXERR;
	if (event)
		nic_raise_late(n, event);
	advance(n, q, d->link);
	return true;
}

static void end_packet(struct nic *n)
{
	struct queue *q = &n->tx[n->tx_queue];

	n->tx_waiting = n->tx_in_packet = false;
	complete(n, q, n->tx_bad ? DP83820_TX_ABORT : DP83820_OK);
	n->tx_bad = false;
	n->tx_len = 0;
}

/* One descriptor of queue q. */
static void step(struct nic *n, struct queue *q)
{
	struct descriptor *d = &n->tx_desc;
	uint32_t size;

	if (nic_fetch(n, q->dp, d)) {
		q->active = false;
		return;
	}
	if (!(d->cmdsts & DP83820_OWN)) {
		idle(n, q);
		return;
	}
	size = d->cmdsts & DP83820_SIZE;
	if (!n->tx_in_packet) {
		n->tx_in_packet = true;
		n->tx_queue = (unsigned int)(q - n->tx);
		n->tx_first = d->cmdsts & ~DP83820_TX_ABORT;
		n->tx_extsts = 0;
		n->tx_len = 0;
	}
	n->tx_extsts |= d->extsts;
	if (size > WIRE_FRAME_MAX - VLAN - n->tx_len)
		n->tx_bad = true;	/* no wire takes that */
	if (!n->tx_bad) {
		if (nic_dma_read(n, d->buf, packet(n) + n->tx_len, size)) {
			q->active = false;
			return;
		}
		n->tx_len += size;
	}
	if (d->cmdsts & DP83820_MORE) {
		complete(n, q, 0);
	} else if (n->tx_bad) {
		end_packet(n);
	} else {
		if (nic_fault(n, DP83820_FAULT_STUCK_TX, 0)) {
			n->tx_hung = true;
			return;
		}
		finish(n);
	}
}

/* The queue that has its turn; NULL: none is active. A packet is not interrupted by another one. */
static struct queue *turn(struct nic *n)
{
	unsigned int first = n->pqcr & DP83820_PQCR_TXFAIR ? n->tx_next : 0;

	if (n->tx_in_packet)
		return n->tx[n->tx_queue].active ? &n->tx[n->tx_queue] : NULL;
	for (unsigned int i = 0; i < QUEUES; i++) {
		struct queue *q = &n->tx[(first + i) % QUEUES];

		if (q->active) {
			n->tx_next = (unsigned int)(q - n->tx) + 1;
			return q;
		}
	}
	return NULL;
}

/* Transmit what there is. Return: true if there is more, and nothing to wait for. */
bool nic_tx_run(struct nic *n)
{
	for (unsigned int i = 0; i < BUDGET; i++) {
		struct queue *q;

		if (!nic_can_master(n) || n->tx_hung)
			return false;
		if (n->tx_waiting) {
			if (!send(n))
				return false;
			end_packet(n);
			continue;
		}
		q = turn(n);
		if (!q)
			return false;
		step(n, q);
	}
	return true;
}

/* When a waiting frame may go on for another reason than room on the wire. */
uint64_t nic_tx_timer(const struct nic *n)
{
	if (!n->tx_waiting)
		return NEVER;
	if (n->paused_until)
		return n->paused_until;
	return n->config.rate && !n->tx_want_room ? n->tx_at - SLACK_NS : NEVER;
}

/* CR.TXE and CR.TXD for the queues in the mask. */
void nic_tx_command(struct nic *n, unsigned int queues, bool enable, bool disable)
{
	for (unsigned int i = 0; i < QUEUES; i++) {
		struct queue *q = &n->tx[i];
		bool there;

		if (!(queues & 1u << i))
			continue;
		if (disable) {
			q->active = false;
		} else if (enable && !q->active) {
			if (nic_refresh(n, q, &there))
				continue;
			if (there)
				q->active = true;
			else
				nic_raise_late(n, DP83820_ISR_TXIDLE);
		}
	}
	if (nic_tx_run(n) || n->tx_waiting)
		nic_kick(n);
}
