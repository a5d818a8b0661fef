/* SPDX-License-Identifier: MIT */
/*
 * The data path of the DP83820 driver. Section numbers are those of docs/hardware/dp83820.md.
 *
 * One dispatcher thread per device moves all frames, both ways; nothing here is locked but the
 * events for the control plane. Memory is allocated once: rings, receive buffers that stay with
 * their descriptors, and an area for packets to transmit, which the port fills directly. With zero
 * copy there are only the rings, and room for headers: descriptors point to the kernel's own pages.
 */
#ifndef USRDRV_DRIVERS_DP_H
#define USRDRV_DRIVERS_DP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "offload.h"
#include "usrdrv/dev.h"
#include "usrdrv/dp83820_regs.h"
#include "usrdrv/net.h"
#include "usrloop.h"

/* cffi: begin */
struct dp_config {
	uint32_t mtu;		/* bytes */
	uint32_t watchdog_ms;	/* a transmitter without progress for so long is stuck */
	uint32_t offloads;	/* 1: the chip's checksums and VLAN tags, large packets from and to the kernel */
	uint32_t zero_copy;	/* 1: the port is one of zero copy */
	struct usrdrv_net_stats *stats;		/* to count in */
};

/* For the control plane, a mask. */
#define DP_EVENT_LINK	1	/* the PHY's pins changed */
#define DP_EVENT_STUCK	2	/* frozen: the transmitter makes no progress */
#define DP_EVENT_BUS	4	/* frozen: the chip met an error on the PCI bus */
#define DP_EVENT_GONE	8	/* the device is gone for good */
#define DP_EVENT_PORT	16	/* the interface is gone for good */

struct dp;

int dp_create(struct usrdrv_dev *dev, const struct dp_config *config, struct dp **out);
int dp_start(struct dp *dp, struct usrdrv_net_port *port);
int dp_wait_event(struct dp *dp);
void dp_restart(struct dp *dp);
void dp_set_link(struct dp *dp, int up);
void dp_stop(struct dp *dp);
void dp_destroy(struct dp *dp);
/* cffi: end */

#define DP_TX_RING	1024u	/* descriptors, power of two */
#define DP_RX_RING	512u
#define DP_RX_PIECE	64u		/* buffers in one piece of memory: a large one may not be had */
#define DP_TX_AREA	(2u << 20)	/* bytes for packets to transmit */
#define DP_CHAIN_MAX	8u	/* receive descriptors of one frame */
#define DP_MTU_LEAST	1500u	/* frames of such a packet pass whatever the MTU is */
#define DP_TAGS		8u	/* bytes of two VLAN tags, of any TPID (802.1Q, 802.1ad) */
#define DP_BAR		1u
#define DP_RX_CHECKED	(DP83820_TCPPKT | DP83820_UDPPKT)
#define DP_RX_WRONG	(DP83820_IPERR | DP83820_TCPERR | DP83820_UDPERR)

struct dp_desc {
	uint32_t link, buf, cmdsts, extsts;
};

struct dp_tx_meta {
	uint32_t area_end;	/* the area is free up to here when the descriptor is done */
	uint32_t token;
	bool last;		/* of a frame */
	bool sent;		/* the last of a packet: the port is told of its token */
	bool awaited;		/* the kernel has it until then */
};

struct dp_tx {
	struct usrdrv_dma ring_mem, header_mem, area_mem;
	volatile struct dp_desc *ring;
	struct dp_tx_meta meta[DP_TX_RING];
	uint32_t head, done;	/* run freely; descriptors in between are the chip's */
	uint32_t area_head, area_tail;	/* bytes, run freely */
	uint32_t rung;		/* head when the doorbell was rung */
	/* The packet in hand: if it is a large one it may take several rounds to cut it. */
	struct usrdrv_net_packet packet;
	struct usrloop_segment whole;	/* all of it, if it was copied */
	uint32_t packet_start, packet_end;	/* where it lies in the area */
	struct net_segmenter segmenter;
	unsigned int segment;	/* next one */
	unsigned int awaited;	/* packets that the kernel wants back: interrupts are wanted */
	uint64_t progress_ms;	/* when a descriptor was last reclaimed, or the ring was empty */
	bool pulling;		/* the port may have packets */
	bool blocked;		/* for want of descriptors or room: interrupts are wanted */
};

struct dp_rx {
	struct usrdrv_dma ring_mem, buffer_mem[DP_RX_RING / DP_RX_PIECE];
	volatile struct dp_desc *ring;
	uint32_t buffer;	/* bytes of each */
	uint32_t entries;	/* of the ring, a power of two */
	uint32_t next;		/* descriptor to look at, runs freely */
	uint32_t armed;		/* those from next on up to here are the chip's */
	uint32_t held;		/* first one that the coalescer still refers to */
	struct net_coalescer coalescer;
	bool idle;		/* the receiver stopped: tell it of new descriptors */
	bool rest;		/* the next descriptors are of a frame that is too long */
};

struct dp {
	struct usrdrv_dev *dev;
	struct usrdrv_net_port *port;
	struct dp_config config;
	struct dp_tx tx;
	struct dp_rx rx;
	struct usrdrv_net_stats *stats;
	uint32_t imr;
	bool masked;		/* the interrupt was delivered and not let through again */
	unsigned int quiet;	/* rounds of polling without work */
	uint64_t window_ms;	/* start of the interval whose frames are counted */
	uint64_t window_frames;
	bool loaded;		/* many frames: poll rather than wait for interrupts */
	bool frozen;
	int kick_fd;
	pthread_t dispatcher;
	bool running;
	_Atomic int stop, restart, link;
	pthread_mutex_t event_lock;
	pthread_cond_t event_cond;
	int events;
	bool started, shut_down;
};

/* base.c */
uint64_t dp_now_ms(void);
int dp_write(struct dp *dp, uint32_t reg, uint32_t value);
void dp_post(struct dp *dp, int events);
void dp_started(struct dp *dp);
void dp_await_start(struct dp *dp);

/* tx.c */
int dp_tx_alloc(struct dp *dp);
void dp_tx_free(struct dp *dp);
void dp_tx_init(struct dp *dp);
unsigned int dp_tx_poll(struct dp *dp);
void dp_tx_reclaim(struct dp *dp);
void dp_tx_give_back(struct dp *dp);
static inline bool dp_tx_outstanding(const struct dp *dp)
{
	return dp->tx.head != dp->tx.done;
}

/* Bytes of the longest frame without FCS, either way. */
static inline uint32_t dp_frame_max(const struct dp *dp)
{
	uint32_t mtu = dp->config.mtu;

	return (mtu > DP_MTU_LEAST ? mtu : DP_MTU_LEAST) + 14 + DP_TAGS;
}

/* rx.c */
int dp_rx_alloc(struct dp *dp);
void dp_rx_free(struct dp *dp);
void dp_rx_init(struct dp *dp);
unsigned int dp_rx_poll(struct dp *dp);
bool dp_rx_waiting(struct dp *dp);

/* rx_ring.c */
bool dp_rx_good(struct dp *dp, uint32_t status, uint32_t extsts, size_t len);
unsigned int dp_rx_complete(struct dp *dp);
static inline volatile struct dp_desc *dp_rx_desc(struct dp_rx *rx, uint32_t i)
{
	return &rx->ring[i % rx->entries];
}

/* rx_pages.c: the same with zero copy */
void dp_pages_init(struct dp *dp);
unsigned int dp_pages_poll(struct dp *dp);

/* dispatch.c */
void *dp_dispatch(void *arg);

#endif
