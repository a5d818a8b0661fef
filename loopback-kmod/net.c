// SPDX-License-Identifier: GPL-2.0
/*
 * Network interfaces, and packets to the wire: each is copied into the slot that its place in the
 * ring names, or its headers are, and the rest is mapped (zc_net.c).
 *
 * Slots to the wire are used in the ring's order; a server may complete them in any. They are FREE
 * or SERVED. What is on its way when a server dies is lost, as on a wire: the interface loses its
 * carrier and nothing else.
 */
#include <linux/capability.h>
#include <linux/etherdevice.h>
#include <linux/if_vlan.h>
#include <linux/ip.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/nsproxy.h>
#include <linux/slab.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <linux/virtio_net.h>
#include <net/ip.h>
#include <net/net_namespace.h>

#include "compat.h"
#include "net.h"

#define HEADER		USRLOOP_NET_HEADER
#define PLAIN_HEAD	128u	/* bytes of a packet whose headers nobody asks for */

struct usrloop_dev *usrloop_net_dev(const struct net_device *netdev)
{
	return *(struct usrloop_dev **)netdev_priv(netdev);
}

static void drop(struct usrloop_netq *nq, struct sk_buff *skb)
{
	u64_stats_update_begin(&nq->tx_sync);
	u64_stats_inc(&nq->tx.tx_dropped);
	u64_stats_update_end(&nq->tx_sync);
	dev_kfree_skb_any(skb);
}

/*
 * Bytes of headers, or more; of a large packet exactly up to the data, as of what needs a checksum
 * and is not copied as a whole.
 */
static u32 head_len(const struct sk_buff *skb)
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
static u32 copy_packet(struct usrloop_end *end, u32 slot, struct sk_buff *skb)
{
	struct virtio_net_hdr_mrg_rxbuf *header = usrloop_data(end, slot);
	u32 len = end->zc ? head_len(skb) : skb->len;
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
static bool stop_if_full(struct usrloop_netq *nq, const struct usrloop_end *end)
{
	if (likely(nq->head - READ_ONCE(nq->tail) <= end->mask))
		return false;
	netif_tx_stop_queue(nq->txq);
	u64_stats_update_begin(&nq->tx_sync);
	u64_stats_inc(&nq->tx.tx_full);
	u64_stats_update_end(&nq->tx_sync);
	/* Pairs with that in reclaim(): one of us sees the other. */
	smp_mb();
	if (nq->head - READ_ONCE(nq->tail) > end->mask)
		return true;
	netif_tx_start_queue(nq->txq);
	return false;
}

static netdev_tx_t net_xmit(struct sk_buff *skb, struct net_device *netdev)
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
	if (unlikely(stop_if_full(nq, end))) {
		usrloop_wake(end);
		rcu_read_unlock();
		return NETDEV_TX_BUSY;
	}
	slot = nq->head & end->mask;
	copied = copy_packet(end, slot, skb);
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
	u64_stats_inc(&nq->tx.tx_packets);
	u64_stats_add(&nq->tx.tx_bytes, len);
	u64_stats_add(&nq->tx.tx_copied, copied);
	u64_stats_update_end(&nq->tx_sync);
	if (stop_if_full(nq, end) || wake)
		usrloop_wake(end);
	rcu_read_unlock();
	return NETDEV_TX_OK;

err_drop:
	/* Those before it may have counted on it. */
	if (end && !netdev_xmit_more())
		usrloop_wake(end);
	rcu_read_unlock();
	drop(nq, skb);
	return NETDEV_TX_OK;
}

/* Take back slots in the ring's order. queue->lock held. */
static void reclaim(struct usrloop_queue *q, u32 mask)
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
	netdev_tx_completed_queue(nq->txq, packets, bytes);
	/* Pairs with that in stop_if_full(). */
	smp_mb();
	if (netif_tx_queue_stopped(nq->txq))
		netif_tx_wake_queue(nq->txq);
}

