// SPDX-License-Identifier: GPL-2.0
/*
 * Network interfaces: made, started, stopped. Their packets are in net_tx.c, net_rx.c.
 *
 * When a server dies, an interface loses its carrier, what was on its way, and nothing else.
 */
#include <linux/capability.h>
#include <linux/etherdevice.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/nsproxy.h>
#include <linux/rtnetlink.h>
#include <linux/slab.h>
#include <net/net_namespace.h>
#include <net/rtnetlink.h>

#include "net.h"

static unsigned int net_collect(struct usrloop_end *end)
{
	struct usrloop_netq *nq = end->queue->net;
	unsigned int refused = usrloop_net_collect(end);

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
	u64 tx[TX_COUNTS], rx[RX_COUNTS];
	unsigned int i;

	for (i = 0; i < dev->info.queues; i++) {
		usrloop_net_counts(&dev->net->queue[i], tx, rx);
		stats->tx_packets += tx[TX_PACKETS];
		stats->tx_bytes += tx[TX_BYTES];
		stats->tx_dropped += tx[TX_DROPPED];
		stats->rx_packets += rx[RX_PACKETS];
		stats->rx_bytes += rx[RX_BYTES];
		stats->rx_errors += rx[RX_ERRORS];
		stats->rx_dropped += rx[RX_DROPPED];
	}
}

/* It goes, under RTNL; no NAPI runs any more. What we have goes before what the kernel has. */
static void net_uninit(struct net_device *netdev)
{
	struct usrloop_dev *dev = usrloop_net_dev(netdev);
	unsigned int i;

	for (i = 0; i < dev->info.queues; i++)
		netif_napi_del(&dev->net->queue[i].napi);
}

static const struct net_device_ops netdev_ops = {
	.ndo_uninit		= net_uninit,
	.ndo_open		= net_open,
	.ndo_stop		= net_close,
	.ndo_start_xmit		= usrloop_net_xmit,
	.ndo_features_check	= usrloop_net_features,
	.ndo_get_stats64	= net_stats,
	.ndo_validate_addr	= eth_validate_addr,
	.ndo_set_mac_address	= eth_mac_addr,
};

static int net_check_params(struct usrloop_info *info)
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
	ret = net_check_params(&dev->info);
	if (ret)
		return ret;
	dev->net = kzalloc(struct_size(dev->net, queue, dev->info.queues), GFP_KERNEL_ACCOUNT);
	if (!dev->net)
		return -ENOMEM;
	dev->net->dev = dev;
	INIT_DELAYED_WORK(&dev->net->watch, usrloop_net_watch_work);
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

