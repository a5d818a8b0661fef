// SPDX-License-Identifier: GPL-2.0
/* What ethtool(8) is told of an interface, and its counters. */
#include <linux/module.h>

#include "net.h"

static const char tx_names[TX_COUNTS][ETH_GSTRING_LEN] = {
	[TX_PACKETS] = "tx_packets", [TX_BYTES] = "tx_bytes", [TX_DROPPED] = "tx_dropped",
	[TX_FULL] = "tx_full", [TX_COPIED] = "tx_copied",
};

static const char rx_names[RX_COUNTS][ETH_GSTRING_LEN] = {
	[RX_PACKETS] = "rx_packets", [RX_BYTES] = "rx_bytes", [RX_ERRORS] = "rx_errors",
	[RX_DROPPED] = "rx_dropped", [RX_COPIED] = "rx_copied",
};

static void net_ethtool_read(const struct u64_stats_sync *sync, const u64_stats_t *from, u64 *to,
			     unsigned int n)
{
	unsigned int start, i;

	do {
		start = u64_stats_fetch_begin(sync);
		for (i = 0; i < n; i++)
			to[i] = u64_stats_read(&from[i]);
	} while (u64_stats_fetch_retry(sync, start));
}

/**
 * usrloop_net_counts() - read a queue's counters
 * @nq:		queue
 * @tx:		TX_COUNTS of them
 * @rx:		RX_COUNTS of them
 */
void usrloop_net_counts(struct usrloop_netq *nq, u64 *tx, u64 *rx)
{
	net_ethtool_read(&nq->tx_sync, nq->tx, tx, TX_COUNTS);
	net_ethtool_read(&nq->rx_sync, nq->rx, rx, RX_COUNTS);
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
	return set == ETH_SS_STATS ?
	       (TX_COUNTS + RX_COUNTS) * usrloop_net_dev(netdev)->info.queues : -EOPNOTSUPP;
}

static void net_ethtool_get_strings(struct net_device *netdev, u32 set, u8 *data)
{
	unsigned int i, j;

	if (set != ETH_SS_STATS)
		return;
	for (i = 0; i < usrloop_net_dev(netdev)->info.queues; i++) {
		for (j = 0; j < TX_COUNTS; j++)
			ethtool_sprintf(&data, "queue%u_%s", i, tx_names[j]);
		for (j = 0; j < RX_COUNTS; j++)
			ethtool_sprintf(&data, "queue%u_%s", i, rx_names[j]);
	}
}

static void net_ethtool_get_stats(struct net_device *netdev, struct ethtool_stats *stats, u64 *data)
{
	struct usrloop_dev *dev = usrloop_net_dev(netdev);
	unsigned int i;

	for (i = 0; i < dev->info.queues; i++, data += TX_COUNTS + RX_COUNTS)
		usrloop_net_counts(&dev->net->queue[i], data, data + TX_COUNTS);
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