/*
 * What the server says it has sent, up to @tail. queue->lock held. Packets to be freed go to
 * @sent.
 */
static unsigned int take_sent(struct usrloop_end *end, u32 tail, struct sk_buff_head *sent)
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
	reclaim(q, end->mask);
	return refused;
}

static unsigned int collect_sent(struct usrloop_end *end)
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
	/* Not started; or not ours any more, or soon not, as the claim is going. */
	if (rcu_access_pointer(q->end) != end || index < 0)
		end->cq_head = tail;
	else
		refused = take_sent(end, tail, &sent);
	spin_unlock_bh(&q->lock);
	if (end->zc && index >= 0)
		usrloop_zc_exit(end->zc, index);
	while ((skb = __skb_dequeue(&sent)))
		dev_consume_skb_any(skb);
	return refused;
}

static unsigned int net_collect(struct usrloop_end *end)
{
	struct usrloop_netq *nq = end->queue->net;
	unsigned int refused = collect_sent(end);

	if (READ_ONCE(end->ring->rx_tail) != READ_ONCE(end->rx_head)) {
		local_bh_disable();
		rcu_read_lock();
		if (rcu_dereference(end->queue->end) == end)
			napi_schedule(&nq->napi);
		rcu_read_unlock();
		local_bh_enable();	/* and that is when it runs */
	}
	if (likely(!refused))
		return 0;
	atomic64_add(refused, &end->queue->dev->refused);
	return USRLOOP_READY_REFUSED;
}

static int net_open(struct net_device *netdev)
{
	struct usrloop_dev *dev = usrloop_net_dev(netdev);
	unsigned int i;

	for (i = 0; i < dev->info.queues; i++) {
		usrloop_net_discard(&dev->queue[i]);
		napi_enable(&dev->net->queue[i].napi);
	}
	/* A server that called between the two was not heard. */
	local_bh_disable();
	for (i = 0; i < dev->info.queues; i++)
		napi_schedule(&dev->net->queue[i].napi);
	local_bh_enable();
	netif_tx_start_all_queues(netdev);
	return 0;
}

static int net_close(struct net_device *netdev)
{
	struct usrloop_dev *dev = usrloop_net_dev(netdev);
	unsigned int i;

	netif_tx_stop_all_queues(netdev);
	for (i = 0; i < dev->info.queues; i++)
		napi_disable(&dev->net->queue[i].napi);
	return 0;
}

static void net_stats(struct net_device *netdev, struct rtnl_link_stats64 *stats)
{
	struct usrloop_dev *dev = usrloop_net_dev(netdev);
	unsigned int i;
	u64 count[USRLOOP_COUNTS];

	for (i = 0; i < dev->info.queues; i++) {
		usrloop_net_counts(&dev->net->queue[i], count);
		stats->tx_packets += count[0];
		stats->tx_bytes += count[1];
		stats->tx_dropped += count[2];
		stats->rx_packets += count[5];
		stats->rx_bytes += count[6];
		stats->rx_errors += count[7];
		stats->rx_dropped += count[8];
	}
}

/* Whether a checksum is that of TCP or UDP right behind the outer header, which is IPv4. */
static bool plain_checksum(const struct sk_buff *skb)
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

/* What the server's device fills in by itself, as nobody else sees the data. */
static netdev_features_t net_features(struct sk_buff *skb, struct net_device *netdev,
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
	    !plain_checksum(skb) || head_len(skb) + tag > USRLOOP_NET_HEAD ||
	    (skb_is_gso(skb) ? !skb_gso_validate_mac_len(skb, most) : skb->len > most))
		features &= ~(NETIF_F_CSUM_MASK | NETIF_F_GSO_MASK);
	return features;
}

