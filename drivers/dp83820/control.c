// SPDX-License-Identifier: MIT
/* What the control plane does with the data path: its life, and words to the dispatcher. */
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "dp.h"

/**
 * dp_create - allocate rings and buffers
 * @dev:	device; stays the caller's
 * @config:	copied; its stats go on from what they are, and stay the caller's
 * @out:	result
 *
 * Return: 0, -EINVAL for an MTU that the chip has no room for, -ENOMEM or another -errno.
 */
int dp_create(struct usrdrv_dev *dev, const struct dp_config *config, struct dp **out)
{
	struct dp *dp;
	int ret;

	if (config->mtu < 68 || config->mtu > 9000)
		return -EINVAL;
	dp = calloc(1, sizeof(*dp));
	if (!dp)
		return -ENOMEM;
	dp->dev = dev;
	dp->config = *config;
	dp->stats = config->stats;
	dp->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_mutex_init(&dp->event_lock, NULL);
	pthread_cond_init(&dp->event_cond, NULL);
	ret = dp->kick_fd < 0 ? -errno : dp_rx_alloc(dp);
	if (!ret)
		ret = dp_tx_alloc(dp);
	if (ret) {
		dp_destroy(dp);
		return ret;
	}
	*out = dp;
	return 0;
}

/**
 * dp_start - begin to move frames; the chip receives when this returns
 * @dp:		device; the chip is set up but for rings and interrupts
 * @port:	to the kernel; stays the caller's
 *
 * Return: 0, -EINVAL for a port of the other kind, or another -errno.
 */
int dp_start(struct dp *dp, struct usrdrv_net_port *port)
{
	int ret;

	if (!dp->config.zero_copy != !port->buffers || port->buffers > DP_RX_RING)
		return -EINVAL;
	dp->port = port;
	port->stats = dp->stats;
	ret = -pthread_create(&dp->dispatcher, NULL, dp_dispatch, dp);
	dp->running = !ret;
	if (!ret)
		dp_await_start(dp);
	return ret;
}

static void kick(struct dp *dp)
{
	eventfd_write(dp->kick_fd, 1);
}

/* After DP_EVENT_STUCK or DP_EVENT_BUS, with a chip that is set up again: empty rings, and on. */
void dp_restart(struct dp *dp)
{
	dp->stats->resets++;
	atomic_store(&dp->restart, 1);
	kick(dp);
}

/* Without a link, packets are dropped rather than kept. */
void dp_set_link(struct dp *dp, int up)
{
	if (atomic_exchange(&dp->link, up) != up)
		dp->stats->link_changes++;
	kick(dp);
}

/*
 * End the dispatcher, and whoever waits for events. The chip is as it was: quiesce it before dp_destroy(),
 * which gives memory back, also to the kernel.
 */
void dp_stop(struct dp *dp)
{
	atomic_store(&dp->stop, 1);
	if (dp->running) {
		kick(dp);
		pthread_join(dp->dispatcher, NULL);
		dp->running = false;
	}
	pthread_mutex_lock(&dp->event_lock);
	dp->shut_down = true;
	pthread_cond_broadcast(&dp->event_cond);
	pthread_mutex_unlock(&dp->event_lock);
}

void dp_destroy(struct dp *dp)
{
	dp_tx_give_back(dp);
	dp_tx_free(dp);
	dp_rx_free(dp);
	if (dp->kick_fd >= 0)
		close(dp->kick_fd);
	pthread_cond_destroy(&dp->event_cond);
	pthread_mutex_destroy(&dp->event_lock);
	free(dp);
}