static void net_set_features(struct net_device *netdev, u32 features)
{
	netdev_features_t f = NETIF_F_SG | NETIF_F_FRAGLIST;

	if (features & USRLOOP_NET_ZERO_COPY) {
		f = NETIF_F_SG;
		if (features & USRLOOP_NET_CSUM)
			f |= NETIF_F_IP_CSUM | NETIF_F_RXCSUM;
		if (features & USRLOOP_NET_TSO)
			f |= NETIF_F_TSO | NETIF_F_TSO_ECN;
		/* Packets are kept until the server has completed them. */
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

/*
 * An interface goes with its network namespace, as a TAP does, or by "ip link delete": to init_net
 * goes only what has no such thing. The device is stopped later, as dev->lock comes before RTNL;
 * net_stop() releases the interface, and its deletion waits for that.
 */
static void net_dellink(struct net_device *netdev, struct list_head *head)
{
	struct usrloop_dev *dev = usrloop_net_dev(netdev);

	WRITE_ONCE(dev->net->vanished, true);
	unregister_netdevice_queue(netdev, head);
	usrloop_dev_vanish(dev);
}

static struct rtnl_link_ops link_ops = {
	.kind		= KBUILD_MODNAME,
	.dellink	= net_dellink,
};

int usrloop_net_init(void)
{
	return rtnl_link_register(&link_ops);
}

/* Waits until the last interface is gone. */
void usrloop_net_exit(void)
{
	rtnl_link_unregister(&link_ops);
}

/* Called last of an interface, when its last reference is gone. */
static void net_gone(struct net_device *netdev)
{
	complete(&usrloop_net_dev(netdev)->net->gone);
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
	netdev->rtnl_link_ops = &link_ops;
	netdev->min_mtu = ETH_MIN_MTU;
	netdev->max_mtu = p->max_mtu;
	netdev->mtu = p->mtu;
	netdev->priv_flags |= IFF_LIVE_ADDR_CHANGE;
	eth_hw_addr_set(netdev, p->mac);
	net_set_features(netdev, dev->info.features);
	for (i = 0; i < dev->info.queues; i++) {
		struct usrloop_netq *nq = &dev->net->queue[i];

		nq->txq = netdev_get_tx_queue(netdev, i);
		netif_napi_add(netdev, &nq->napi, usrloop_net_poll);
	}
	netif_carrier_off(netdev);
	dev->net->vanished = false;
	init_completion(&dev->net->gone);
	rtnl_lock();
	ret = register_netdevice(netdev);
	if (ret) {
		rtnl_unlock();
		free_netdev(netdev);
		return ret;
	}
	netdev_hold(netdev, &dev->net->tracker, GFP_KERNEL);
	netdev->needs_free_netdev = true;
	netdev->priv_destructor = net_gone;
	dev->net->netdev = netdev;
	dev->info.ifindex = netdev->ifindex;
	rtnl_unlock();
	return 0;
}

static void net_stop(struct usrloop_dev *dev)
{
	struct net_device *netdev = dev->net->netdev;

	rtnl_lock();
	if (!dev->net->vanished)
		unregister_netdevice(netdev);
	netdev_put(netdev, &dev->net->tracker);
	dev->net->netdev = NULL;
	dev->info.ifindex = 0;
	rtnl_unlock();
	wait_for_completion(&dev->net->gone);
}

static bool net_vanished(struct usrloop_dev *dev)
{
	return READ_ONCE(dev->net->vanished);
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

static struct net *net_netns(struct usrloop_dev *dev, u32 *ifindex)
{
	const struct net_device *netdev = dev->net->netdev;
	struct net *net;

	rtnl_lock();	/* it does not move meanwhile */
	net = maybe_get_net(dev_net(netdev));
	*ifindex = netdev->ifindex;
	rtnl_unlock();
	return net;
}

static void net_attached(struct usrloop_queue *q)
{
	if (q->index == q->dev->info.queues - 1)
		usrloop_net_watch(q->dev->net);
}

static void net_detached(struct usrloop_queue *q, bool fail_lost, bool fail_held)
{
	struct usrloop_netq *nq = q->net;
	u32 i, lost;

	if (!q->dev->net->netdev)
		return;
	if (!q->index) {
		cancel_delayed_work_sync(&q->dev->net->watch);
		net_carrier(q->dev, 0);
	}
	spin_lock_bh(&q->lock);
	lost = nq->head - nq->tail;
	for (i = 0; i < q->dev->info.depth; i++)
		atomic_set(&q->slot[i].word, usrloop_slot_word(0, SLOT_FREE));
	WRITE_ONCE(nq->tail, nq->head);
	netdev_tx_reset_queue(nq->txq);
	spin_unlock_bh(&q->lock);
	__netif_tx_lock_bh(nq->txq);
	u64_stats_update_begin(&nq->tx_sync);
	u64_stats_add(&nq->tx[TX_DROPPED], lost);
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
	.vanished	= net_vanished,
	.attached	= net_attached,
	.detached	= net_detached,
	.carrier	= net_carrier,
	.netns		= net_netns,
	.collect	= net_collect,
#if IS_ENABLED(CONFIG_USRDRV)
	.zc		= &usrloop_zc_net,
#endif
};
