// SPDX-License-Identifier: MIT
/*
 * The controller as a whole: life, the regions (section 3), INTA# (section 5).
 *
 * See docs/design/models.md.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cmd680_priv.h"

/* Offsets of BAR0-BAR4 in the register file (section 3). */
static const struct {
	uint32_t base, size;
} io_bar[5] = {
	{ 0x80, 8 }, { 0x88, 4 }, { 0xc0, 8 }, { 0xc8, 4 }, { 0x00, 16 },
};

static uint32_t all_ones(unsigned int width)
{
	return width == 4 ? UINT32_MAX : (1u << (width * 8)) - 1;
}

/* Where an access to a BAR lands in the register file; false: nothing answers there. */
static bool decode(struct model *m, unsigned int region, uint64_t offset, unsigned int width,
		   uint32_t *at)
{
	uint64_t size = region < USRDRV_NUM_BARS ? m->base.bar[region].size : 0;
	uint8_t enable = region == 5 ? 0x02 : 0x01;

	if (offset >= size || width > size - offset || !(m->cfg[0x04] & enable) || !powered(m)) {
		m->count.unexpected++;
		return false;
	}
	*at = (uint32_t)offset + (region < 5 ? io_bar[region].base : 0);
	return true;
}

static bool width_ok(unsigned int width)
{
	return width == 1 || width == 2 || width == 4;
}

static uint32_t cmd680_read(struct usrdrv_model *base, unsigned int region, uint64_t offset,
			    unsigned int width)
{
	struct model *m = to_model(base);
	uint32_t value = all_ones(width_ok(width) ? width : 4);
	uint32_t at;

	pthread_mutex_lock(&m->lock);
	(*(region == USRDRV_REGION_CONFIG ? &m->count.config_reads : &m->count.register_reads))++;
	if (!width_ok(width)) {
		m->count.unexpected++;
	} else if (region == USRDRV_REGION_CONFIG) {
		if (offset < USRDRV_MODEL_CONFIG_SIZE && width <= USRDRV_MODEL_CONFIG_SIZE - offset)
			value = cmd680_config_read(m, (uint32_t)offset, width);
	} else if (decode(m, region, offset, width, &at)) {
		value = cmd680_regs_read(m, at, width);
	}
	pthread_mutex_unlock(&m->lock);
	return value;
}

static void cmd680_write(struct usrdrv_model *base, unsigned int region, uint64_t offset,
			 unsigned int width, uint32_t value)
{
	struct model *m = to_model(base);
	uint32_t at;

	pthread_mutex_lock(&m->lock);
	(*(region == USRDRV_REGION_CONFIG ? &m->count.config_writes : &m->count.register_writes))++;
	if (!width_ok(width)) {
		m->count.unexpected++;
	} else if (region == USRDRV_REGION_CONFIG) {
		if (offset < USRDRV_MODEL_CONFIG_SIZE && width <= USRDRV_MODEL_CONFIG_SIZE - offset)
			cmd680_config_write(m, (uint32_t)offset, width, value);
	} else if (decode(m, region, offset, width, &at)) {
		cmd680_regs_write(m, at, width, value);
	}
	pthread_mutex_unlock(&m->lock);
}

static void cmd680_reset(struct usrdrv_model *base)
{
	struct model *m = to_model(base);

	pthread_mutex_lock(&m->lock);
	cmd680_reset_all(m);
	pthread_mutex_unlock(&m->lock);
}

static void cmd680_destroy(struct usrdrv_model *base)
{
	struct model *m = to_model(base);

	pthread_mutex_lock(&m->lock);
	m->stop = true;
	for (unsigned int i = 0; i < 2; i++)
		pthread_cond_signal(&m->ch[i].wake);
	pthread_mutex_unlock(&m->lock);
	for (unsigned int i = 0; i < 2; i++) {
		cmd680_worker_join(&m->ch[i]);
		for (unsigned int k = 0; k < 2; k++)
			if (m->ch[i].drive[k].present)
				cmd680_store_close(&m->ch[i].drive[k].store);
	}
	cmd680_strict_summary(m);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

static const struct usrdrv_model_ops cmd680_ops = {
	.read = cmd680_read,
	.write = cmd680_write,
	.reset = cmd680_reset,
	.destroy = cmd680_destroy,
};

static void channel_init(struct model *m, unsigned int index)
{
	struct channel *ch = &m->ch[index];
	pthread_condattr_t attr;

	ch->m = m;
	ch->index = index;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&ch->wake, &attr);
	pthread_condattr_destroy(&attr);
}

/**
 * cmd680_create() - a controller with its disks, in power-on state
 * @config: copied; the image descriptors are duplicated
 * @model: the result, owned by the caller, who frees it with ops->destroy
 *
 * Return: 0, -EINVAL for sizes or modes that make no sense, -ENOMEM, or the -errno of a medium.
 */
int cmd680_create(const struct cmd680_config *config, struct usrdrv_model **model)
{
	struct model *m = calloc(1, sizeof(*m));
	int err = 0;

	if (!m)
		return -ENOMEM;
	pthread_mutex_init(&m->lock, NULL);
	cmd680_faults_init(m);
	m->config = *config;
	m->base.ops = &cmd680_ops;
	for (unsigned int i = 0; i < 5; i++)
		m->base.bar[i] = (struct usrdrv_model_bar){ .size = io_bar[i].size, .flags = USRDRV_BAR_IO };
	if (!config->no_bar5)
		m->base.bar[5] = (struct usrdrv_model_bar){ .size = CMD680_BAR5_SIZE };
	m->base.config_size = USRDRV_MODEL_CONFIG_SIZE;
	m->base.vectors[USRDRV_IRQ_INTX] = 1;
	for (unsigned int i = 0; i < 2; i++)
		channel_init(m, i);
	for (unsigned int i = 0; i < CMD680_DRIVES; i++) {
		struct drive *d = &m->ch[i / 2].drive[i % 2];

		d->ch = &m->ch[i / 2];
		d->index = i;
		d->config = config->drive[i];
		d->count = &m->count.drive[i];
		if (!d->config.present)
			continue;
		if (d->config.max_udma > 6 || d->config.max_mwdma > 2)
			err = -EINVAL;
		if (!err)
			err = cmd680_store_open(&d->store, &d->config);
		if (err)
			break;
		d->present = true;
		d->puis = d->config.puis;
		ata_power_up(d);
		ata_power_on(d);
	}
	if (err) {
		cmd680_destroy(&m->base);
		return err;
	}
	cmd680_reset_all(m);
	memset(&m->count, 0, sizeof(m->count));
	*model = &m->base;
	return 0;
}

/* A consistent copy of all counters. */
void cmd680_counters(struct usrdrv_model *model, struct cmd680_counters *counters)
{
	struct model *m = to_model(model);

	pthread_mutex_lock(&m->lock);
	*counters = m->count;
	pthread_mutex_unlock(&m->lock);
}
