// SPDX-License-Identifier: GPL-2.0
/*
 * Packets to the wire: each is copied into the slot that its place in the ring names, or its
 * headers are, and the rest is mapped (zc_net.c).
 *
 * Slots to the wire are used in the ring's order; a server may complete them in any. They are FREE
 * or SERVED. What is on its way when a server dies is lost, as on a wire.
 */
#include <linux/if_vlan.h>
#include <linux/ip.h>
#include <linux/netdevice.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <linux/virtio_net.h>
#include <net/ip.h>

#include "compat.h"
#include "net.h"

#define HEADER		USRLOOP_NET_HEADER
#define PLAIN_HEAD	128u	/* bytes of a packet whose headers nobody asks for */

static void net_tx_drop(struct usrloop_netq *nq, struct sk_buff *skb)
{
	u64_stats_update_begin(&nq->tx_sync);
	u64_stats_inc(&nq->tx[TX_DROPPED]);
	u64_stats_update_end(&nq->tx_sync);
	dev_kfree_skb_any(skb);
}

/*
 * Bytes of headers, or more; of a large packet exactly up to the data, as of what needs a checksum
 * and is not copied as a whole.
 */
static u32 net_tx_head_len(const struct sk_buff *skb)
{
	int start = skb_checksum_start_offset(skb);
	const struct tcphdr *tcp;
	struct tcphdr buf;

	if (skb->len <= USRLOOP_NET_HEAD && !skb_is_gso(skb))
		return skb->len;
	if (skb->ip_summed != CHECKSUM_PARTIAL)
		return PLAIN_HEAD;
	if (skb->csum_offset != offsetof(struct tcphdr, check))
		return start + sizeof(struct udphdr);
	tcp = skb_header_pointer(skb, start, sizeof(buf), &buf);
	return tcp ? start + __tcp_hdrlen(tcp) : U32_MAX;
}

/*
 * The packet as the server sees it, or its first bytes. Return: how many of the frame's; 0: it
 * cannot be said in a header, or is too large.
 */
static u32 net_tx_copy(struct usrloop_end *end, u32 slot, struct sk_buff *skb)
{
	struct virtio_net_hdr_mrg_rxbuf *header = usrloop_data(end, slot);
	u32 len = end->zc ? net_tx_head_len(skb) : skb->len;
	struct virtio_net_hdr h;

	if (len > (end->zc ? USRLOOP_NET_HEAD : end->slot_size - HEADER) ||
	    virtio_net_hdr_from_skb(skb, &h, true, false, 0))
		return 0;
	if (end->zc && skb_shinfo(skb)->nr_frags >= USRLOOP_NET_SEGMENTS && skb_linearize(skb))
		return 0;
	header->hdr = h;
	header->num_buffers = 0;
	return skb_copy_bits(skb, 0, header + 1, len) ? 0 : len;
}

/*
 * Stop the queue while all slots are on their way. Under the transmit lock. Return: whether it
 * is stopped.
 */
static bool net_tx_stop_if_full(struct usrloop_netq *nq, const struct usrloop_end *end)
{
	if (likely(nq->head - READ_ONCE(nq->tail) <= end->mask))
		return false;
	netif_tx_stop_queue(nq->txq);
	u64_stats_update_begin(&nq->tx_sync);
	u64_stats_inc(&nq->tx[TX_FULL]);
	u64_stats_update_end(&nq->tx_sync);
	/* Pairs with that in net_tx_reclaim(): one of the two sees the other's change. */
	smp_mb();
	if (nq->head - READ_ONCE(nq->tail) > end->mask)
		return true;
	netif_tx_start_queue(nq->txq);
	return false;
}

