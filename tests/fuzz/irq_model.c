// SPDX-License-Identifier: MIT
#include "irq_model.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define MSIX	0x40	/* capabilities */
#define MSI	0x50
#define EXPRESS	0x60
#define SERIAL	0x100

struct irq_model {
	struct usrdrv_model base;
	pthread_mutex_t lock;
	uint8_t config[USRDRV_MODEL_EXPRESS_SIZE], writable[USRDRV_MODEL_EXPRESS_SIZE];
	uint8_t kept[2][8];
	uint8_t table[IRQ_MODEL_TABLE_SIZE];
	uint32_t level;
};

static void put(struct irq_model *m, unsigned int at, unsigned int bytes, uint64_t value, uint64_t writable)
{
	memcpy(m->config + at, &value, bytes);
	memcpy(m->writable + at, &writable, bytes);
}

/* Put a capability in front of those that are there. */
static void capability(struct irq_model *m, unsigned int at, uint8_t id)
{
	put(m, at, 2, id | m->config[0x34] << 8, 0);
	m->config[0x34] = (uint8_t)at;
}

/* Of the line, and of the bit of the status register that says so: the kernel asks it whose interrupt it is. */
static void set_level(struct irq_model *m, uint32_t level)
{
	m->level = level;
	m->config[0x06] = (uint8_t)((m->config[0x06] & ~8u) | level << 3);
	if (m->base.host.irq)
		m->base.host.irq(m->base.host.ctx, (int)level);
}

static void reset(struct irq_model *m)
{
	const unsigned int *n = m->base.vectors;
	unsigned int log = 0;

	memset(m->config, 0, sizeof(m->config));
	put(m, 0x00, 4, 0xbe111209, 0);
	put(m, 0x04, 4, 0x00100000, 0x0406);	/* capabilities; memory, master, INTx off */
	put(m, 0x08, 4, 0xff000000, 0);
	put(m, 0x10, 8, 12, ~(uint64_t)(IRQ_MODEL_SIZE - 1));
	put(m, 0x18, 4, 0, ~(uint32_t)(IRQ_MODEL_TABLE_SIZE - 1));
	put(m, 0x3c, 4, n[USRDRV_IRQ_INTX] ? 0x0100 : 0, 0xff);
	capability(m, EXPRESS, 0x10);
	put(m, EXPRESS + 2, 2, 2, 0);		/* an endpoint, version 2 */
	if (n[USRDRV_IRQ_MSI]) {
		while (2u << log <= n[USRDRV_IRQ_MSI])
			log++;
		capability(m, MSI, 0x05);
		put(m, MSI + 2, 2, 0x80 | log << 1, 0x71);
		put(m, MSI + 4, 8, 0, ~3ull);
		put(m, MSI + 12, 2, 0, 0xffff);
	}
	if (n[USRDRV_IRQ_MSIX]) {
		capability(m, MSIX, 0x11);
		put(m, MSIX + 2, 2, n[USRDRV_IRQ_MSIX] - 1, 0xc000);
		put(m, MSIX + 4, 4, 2, 0);
		put(m, MSIX + 8, 4, IRQ_MODEL_PENDING | 2, 0);
	}
	put(m, SERIAL, 4, 0x00010003, 0);
	put(m, SERIAL + 4, 8, 0x0123456789abcdef, 0);
	memset(m->kept, 0, sizeof(m->kept));
	memset(m->table, 0, sizeof(m->table));
	set_level(m, 0);
}

/* Bytes that are only stored, or NULL. */
static uint8_t *stored(struct irq_model *m, unsigned int region, uint64_t offset, unsigned int width)
{
	if (region == 0 && offset >= IRQ_MODEL_LAST && offset + width <= IRQ_MODEL_SIZE)
		return m->kept[1] + (offset - IRQ_MODEL_LAST);
	if (region == 0 && offset >= IRQ_MODEL_WIDE && offset + width <= IRQ_MODEL_WIDE + 8)
		return m->kept[0] + (offset - IRQ_MODEL_WIDE);
	if (region == 2 && offset < IRQ_MODEL_TABLE_SIZE && width <= IRQ_MODEL_TABLE_SIZE - offset)
		return m->table + offset;
	return NULL;
}

static uint32_t do_read(struct usrdrv_model *base, unsigned int region, uint64_t offset, unsigned int width)
{
	struct irq_model *m = (struct irq_model *)base;
	uint32_t value = region == 0 ? 0 : UINT32_MAX;
	uint8_t *at;

	pthread_mutex_lock(&m->lock);
	at = stored(m, region, offset, width);
	if (region == USRDRV_REGION_CONFIG && offset < sizeof(m->config) && width <= sizeof(m->config) - offset)
		at = m->config + offset;
	if (at)
		memcpy(&value, at, width);
	else if (region == 0 && offset == IRQ_MODEL_LEVEL)
		value = m->level;
	pthread_mutex_unlock(&m->lock);
	return width < 4 ? value & ((1u << 8 * width) - 1) : value;
}

static void do_write(struct usrdrv_model *base, unsigned int region, uint64_t offset, unsigned int width,
		     uint32_t value)
{
	struct irq_model *m = (struct irq_model *)base;
	uint8_t *at;

	pthread_mutex_lock(&m->lock);
	at = stored(m, region, offset, width);
	if (at)
		memcpy(at, &value, width);
	else if (region == 0 && offset == IRQ_MODEL_MESSAGE)
		m->base.host.message(m->base.host.ctx, value);
	else if (region == 0 && offset == IRQ_MODEL_LEVEL)
		set_level(m, value & 1);
	for (unsigned int i = 0; region == USRDRV_REGION_CONFIG && i < width && offset + i < sizeof(m->config); i++) {
		uint8_t may = m->writable[offset + i], *to = &m->config[offset + i];

		*to = (uint8_t)((*to & ~may) | (value >> 8 * i & may));
	}
	pthread_mutex_unlock(&m->lock);
}

static void do_reset(struct usrdrv_model *base)
{
	struct irq_model *m = (struct irq_model *)base;

	pthread_mutex_lock(&m->lock);
	reset(m);
	pthread_mutex_unlock(&m->lock);
}

static void do_destroy(struct usrdrv_model *base)
{
	struct irq_model *m = (struct irq_model *)base;

	pthread_mutex_destroy(&m->lock);
	free(m);
}

static const struct usrdrv_model_ops ops = {
	.read = do_read, .write = do_write, .reset = do_reset, .destroy = do_destroy,
};

struct usrdrv_model *irq_model_create(unsigned int intx, unsigned int msi, unsigned int msix)
{
	struct irq_model *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->base = (struct usrdrv_model){
		.ops = &ops,
		.bar = {
			[0] = { .size = IRQ_MODEL_SIZE, .flags = USRDRV_BAR_64 | USRDRV_BAR_PREFETCH },
			[2] = { .size = IRQ_MODEL_TABLE_SIZE },
		},
		.config_size = USRDRV_MODEL_EXPRESS_SIZE,
		.vectors = { [USRDRV_IRQ_INTX] = intx, [USRDRV_IRQ_MSI] = msi, [USRDRV_IRQ_MSIX] = msix },
	};
	pthread_mutex_init(&m->lock, NULL);
	reset(m);
	return &m->base;
}
