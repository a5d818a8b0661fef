/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the parts of network devices share: net.c has the interface, net_tx.c packets to the
 * wire, net_rx.c those from it, zc_net.c both if they are not copied; ethtool.c tells about them.
 */
#ifndef USRLOOP_NET_H
#define USRLOOP_NET_H

#include <linux/completion.h>
#include <linux/ethtool.h>
#include <linux/netdevice.h>
#include <linux/u64_stats_sync.h>
#include <linux/virtio_net.h>

#include "usrloop.h"

#define USRLOOP_NET_HEADER	sizeof(struct virtio_net_hdr_mrg_rxbuf)

/* A queue's counters; ethtool.c names them. TX_COPIED, RX_COPIED: bytes of frames. */
enum { TX_PACKETS, TX_BYTES, TX_DROPPED, TX_FULL, TX_COPIED, TX_COUNTS };
enum { RX_PACKETS, RX_BYTES, RX_ERRORS, RX_DROPPED, RX_COPIED, RX_COUNTS };

struct usrloop_netq {
	struct usrloop_queue *queue;
	struct napi_struct napi;
	struct netdev_queue *txq;	/* while started */
	/* of packets to the wire; head: the transmit lock, tail: queue->lock */
	u32 head, tail;
	u32 *bytes;			/* depth, of each packet */
	unsigned long since;		/* usrloop_clock(): tail is the oldest; queue->lock */
	u64_stats_t tx[TX_COUNTS];	/* the transmit lock */
	struct u64_stats_sync tx_sync;
	u64_stats_t rx[RX_COUNTS];	/* NAPI */
	struct u64_stats_sync rx_sync;
};

struct usrloop_net {
	struct net_device *netdev;	/* between start and stop; held */
	netdevice_tracker tracker;
	bool vanished;			/* the kernel deletes it; RTNL */
	struct completion gone;		/* netdev is */
	u32 speed;			/* Mb/s; 0: no carrier */
	struct usrloop_dev *dev;
	struct delayed_work watch;	/* while there is a server, if it has a time-out */
	struct usrloop_netq queue[];
};

static inline struct usrloop_dev *usrloop_net_dev(const struct net_device *netdev)
{
	return *(struct usrloop_dev **)netdev_priv(netdev);
}

/* ethtool.c */
extern const struct ethtool_ops usrloop_ethtool_ops;
void usrloop_net_counts(struct usrloop_netq *nq, u64 *tx, u64 *rx);

/* net_tx.c */
netdev_tx_t usrloop_net_xmit(struct sk_buff *skb, struct net_device *netdev);
netdev_features_t usrloop_net_features(struct sk_buff *skb, struct net_device *netdev,
				       netdev_features_t features);
unsigned int usrloop_net_collect(struct usrloop_end *end);
void usrloop_net_watch(struct usrloop_net *net);
void usrloop_net_watch_work(struct work_struct *work);

/* net_rx.c */
int usrloop_net_poll(struct napi_struct *napi, int budget);
void usrloop_net_discard(struct usrloop_queue *q);

/* zc_net.c */
#if IS_ENABLED(CONFIG_USRDRV)
extern const struct usrloop_zc_ops usrloop_zc_net;
int usrloop_zc_send(struct usrloop_end *end, u32 slot, struct sk_buff *skb, u32 head,
		    struct usrloop_sqe *sqe);
struct sk_buff *usrloop_zc_sent(struct usrloop_end *end, u32 slot);
struct sk_buff *usrloop_zc_receive(struct usrloop_end *end, struct napi_struct *napi,
				   const u32 *len, unsigned int n);
#else	/* no device has the feature */
static inline int usrloop_zc_send(struct usrloop_end *end, u32 slot, struct sk_buff *skb, u32 head,
				  struct usrloop_sqe *sqe)
{
	return -EOPNOTSUPP;
}

static inline struct sk_buff *usrloop_zc_sent(struct usrloop_end *end, u32 slot)
{
	return NULL;
}

static inline struct sk_buff *usrloop_zc_receive(struct usrloop_end *end, struct napi_struct *napi,
						 const u32 *len, unsigned int n)
{
	return NULL;
}
#endif

#endif