netdev_tx_t usrloop_net_xmit(struct sk_buff *skb, struct net_device *netdev)
{
	struct usrloop_dev *dev = usrloop_net_dev(netdev);
	struct usrloop_queue *q = &dev->queue[skb_get_queue_mapping(skb)];
	u32 slot, seq, copied, len = skb->len;
	struct usrloop_netq *nq = q->net;
	struct usrloop_sqe sqe;
	struct usrloop_end *end;
	bool wake;

	rcu_read_lock();
	end = rcu_dereference(q->end);
	if (!end)
		goto err_drop;
	/* Not stopped though it is full: the interface was down and is up again. */
	if (unlikely(net_tx_stop_if_full(nq, end))) {
		usrloop_wake(end);
		rcu_read_unlock();
		return NETDEV_TX_BUSY;
	}
	slot = nq->head & end->mask;
	copied = net_tx_copy(end, slot, skb);
	if (!copied)
		goto err_drop;
	seq = usrloop_slot_seq(usrloop_slot_word(nq->head, 0));
	sqe = (struct usrloop_sqe) { .tag = slot, .seq = seq, .op = USRLOOP_OP_TX,
				     .len = HEADER + len };
	spin_lock(&q->lock);
	if (rcu_access_pointer(q->end) != end ||
	    (copied < len && usrloop_zc_send(end, slot, skb, copied, &sqe))) {
		spin_unlock(&q->lock);
		goto err_drop;
	}
	atomic_set(&q->slot[slot].word, usrloop_slot_word(seq, SLOT_SERVED));
	nq->bytes[slot] = len;
	if (nq->tail == nq->head)
		nq->since = usrloop_clock();
	nq->head++;
	skb_tx_timestamp(skb);
	/* Before the server can see it, and complete it. */
	wake = __netdev_tx_sent_queue(nq->txq, len, netdev_xmit_more());
	usrloop_push(end, &sqe);
	spin_unlock(&q->lock);
	/* One that is mapped may be gone by now. */
	if (copied == len)
		dev_consume_skb_any(skb);

	u64_stats_update_begin(&nq->tx_sync);
	u64_stats_inc(&nq->tx[TX_PACKETS]);
	u64_stats_add(&nq->tx[TX_BYTES], len);
	u64_stats_add(&nq->tx[TX_COPIED], copied);
	u64_stats_update_end(&nq->tx_sync);
	if (net_tx_stop_if_full(nq, end) || wake)
		usrloop_wake(end);
	rcu_read_unlock();
	return NETDEV_TX_OK;

err_drop:
	/* Those before it may have counted on it. */
	if (end && !netdev_xmit_more())
		usrloop_wake(end);
	rcu_read_unlock();
	net_tx_drop(nq, skb);
	return NETDEV_TX_OK;
}

/* Take back slots in the ring's order. queue->lock held. */
static void net_tx_reclaim(struct usrloop_queue *q, u32 mask)
{
	struct usrloop_netq *nq = q->net;
	unsigned int packets = 0, bytes = 0;
	u32 tail = nq->tail;

	while (tail != nq->head &&
	       usrloop_slot_state(atomic_read(&q->slot[tail & mask].word)) == SLOT_FREE) {
		bytes += nq->bytes[tail & mask];
		packets++;
		tail++;
	}
	if (!packets)
		return;
	WRITE_ONCE(nq->tail, tail);
	nq->since = usrloop_clock();
	netdev_tx_completed_queue(nq->txq, packets, bytes);
	/* Pairs with that in net_tx_stop_if_full(). */
	smp_mb();
	if (netif_tx_queue_stopped(nq->txq))
		netif_tx_wake_queue(nq->txq);
}

/*
 * What the server says it has sent, up to @tail. queue->lock held. Packets to be freed go to
 * @sent.
 */
static unsigned int net_tx_take_sent(struct usrloop_end *end, u32 tail, struct sk_buff_head *sent)
{
	struct usrloop_queue *q = end->queue;
	unsigned int refused = 0;

	if (unlikely(tail - end->cq_head > end->mask + 1)) {
		refused = 1;
		end->cq_head = tail - (end->mask + 1);
	}
	for (; end->cq_head != tail; end->cq_head++) {
		struct usrloop_cqe *cqe = &end->cq[end->cq_head & end->mask];
		u32 tag = READ_ONCE(cqe->tag), seq = READ_ONCE(cqe->seq);
		struct sk_buff *skb;

		if (tag > end->mask || READ_ONCE(cqe->reserved) ||
		    !usrloop_slot_move(&q->slot[tag], seq, SLOT_SERVED, SLOT_FREE)) {
			refused++;
			continue;
		}
		skb = end->zc ? usrloop_zc_sent(end, tag) : NULL;
		if (skb)
			__skb_queue_tail(sent, skb);
	}
	net_tx_reclaim(q, end->mask);
	return refused;
}

/**
 * usrloop_net_collect() - take what a server says it has sent
 * @end:	its end of a queue
 *
 * Context: process, no locks.
 * Return: how many completions named no packet on its way.
 */
