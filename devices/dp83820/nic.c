// SPDX-License-Identifier: MIT
/* The chip as a whole: life, the regions (sections 2 and 3), INTA# (section 3.5), bus mastering. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "nic.h"

static uint32_t all_ones(unsigned int width)
{
	return width >= 4 ? UINT32_MAX : (1u << (width * 8)) - 1;
}

static bool answers(struct nic *n, unsigned int region, uint64_t offset, unsigned int width)
{
	uint64_t size = region < USRDRV_NUM_BARS ? n->base.bar[region].size : 0;
	uint8_t enable = region == 0 ? 1 : 2;

	if ((width == 1 || width == 2 || width == 4) && offset % width == 0 && offset < size &&
	    (n->cfg_space[0x04] & enable) && nic_powered(n))
		return true;
	n->count.unexpected++;
	return false;
}

static bool in_config(uint64_t offset, unsigned int width)
{
	return (width == 1 || width == 2 || width == 4) && offset < USRDRV_MODEL_CONFIG_SIZE &&
		width <= USRDRV_MODEL_CONFIG_SIZE - offset;
}

static uint32_t dp83820_read(struct usrdrv_model *base, unsigned int region, uint64_t offset,
			     unsigned int width)
{
	struct nic *n = to_nic(base);
	uint32_t value = all_ones(width);

	pthread_mutex_lock(&n->lock);
	if (region == USRDRV_REGION_CONFIG) {
		n->count.config_reads++;
		if (in_config(offset, width))
			value = nic_config_read(n, (uint32_t)offset, width);
	} else {
		n->count.register_reads++;
		if (answers(n, region, offset, width))
			value = nic_reg_read(n, (uint32_t)offset, width);
	}
	pthread_mutex_unlock(&n->lock);
	return value;
}

static void dp83820_write(struct usrdrv_model *base, unsigned int region, uint64_t offset,
			  unsigned int width, uint32_t value)
{
	struct nic *n = to_nic(base);

	pthread_mutex_lock(&n->lock);
	if (region == USRDRV_REGION_CONFIG) {
		n->count.config_writes++;
		if (in_config(offset, width))
			nic_config_write(n, (uint32_t)offset, width, value);
	} else {
		n->count.register_writes++;
		if (answers(n, region, offset, width))
			nic_reg_write(n, (uint32_t)offset, width, value);
	}
	pthread_mutex_unlock(&n->lock);
}

static void dp83820_reset(struct usrdrv_model *base)
{
	struct nic *n = to_nic(base);

	pthread_mutex_lock(&n->lock);
	nic_reset(n);
	pthread_mutex_unlock(&n->lock);
}

static void dp83820_destroy(struct usrdrv_model *base)
{
	struct nic *n = to_nic(base);

	nic_engine_stop(n);
	if (n->wire)
		n->wire->ops->destroy(n->wire);
	for (unsigned int i = 0; i < n->delays; i++)
		free(n->delayed[i].data);
	free(n->fifo);
	if (n->kick_fd >= 0)
		close(n->kick_fd);
	if (n->epoll_fd >= 0)
		close(n->epoll_fd);
	pthread_mutex_destroy(&n->lock);
	free(n);
}

static const struct usrdrv_model_ops dp83820_ops = {
	.read = dp83820_read, .write = dp83820_write, .reset = dp83820_reset, .destroy = dp83820_destroy,
};

static int plug_in(struct nic *n)
{
	const struct dp83820_config *c = &n->config;
	int fd, record, ret;

	switch (c->wire) {
	case DP83820_WIRE_NONE:
		return 0;
	case DP83820_WIRE_CABLE:
		return wire_cable(n->epoll_fd, c->cable, &n->wire);
	case DP83820_WIRE_LOOP:
		return wire_loop(n->epoll_fd, &n->wire);
	case DP83820_WIRE_TAP:
		fd = dup(c->wire_fd);
		ret = fd < 0 ? -errno : wire_tap(n->epoll_fd, fd, &n->wire);
		if (ret && fd >= 0)
			close(fd);
		return ret;
	case DP83820_WIRE_PCAP:
		record = c->record_fd >= 0 ? dup(c->record_fd) : -1;
		ret = wire_pcap(n->epoll_fd, c->wire_fd, record, c->replay_paced, &n->wire);
		if (ret && record >= 0)
			close(record);
		return ret;
	}
	return -EINVAL;
}

/**
 * dp83820_create() - a NIC with its EEPROM, PHY and wire, in power-on state
 * @config: copied; descriptors are duplicated
 * @model: the result, owned by the caller, who frees it with ops->destroy
 *
 * Return: 0, -EINVAL, -ENAMETOOLONG for a cable, -EBADMSG for a file that is not pcap, or -errno.
 */
int dp83820_create(const struct dp83820_config *config, struct usrdrv_model **model)
{
	struct nic *n = calloc(1, sizeof(*n));
	int ret;

	if (!n)
		return -ENOMEM;
	pthread_mutex_init(&n->lock, NULL);
	nic_faults_init(n);
	n->config = *config;
	n->config.cable[sizeof(n->config.cable) - 1] = 0;
	n->epoll_fd = n->kick_fd = -1;
	n->base.ops = &dp83820_ops;
	n->base.bar[0] = (struct usrdrv_model_bar){ .size = DP83820_BAR0_SIZE, .flags = USRDRV_BAR_IO };
	n->base.bar[1] = (struct usrdrv_model_bar){ .size = DP83820_BAR1_SIZE };
	n->base.config_size = USRDRV_MODEL_CONFIG_SIZE;
	n->base.vectors[USRDRV_IRQ_INTX] = 1;
	n->fifo = aligned_alloc(64, sizeof(*n->fifo));
	if (n->fifo)
		memset(n->fifo, 0, sizeof(*n->fifo));
	n->fifo_in.ring = n->fifo_out.ring = n->fifo;
	nic_eeprom_init(n);
	ret = !n->fifo ? -ENOMEM : config->phy < 1 || config->phy > 31 ? -EINVAL : nic_engine_start(n);
	if (!ret) {
		pthread_mutex_lock(&n->lock);
		ret = plug_in(n);
		if (!ret) {
			nic_reset(n);
			memset(&n->count, 0, sizeof(n->count));
		}
		pthread_mutex_unlock(&n->lock);
	}
	if (ret) {
		dp83820_destroy(&n->base);
		return ret;
	}
	*model = &n->base;
	return 0;
}

/* A consistent copy of all counters. */
void dp83820_counters(struct usrdrv_model *model, struct dp83820_counters *counters)
{
	struct nic *n = to_nic(model);

	pthread_mutex_lock(&n->lock);
	*counters = n->count;
	pthread_mutex_unlock(&n->lock);
}

/* The speed of the link in Mb/s; 0: down. */
int dp83820_link(struct usrdrv_model *model)
{
	struct nic *n = to_nic(model);
	int speed;

	pthread_mutex_lock(&n->lock);
	speed = n->link ? (int)n->speed : 0;
	pthread_mutex_unlock(&n->lock);
	return speed;
}
