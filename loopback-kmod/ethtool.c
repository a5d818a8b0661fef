// SPDX-License-Identifier: GPL-2.0
/* What ethtool(8) is told of an interface, and its counters. */
#include <linux/module.h>

#include "net.h"

static const char count_names[USRLOOP_COUNTS][ETH_GSTRING_LEN] = {
	"tx_packets", "tx_bytes", "tx_dropped", "tx_full", "tx_copied",
	"rx_packets", "rx_bytes", "rx_errors", "rx_dropped", "rx_copied",
};

/**
 * usrloop_net_counts() - read a queue's counters
 * @nq:		queue
 * @to:		USRLOOP_COUNTS of them, in the order of their names
 */
void usrloop_net_counts(struct usrloop_netq *nq, u64 *to)
{
	unsigned int start;

	do {
		start = u64_stats_fetch_begin(&nq->tx_sync);
		to[0] = u64_stats_read(&nq->tx.tx_packets);
		to[1] = u64_stats_read(&nq->tx.tx_bytes);
		to[2] = u64_stats_read(&nq->tx.tx_dropped);
		to[3] = u64_stats_read(&nq->tx.tx_full);
		to[4] = u64_stats_read(&nq->tx.tx_copied);
	} while (u64_stats_fetch_retry(&nq->tx_sync, start));
	do {
		start = u64_stats_fetch_begin(&nq->rx_sync);
		to[5] = u64_stats_read(&nq->rx.rx_packets);
		to[6] = u64_stats_read(&nq->rx.rx_bytes);
		to[7] = u64_stats_read(&nq->rx.rx_errors);
		to[8] = u64_stats_read(&nq->rx.rx_dropped);
		to[9] = u64_stats_read(&nq->rx.rx_copied);
	} while (u64_stats_fetch_retry(&nq->rx_sync, start));
}

static void net_ethtool_get_drvinfo(struct net_device *netdev, struct ethtool_drvinfo *info)
{
	struct usrloop_dev *dev = usrloop_net_dev(netdev);

	strscpy(info->driver, KBUILD_MODNAME, sizeof(info->driver));
	strscpy(info->version, THIS_MODULE->version, sizeof(info->version));
	strscpy(info->bus_info, dev->info.label, sizeof(info->bus_info));
}

static int net_ethtool_get_sset_count(struct net_device *netdev, int set)
{
	return set == ETH_SS_STATS ? USRLOOP_COUNTS * usrloop_net_dev(netdev)->info.queues
				   : -EOPNOTSUPP;
}

static void net_ethtool_get_strings(struct net_device *netdev, u32 set, u8 *data)
{
	unsigned int i, j;

	if (set != ETH_SS_STATS)
		return;
	for (i = 0; i < usrloop_net_dev(netdev)->info.queues; i++)
		for (j = 0; j < USRLOOP_COUNTS; j++)
			ethtool_sprintf(&data, "queue%u_%s", i, count_names[j]);
}

static void net_ethtool_get_stats(struct net_device *netdev, struct ethtool_stats *stats, u64 *data)
{
	struct usrloop_dev *dev = usrloop_net_dev(netdev);
	unsigned int i;

	for (i = 0; i < dev->info.queues; i++)
		usrloop_net_counts(&dev->net->queue[i], data + USRLOOP_COUNTS * i);
}

static int net_ethtool_get_link_ksettings(struct net_device *netdev,
					  struct ethtool_link_ksettings *settings)
{
	u32 speed = READ_ONCE(usrloop_net_dev(netdev)->net->speed);

	settings->base.speed = speed ?: SPEED_UNKNOWN;
	settings->base.duplex = speed ? DUPLEX_FULL : DUPLEX_UNKNOWN;
	settings->base.port = PORT_OTHER;
	return 0;
}

const struct ethtool_ops usrloop_ethtool_ops = {
	.get_drvinfo		= net_ethtool_get_drvinfo,
	.get_link		= ethtool_op_get_link,
	.get_sset_count		= net_ethtool_get_sset_count,
	.get_strings		= net_ethtool_get_strings,
	.get_ethtool_stats	= net_ethtool_get_stats,
	.get_link_ksettings	= net_ethtool_get_link_ksettings,
	.get_ts_info		= ethtool_op_get_ts_info,
};