static const struct net_device_ops netdev_ops = {
	.ndo_open		= net_open,
	.ndo_stop		= net_close,
	.ndo_start_xmit		= net_xmit,
	.ndo_features_check	= net_features,
	.ndo_get_stats64	= net_stats,
	.ndo_validate_addr	= eth_validate_addr,
	.ndo_set_mac_address	= eth_mac_addr,
};

static int check_params(struct usrloop_info *info)
{
	struct usrloop_net_params *p = &info->net;

	if (info->features & (USRLOOP_NET_TSO | USRLOOP_NET_USO) &&
	    !(info->features & USRLOOP_NET_CSUM))
		return -EINVAL;
	if (usrloop_zero_copy(info) ? info->features & USRLOOP_NET_USO : p->max_csum)
		return -EINVAL;
	if (p->max_csum && p->max_csum < ETH_ZLEN)
		return -EINVAL;
	if (p->mtu < ETH_MIN_MTU || p->max_mtu < p->mtu || p->max_mtu > ETH_MAX_MTU - ETH_HLEN ||
	    p->reserved[0] || p->reserved[1] || p->reserved2)
		return -EINVAL;
	if (strnlen(p->name, sizeof(p->name)) == sizeof(p->name))
		return -EINVAL;
	if (!p->name[0])
		strscpy(p->name, "usrnet%d", sizeof(p->name));
	if (is_zero_ether_addr(p->mac))
		eth_random_addr(p->mac);
	return is_valid_ether_addr(p->mac) ? 0 : -EINVAL;
}

static void net_free(struct usrloop_dev *dev)
{
	unsigned int i;

	for (i = 0; i < dev->info.queues; i++)
		kvfree(dev->net->queue[i].bytes);
	kfree(dev->net);
}

static int net_create(struct usrloop_dev *dev)
{
	unsigned int i;
	int ret;

	if (!ns_capable(current->nsproxy->net_ns->user_ns, CAP_NET_ADMIN))
		return -EPERM;
	ret = check_params(&dev->info);
	if (ret)
		return ret;
	dev->net = kzalloc(struct_size(dev->net, queue, dev->info.queues), GFP_KERNEL_ACCOUNT);
	if (!dev->net)
		return -ENOMEM;
	for (i = 0; i < dev->info.queues; i++) {
		struct usrloop_netq *nq = &dev->net->queue[i];

		nq->queue = &dev->queue[i];
		dev->queue[i].net = nq;
		u64_stats_init(&nq->tx_sync);
		u64_stats_init(&nq->rx_sync);
		nq->bytes = kvcalloc(dev->info.depth, sizeof(*nq->bytes), GFP_KERNEL_ACCOUNT);
		if (!nq->bytes) {
			net_free(dev);
			return -ENOMEM;
		}
	}
	return 0;
}

static void set_features(struct net_device *netdev, u32 features)
{
	netdev_features_t f = NETIF_F_SG | NETIF_F_FRAGLIST;

	if (features & USRLOOP_NET_ZERO_COPY) {
		f = NETIF_F_SG;
		if (features & USRLOOP_NET_CSUM)
			f |= NETIF_F_IP_CSUM | NETIF_F_RXCSUM;
		if (features & USRLOOP_NET_TSO)
			f |= NETIF_F_TSO | NETIF_F_TSO_ECN;
		/* They stay with us for a while. */
		netdev->priv_flags &= ~IFF_TX_SKB_SHARING;
		goto out;
	}
	if (features & USRLOOP_NET_CSUM)
		f |= NETIF_F_HW_CSUM | NETIF_F_RXCSUM;
	if (features & USRLOOP_NET_TSO)
		f |= NETIF_F_TSO | NETIF_F_TSO6 | NETIF_F_TSO_ECN;
	if (features & USRLOOP_NET_USO)
		f |= NETIF_F_GSO_UDP_L4;
out:
	netdev->hw_features = f;
	netdev->features = f | NETIF_F_HIGHDMA;
	netdev->vlan_features = f | NETIF_F_HIGHDMA;
}

