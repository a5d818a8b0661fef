/* SPDX-License-Identifier: GPL-2.0 */
/* What the parts of network devices share: net.c moves packets, ethtool.c tells about them. */
#ifndef USRLOOP_NET_H
#define USRLOOP_NET_H

#include <linux/ethtool.h>
#include <linux/netdevice.h>
#include <linux/u64_stats_sync.h>

#include "usrloop.h"

#define USRLOOP_COUNTS	8	/* of struct usrloop_counts */

struct usrloop_counts {
	u64_stats_t tx_packets, tx_bytes, tx_dropped, tx_full;
	u64_stats_t rx_packets, rx_bytes, rx_errors, rx_dropped;
};

struct usrloop_netq {
	struct usrloop_queue *queue;
	struct napi_struct napi;
	struct netdev_queue *txq;	/* while started */
	/* of packets to the wire; head: the transmit lock, tail: queue->lock */
	u32 head, tail;
	u32 *bytes;			/* depth, of each packet */
	struct usrloop_counts tx;	/* the transmit lock */
	struct usrloop_counts rx;	/* NAPI */
	struct u64_stats_sync tx_sync, rx_sync;
};

struct usrloop_net {
	struct net_device *netdev;	/* between start and stop */
	u32 speed;			/* Mb/s; 0: no carrier */
	struct usrloop_netq queue[];
};

void usrloop_net_counts(struct usrloop_netq *nq, u64 *to);

extern const struct ethtool_ops usrloop_ethtool_ops;

#endif
