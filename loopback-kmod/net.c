// SPDX-License-Identifier: GPL-2.0
/*
 * Network interfaces. A packet is copied once each way: at transmission into the slot that its
 * place in
 * the ring names, at reception out of one into an skb, by NAPI in the server's own ENTER.
 *
 * Slots to the wire are used in the ring's order; a server may complete them in any. They are
 * FREE or
 * SERVED. What is on its way when a server dies is lost, as on a wire: the interface loses its
 * carrier
 * and nothing else.
 */
#include <linux/capability.h>
#include <linux/etherdevice.h>
#include <linux/if_vlan.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/nsproxy.h>
#include <linux/slab.h>
#include <linux/virtio_net.h>
#include <net/net_namespace.h>

#include "compat.h"
#include "net.h"

#define HEADER		sizeof(struct virtio_net_hdr_mrg_rxbuf)
#define COPY_WHOLE	2048u	/* bytes of a frame that get a linear skb */
#define COPY_HEAD	256u	/* of a larger one, what the stack looks at */

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

/* The packet as the server sees it. Return: its length, 0 if it cannot be said in a header. */
static u32 copy_packet(struct usrloop_end *end, u32 slot, const struct sk_buff *skb)
{
	struct virtio_net_hdr_mrg_rxbuf *header = usrloop_data(end, slot);
	struct virtio_net_hdr h;

	if (skb->len > end->slot_size - HEADER || virtio_net_hdr_from_skb(skb, &h, true, false, 0))
		return 0;
	header->hdr = h;
	header->num_buffers = 0;
	if (skb_copy_bits(skb, 0, header + 1, skb->len))
		return 0;
	return HEADER + skb->len;
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
	struct usrloop_netq *nq = q->net;
	struct usrloop_end *end;
	u32 slot, seq, len;
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
	len = copy_packet(end, slot, skb);
	if (!len)
		goto err_drop;
	spin_lock(&q->lock);
	if (rcu_access_pointer(q->end) != end) {
		spin_unlock(&q->lock);
		goto err_drop;
	}
	seq = usrloop_slot_seq(usrloop_slot_word(nq->head, 0));
	atomic_set(&q->slot[slot].word, usrloop_slot_word(seq, SLOT_SERVED));
	nq->bytes[slot] = skb->len;
	nq->head++;
	/* Before the server can see it, and complete it. */
	wake = __netdev_tx_sent_queue(nq->txq, skb->len, netdev_xmit_more());
	usrloop_push(end, &(struct usrloop_sqe){
				  .tag = slot, .seq = seq, .op = USRLOOP_OP_TX, .len = len });
	spin_unlock(&q->lock);

	u64_stats_update_begin(&nq->tx_sync);
	u64_stats_inc(&nq->tx.tx_packets);
	u64_stats_add(&nq->tx.tx_bytes, skb->len);
	u64_stats_update_end(&nq->tx_sync);
	if (stop_if_full(nq, end) || wake)
		usrloop_wake(end);
	rcu_read_unlock();
	skb_tx_timestamp(skb);
	dev_consume_skb_any(skb);
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

static unsigned int collect_sent(struct usrloop_end *end)
{
	struct usrloop_queue *q = end->queue;
	/* Pairs with the server's release: what it wrote before is there. */
	u32 tail = smp_load_acquire(&end->ring->cq_tail);
	unsigned int refused = 0;

	if (end->cq_head == tail)
		return 0;
	spin_lock_bh(&q->lock);
	if (rcu_access_pointer(q->end) != end) {
		end->cq_head = tail;	/* not started, or not ours any more */
		goto out;
	}
	if (unlikely(tail - end->cq_head > end->mask + 1)) {
		refused = 1;
		end->cq_head = tail - (end->mask + 1);
	}
	for (; end->cq_head != tail; end->cq_head++) {
		struct usrloop_cqe *cqe = &end->cq[end->cq_head & end->mask];
		u32 tag = READ_ONCE(cqe->tag), seq = READ_ONCE(cqe->seq);

		if (tag > end->mask || READ_ONCE(cqe->reserved) ||
		    !usrloop_slot_move(&q->slot[tag], seq, SLOT_SERVED, SLOT_FREE))
			refused++;
	}
	reclaim(q, end->mask);
out:
	spin_unlock_bh(&q->lock);
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

static struct sk_buff *make_skb(struct usrloop_netq *nq, const void *frame, u32 len)
{
	struct sk_buff *skb;
	int err;

	if (len <= COPY_WHOLE) {
		skb = napi_alloc_skb(&nq->napi, len);
		if (skb)
			skb_put_data(skb, frame, len);
		return skb;
	}
	skb = alloc_skb_with_frags(NET_SKB_PAD + NET_IP_ALIGN + COPY_HEAD, len - COPY_HEAD,
				   PAGE_ALLOC_COSTLY_ORDER, &err, GFP_ATOMIC | __GFP_NOWARN);
	if (!skb)
		return NULL;
	skb_reserve(skb, NET_SKB_PAD + NET_IP_ALIGN);
	skb->dev = nq->napi.dev;
	skb_put(skb, COPY_HEAD);
	skb->data_len = len - COPY_HEAD;
	skb->len = len;
	if (skb_store_bits(skb, 0, frame, len)) {
		kfree_skb(skb);
		return NULL;
	}
	return skb;
}

/* Whether a packet from the wire asks for no more than was agreed on. */
static bool offload_allowed(const struct virtio_net_hdr *h, u32 features)
{
	if (h->flags & ~(VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID))
		return false;
	if (h->flags && !(features & USRLOOP_NET_CSUM))
		return false;
	switch (h->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
	case VIRTIO_NET_HDR_GSO_NONE:
		return !h->gso_type;
	case VIRTIO_NET_HDR_GSO_TCPV4:
	case VIRTIO_NET_HDR_GSO_TCPV6:
		return features & USRLOOP_NET_TSO;
	case VIRTIO_NET_HDR_GSO_UDP_L4:
		return features & USRLOOP_NET_USO;
	}
	return false;
}

/*
 * One packet from the wire. Its header is copied before it is looked at: the server can write
 * to it at any time.
 */
static void receive(struct usrloop_netq *nq, struct usrloop_end *end, u32 slot)
{
	const struct virtio_net_hdr_mrg_rxbuf *header = usrloop_data(end, end->mask + 1 + slot);
	u32 len = READ_ONCE(end->rx[slot].len);
	struct virtio_net_hdr h;
	struct sk_buff *skb;

	if (len < HEADER + ETH_HLEN || len > end->slot_size)
		goto err;
	len -= HEADER;
	memcpy(&h, &header->hdr, sizeof(h));
	barrier();	/* or the compiler might read it again */
	skb = make_skb(nq, header + 1, len);
	if (!skb) {
		u64_stats_update_begin(&nq->rx_sync);
		u64_stats_inc(&nq->rx.rx_dropped);
		u64_stats_update_end(&nq->rx_sync);
		return;
	}
	if (!offload_allowed(&h, nq->queue->dev->info.features))
		goto err_free;
	if (h.flags & VIRTIO_NET_HDR_F_DATA_VALID && nq->napi.dev->features & NETIF_F_RXCSUM)
		skb->ip_summed = CHECKSUM_UNNECESSARY;
	if (virtio_net_hdr_to_skb(skb, &h, true))
		goto err_free;
	skb_record_rx_queue(skb, nq->queue->index);
	skb->protocol = eth_type_trans(skb, nq->napi.dev);
	u64_stats_update_begin(&nq->rx_sync);
	u64_stats_inc(&nq->rx.rx_packets);
	u64_stats_add(&nq->rx.rx_bytes, len);
	u64_stats_update_end(&nq->rx_sync);
	napi_gro_receive(&nq->napi, skb);
	return;

err_free:
	kfree_skb(skb);
err:
	u64_stats_update_begin(&nq->rx_sync);
	u64_stats_inc(&nq->rx.rx_errors);
	u64_stats_update_end(&nq->rx_sync);
}

static int net_poll(struct napi_struct *napi, int budget)
{
	struct usrloop_netq *nq = container_of(napi, struct usrloop_netq, napi);
	struct usrloop_end *end;
	int done = 0;

	rcu_read_lock();
	end = rcu_dereference(nq->queue->end);
	if (end) {
		/* Pairs with the server's release: the packets are there. */
		u32 tail = smp_load_acquire(&end->ring->rx_tail);

		if (unlikely(tail - end->rx_head > end->mask + 1)) {
			atomic64_inc(&nq->queue->dev->refused);
			WRITE_ONCE(end->rx_head, tail - (end->mask + 1));
		}
		for (; done < budget && end->rx_head != tail; done++) {
			receive(nq, end, end->rx_head & end->mask);
			WRITE_ONCE(end->rx_head, end->rx_head + 1);
		}
		/* Their slots may be written to again. */
		smp_store_release(&end->ring->rx_head, end->rx_head);
	}
	rcu_read_unlock();
	if (done < budget)
		napi_complete_done(napi, done);
	return done;
}

/*
 * What came while the interface was down is nobody's, and its slots may be written to again.
 * Context: NAPI is off, so what it owns is ours.
 */
static void discard_received(struct usrloop_queue *q)
{
	struct usrloop_end *end;

	rcu_read_lock();
	end = rcu_dereference(q->end);
	if (end) {
		u32 tail = READ_ONCE(end->ring->rx_tail);

		WRITE_ONCE(end->rx_head, tail);
		WRITE_ONCE(end->ring->rx_head, tail);
	}
	rcu_read_unlock();
}

static int net_open(struct net_device *netdev)
{
	struct usrloop_dev *dev = usrloop_net_dev(netdev);
	unsigned int i;

	for (i = 0; i < dev->info.queues; i++) {
		discard_received(&dev->queue[i]);
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
		stats->rx_packets += count[4];
		stats->rx_bytes += count[5];
		stats->rx_errors += count[6];
		stats->rx_dropped += count[7];
	}
}

static const struct net_device_ops netdev_ops = {
	.ndo_open		= net_open,
	.ndo_stop		= net_close,
	.ndo_start_xmit		= net_xmit,
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
	if (p->mtu < ETH_MIN_MTU || p->max_mtu < p->mtu || p->max_mtu > ETH_MAX_MTU - ETH_HLEN ||
	    p->reserved[0] || p->reserved[1])
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

	if (features & USRLOOP_NET_CSUM)
		f |= NETIF_F_HW_CSUM | NETIF_F_RXCSUM;
	if (features & USRLOOP_NET_TSO)
		f |= NETIF_F_TSO | NETIF_F_TSO6 | NETIF_F_TSO_ECN;
	if (features & USRLOOP_NET_USO)
		f |= NETIF_F_GSO_UDP_L4;
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
		netif_napi_add(netdev, &nq->napi, net_poll);
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