unsigned int usrloop_net_collect(struct usrloop_end *end)
{
	struct usrloop_queue *q = end->queue;
	/* Pairs with the server's release: what it wrote before is there. */
	u32 tail = smp_load_acquire(&end->ring->cq_tail);
	unsigned int refused = 0;
	struct sk_buff_head sent;
	struct sk_buff *skb;
	int index = 0;

	if (end->cq_head == tail)
		return 0;
	if (end->zc)
		index = usrloop_zc_enter(end->zc);
	__skb_queue_head_init(&sent);
	spin_lock_bh(&q->lock);
	/* Not started; or the session is detached, or about to be, as its claim ends. */
	if (rcu_access_pointer(q->end) != end || index < 0)
		end->cq_head = tail;
	else
		refused = net_tx_take_sent(end, tail, &sent);
	spin_unlock_bh(&q->lock);
	if (end->zc && index >= 0)
		usrloop_zc_exit(end->zc, index);
	while ((skb = __skb_dequeue(&sent)))
		dev_consume_skb_any(skb);
	return refused;
}

#define LOOKS	4	/* in the time that a server has for a packet */

/* Look again, after a part of the time-out. Context: process. */
void usrloop_net_watch(struct usrloop_net *net)
{
	u32 ms = net->dev->info.timeout_ms;

	if (ms)
		queue_delayed_work(usrloop_wq(net->dev), &net->watch,
				   max(msecs_to_jiffies(ms) / LOOKS, 1UL));
}

/* The generation of the server that has left a queue's oldest packet alone; 0: none has. */
static u32 net_tx_overdue(struct usrloop_queue *q)
{
	unsigned long limit = msecs_to_jiffies(q->dev->info.timeout_ms);
	const struct usrloop_netq *nq = q->net;
	const struct usrloop_end *end;
	u32 generation = 0;

	spin_lock_bh(&q->lock);
	end = rcu_dereference_protected(q->end, lockdep_is_held(&q->lock));
	if (end && nq->tail != nq->head && time_after_eq(usrloop_clock(), nq->since + limit))
		generation = end->session->generation;
	spin_unlock_bh(&q->lock);
	return generation;
}

/*
 * A server that leaves a packet alone counts as dead. The kernel's own watchdog would warn as if
 * that were a fault of the module, looks at full queues only, and goes on by jiffies while the
 * server is frozen.
 */
void usrloop_net_watch_work(struct work_struct *work)
{
	struct usrloop_net *net = container_of(to_delayed_work(work), struct usrloop_net, watch);
	struct usrloop_dev *dev = net->dev;
	unsigned int i;

	for (i = 0; i < dev->info.queues; i++) {
		u32 generation = net_tx_overdue(&dev->queue[i]);

		if (generation)
			usrloop_dev_overdue(dev, generation);
	}
	usrloop_net_watch(net);
}

/* Whether a checksum is that of TCP or UDP right behind the outer header, which is IPv4. */
static bool net_tx_plain_checksum(const struct sk_buff *skb)
{
	int at = skb_network_offset(skb);
	const struct iphdr *ip;
	struct iphdr buf;

	if (skb_vlan_tag_present(skb) && skb->vlan_proto != htons(ETH_P_8021Q))
		return false;
	if (skb->protocol == htons(ETH_P_8021AD))
		return false;
	ip = skb_header_pointer(skb, at, sizeof(buf), &buf);
	if (!ip || ip->version != 4 || ip_is_fragment(ip) ||
	    at + ip->ihl * 4 != skb_checksum_start_offset(skb))
		return false;
	if (ip->protocol == IPPROTO_TCP)
		return skb->csum_offset == offsetof(struct tcphdr, check);
	return ip->protocol == IPPROTO_UDP && skb->csum_offset == offsetof(struct udphdr, check);
}

/* Features that the server's device has for a packet whose data the server does not see. */
netdev_features_t usrloop_net_features(struct sk_buff *skb, struct net_device *netdev,
				       netdev_features_t features)
{
	const struct usrloop_info *info = &usrloop_net_dev(netdev)->info;
	u32 tag = skb_vlan_tag_present(skb) ? VLAN_HLEN : 0;	/* it goes into the frame later */
	u32 most = (info->net.max_csum ?: U32_MAX) - tag;

	features = vlan_features_check(skb, features);
	if (!usrloop_zero_copy(info) || skb->ip_summed != CHECKSUM_PARTIAL)
		return features;
	if (skb->encapsulation || !skb_transport_header_was_set(skb) ||
	    skb_checksum_start_offset(skb) != skb_transport_offset(skb) ||
	    !net_tx_plain_checksum(skb) || net_tx_head_len(skb) + tag > USRLOOP_NET_HEAD ||
	    (skb_is_gso(skb) ? !skb_gso_validate_mac_len(skb, most) : skb->len > most))
		features &= ~(NETIF_F_CSUM_MASK | NETIF_F_GSO_MASK);
	return features;
}