static int net_start(struct usrloop_dev *dev)
{
	const struct usrloop_net_params *p = &dev->info.net;
	struct net *net = current->nsproxy->net_ns;
	struct net_device *netdev;
	unsigned int i;
	int ret;

	if (!ns_capable(net->user_ns, CAP_NET_ADMIN))
		return -EPERM;
	netdev = alloc_netdev_mqs(sizeof(dev), p->name,
				  strchr(p->name, '%') ? NET_NAME_ENUM : NET_NAME_USER, ether_setup,
				  dev->info.queues, dev->info.queues);
	if (!netdev)
		return -ENOMEM;
	*(struct usrloop_dev **)netdev_priv(netdev) = dev;
	dev_net_set(netdev, net);
	netdev->netdev_ops = &netdev_ops;
	netdev->ethtool_ops = &usrloop_ethtool_ops;
	netdev->sysfs_groups[0] = &usrloop_group;
	netdev->min_mtu = ETH_MIN_MTU;
	netdev->max_mtu = p->max_mtu;
	netdev->mtu = p->mtu;
	netdev->priv_flags |= IFF_LIVE_ADDR_CHANGE;
	eth_hw_addr_set(netdev, p->mac);
	set_features(netdev, dev->info.features);
	for (i = 0; i < dev->info.queues; i++) {
		struct usrloop_netq *nq = &dev->net->queue[i];

		nq->txq = netdev_get_tx_queue(netdev, i);
		netif_napi_add(netdev, &nq->napi, usrloop_net_poll);
	}
	netif_carrier_off(netdev);
	dev->net->netdev = netdev;
	ret = register_netdev(netdev);
	if (ret) {
		dev->net->netdev = NULL;
		free_netdev(netdev);
		return ret;
	}
	dev->info.ifindex = netdev->ifindex;
	return 0;
}

static void net_stop(struct usrloop_dev *dev)
{
	struct net_device *netdev = dev->net->netdev;

	unregister_netdev(netdev);
	dev->net->netdev = NULL;
	dev->info.ifindex = 0;
	free_netdev(netdev);
}

static bool net_in_use(struct usrloop_dev *dev)
{
	return false;	/* an interface may go at any time */
}

static void net_carrier(struct usrloop_dev *dev, u32 speed)
{
	WRITE_ONCE(dev->net->speed, speed);
	if (speed)
		netif_carrier_on(dev->net->netdev);
	else
		netif_carrier_off(dev->net->netdev);
}

static void net_attached(struct usrloop_queue *q)
{
}

static void net_detached(struct usrloop_queue *q, bool fail_lost, bool fail_held)
{
	struct usrloop_netq *nq = q->net;
	u32 i, lost;

	if (!q->dev->net->netdev)
		return;
	if (!q->index)
		net_carrier(q->dev, 0);
	spin_lock_bh(&q->lock);
	lost = nq->head - nq->tail;
	for (i = 0; i < q->dev->info.depth; i++)
		atomic_set(&q->slot[i].word, usrloop_slot_word(0, SLOT_FREE));
	WRITE_ONCE(nq->tail, nq->head);
	netdev_tx_reset_queue(nq->txq);
	spin_unlock_bh(&q->lock);
	__netif_tx_lock_bh(nq->txq);
	u64_stats_update_begin(&nq->tx_sync);
	u64_stats_add(&nq->tx.tx_dropped, lost);
	u64_stats_update_end(&nq->tx_sync);
	__netif_tx_unlock_bh(nq->txq);
	if (netif_running(q->dev->net->netdev))
		netif_tx_wake_queue(nq->txq);
}

const struct usrloop_kind usrloop_net_kind = {
	.name		= "usrnet",
	.create		= net_create,
	.free		= net_free,
	.start		= net_start,
	.stop		= net_stop,
	.in_use		= net_in_use,
	.attached	= net_attached,
	.detached	= net_detached,
	.carrier	= net_carrier,
	.collect	= net_collect,
};
