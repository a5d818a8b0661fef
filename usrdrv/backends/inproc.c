// SPDX-License-Identifier: MIT
/*
 * The in-process backend: a device model called directly. A register access
 * is a function call; an interrupt that is held costs no system call.
 *
 * See docs/design/held-interrupts.md.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "areas.h"
#include "backends.h"
#include "bounds.h"

struct inproc {
	struct usrdrv_dev dev;
	struct usrdrv_model *model;
	pthread_rwlock_t lock;		/* areas */
	struct areas areas;
	pthread_mutex_t irq_lock;
	/* INTx */
	int level;
	int masked;
	int pending;			/* an interrupt was raised while held */
	int holders;
	/* of any kind: dev.irq_kind says which is connected */
	unsigned int vectors;
	struct vector {
		int fd;			/* -1: nobody is told */
		int waits;		/* a message, for an fd */
	} *vector;
};

static struct inproc *of(struct usrdrv_dev *dev)
{
	return (struct inproc *)dev;
}

static void *dma_ptr(void *ctx, uint64_t addr, size_t len, int device_writes, size_t *avail)
{
	struct inproc *p = ctx;
	struct area *a;
	void *cpu = NULL;

	pthread_rwlock_rdlock(&p->lock);
	a = areas_find(&p->areas, addr);
	if (a) {
		uint64_t room = a->bus + a->len - addr;

		*avail = room < len ? (size_t)room : len;
		cpu = a->cpu + (addr - a->bus);
	}
	pthread_rwlock_unlock(&p->lock);
	return cpu;
}

static int dma_copy(void *ctx, uint64_t addr, void *buf, size_t len, int to_memory)
{
	uint8_t *b = buf;

	while (len) {
		size_t n;
		void *cpu = dma_ptr(ctx, addr, len, to_memory, &n);

		if (!cpu)
			return -EFAULT;
		if (to_memory)
			memcpy(cpu, b, n);
		else
			memcpy(b, cpu, n);
		addr += n;
		b += n;
		len -= n;
	}
	return 0;
}

static int dma_read(void *ctx, uint64_t addr, void *buf, size_t len)
{
	return dma_copy(ctx, addr, buf, len, 0);
}

static int dma_write(void *ctx, uint64_t addr, const void *buf, size_t len)
{
	return dma_copy(ctx, addr, (void *)(uintptr_t)buf, len, 1);
}

/* Signal a raised, unmasked INTx, or latch it for whoever holds; irq_lock held. */
static void deliver(struct inproc *p)
{
	if (p->dev.irq_kind != USRDRV_IRQ_INTX || !p->level || p->masked)
		return;
	p->masked = 1;
	if (p->holders)
		p->pending = 1;
	else if (p->vector[0].fd >= 0)
		eventfd_write(p->vector[0].fd, 1);
}

/* Signal the message of a vector, or let it wait until the vector is connected; irq_lock held. */
static void deliver_message(struct inproc *p, struct vector *v)
{
	v->waits = p->dev.irq_kind == USRDRV_IRQ_INTX || v->fd < 0;
	if (!v->waits)
		eventfd_write(v->fd, 1);
}

static void irq(void *ctx, int level)
{
	struct inproc *p = ctx;

	pthread_mutex_lock(&p->irq_lock);
	p->level = level;
	deliver(p);
	pthread_mutex_unlock(&p->irq_lock);
}

static void message(void *ctx, unsigned int vector)
{
	struct inproc *p = ctx;

	pthread_mutex_lock(&p->irq_lock);
	if (vector < p->vectors)
		deliver_message(p, &p->vector[vector]);
	pthread_mutex_unlock(&p->irq_lock);
}

/* A conventional bus moves 4 bytes at a time. */
static uint64_t read_register(struct usrdrv_model *m, unsigned int region, uint64_t offset, unsigned int width)
{
	uint64_t low = m->ops->read(m, region, offset, width > 4 ? 4 : width);

	return width > 4 ? low | (uint64_t)m->ops->read(m, region, offset + 4, 4) << 32 : low;
}

static void write_register(struct usrdrv_model *m, unsigned int region, uint64_t offset, unsigned int width,
			   uint64_t value)
{
	m->ops->write(m, region, offset, width > 4 ? 4 : width, (uint32_t)value);
	if (width > 4)
		m->ops->write(m, region, offset + 4, 4, (uint32_t)(value >> 32));
}

static int do_write_list(struct usrdrv_dev *dev, const struct usrdrv_write *w, unsigned int n)
{
	struct usrdrv_model *m = of(dev)->model;
	int ret = 0;

	for (; n--; w++) {
		int err = bounds_check(dev, m->config_size, w->region, w->offset, w->width);

		if (!err)
			write_register(m, w->region, w->offset, w->width, w->value);
		ret = ret ? ret : err;
	}
	return ret;
}

static int do_read(struct usrdrv_dev *dev, const struct usrdrv_write *w, unsigned int n, unsigned int region,
		   uint64_t offset, unsigned int width, uint64_t *value)
{
	struct usrdrv_model *m = of(dev)->model;
	int ret = do_write_list(dev, w, n), err = bounds_check(dev, m->config_size, region, offset, width);

	*value = err ? 0 : read_register(m, region, offset, width);
	return ret ? ret : err;
}

static int do_read_rep(struct usrdrv_dev *dev, unsigned int region, uint64_t offset, unsigned int width,
		       void *buf, unsigned int count)
{
	struct usrdrv_model *m = of(dev)->model;
	int ret = bounds_check(dev, m->config_size, region, offset, width);
	uint8_t *b = buf;

	for (; !ret && count--; b += width) {
		uint64_t v = read_register(m, region, offset, width);

		memcpy(b, &v, width);
	}
	return ret;
}

static int do_write_rep(struct usrdrv_dev *dev, unsigned int region, uint64_t offset, unsigned int width,
			const void *buf, unsigned int count)
{
	struct usrdrv_model *m = of(dev)->model;
	int ret = bounds_check(dev, m->config_size, region, offset, width);
	const uint8_t *b = buf;

	for (; !ret && count--; b += width) {
		uint64_t v = 0;

		memcpy(&v, b, width);
		write_register(m, region, offset, width, v);
	}
	return ret;
}

static int do_dma_alloc(struct usrdrv_dev *dev, size_t len, size_t align, uint64_t limit, struct usrdrv_dma *dma)
{
	struct inproc *p = of(dev);
	struct area a = { 0 };
	int at;

	pthread_rwlock_wrlock(&p->lock);
	at = areas_place(&p->areas, len, align, limit, &a);
	if (at >= 0) {
		a.cpu = mmap(NULL, a.len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (a.cpu == MAP_FAILED)
			at = -errno;
	}
	if (at >= 0) {
		areas_insert(&p->areas, at, &a);
		*dma = (struct usrdrv_dma){ .cpu = a.cpu, .bus = a.bus, .len = a.len };
	}
	pthread_rwlock_unlock(&p->lock);
	return at < 0 ? at : 0;
}

static int do_dma_map(struct usrdrv_dev *dev, void *cpu, size_t len, size_t align, uint64_t limit,
		      struct usrdrv_dma *dma)
{
	struct inproc *p = of(dev);
	struct area a = { .cpu = cpu, .foreign = 1 };
	int at;

	pthread_rwlock_wrlock(&p->lock);
	at = areas_place(&p->areas, len, align, limit, &a);
	if (at >= 0) {
		areas_insert(&p->areas, at, &a);
		*dma = (struct usrdrv_dma){ .cpu = cpu, .bus = a.bus, .len = a.len };
	}
	pthread_rwlock_unlock(&p->lock);
	return at < 0 ? at : 0;
}

static void do_dma_free(struct usrdrv_dev *dev, struct usrdrv_dma *dma)
{
	struct inproc *p = of(dev);
	struct area *a;

	pthread_rwlock_wrlock(&p->lock);
	a = areas_find(&p->areas, dma->bus);
	if (a) {
		if (!a->foreign)
			munmap(a->cpu, a->len);
		areas_remove(&p->areas, a);
	}
	pthread_rwlock_unlock(&p->lock);
	memset(dma, 0, sizeof(*dma));
}

static int do_irq_connect(struct usrdrv_dev *dev, unsigned int kind, const int *fds, unsigned int n)
{
	struct inproc *p = of(dev);

	if (kind >= USRDRV_IRQ_KINDS || n > dev->vectors[kind])
		return -EINVAL;
	pthread_mutex_lock(&p->irq_lock);
	dev->irq_kind = n ? kind : USRDRV_IRQ_KINDS;
	p->masked = p->pending = 0;
	for (unsigned int i = 0; i < p->vectors; i++) {
		p->vector[i].fd = i < n ? fds[i] : -1;
		if (p->vector[i].waits)
			deliver_message(p, &p->vector[i]);
	}
	deliver(p);
	pthread_mutex_unlock(&p->irq_lock);
	return 0;
}

static int do_irq_unmask(struct usrdrv_dev *dev, const struct usrdrv_write *w, unsigned int n)
{
	struct inproc *p = of(dev);

	do_write_list(dev, w, n);
	pthread_mutex_lock(&p->irq_lock);
	p->masked = 0;
	deliver(p);
	pthread_mutex_unlock(&p->irq_lock);
	return 0;
}

static void do_irq_hold(struct usrdrv_dev *dev)
{
	struct inproc *p = of(dev);

	pthread_mutex_lock(&p->irq_lock);
	p->holders++;
	pthread_mutex_unlock(&p->irq_lock);
}

static int do_irq_release(struct usrdrv_dev *dev)
{
	struct inproc *p = of(dev);
	int mine = 0;

	pthread_mutex_lock(&p->irq_lock);
	if (!--p->holders && p->pending) {
		p->pending = 0;
		mine = 1;
	}
	pthread_mutex_unlock(&p->irq_lock);
	return mine;
}

static int do_reset(struct usrdrv_dev *dev)
{
	struct inproc *p = of(dev);

	p->model->ops->reset(p->model);
	pthread_mutex_lock(&p->irq_lock);
	for (unsigned int i = 0; i < p->vectors; i++)
		p->vector[i].waits = 0;
	pthread_mutex_unlock(&p->irq_lock);
	return 0;
}

static void do_close(struct usrdrv_dev *dev)
{
	struct inproc *p = of(dev);
	struct usrdrv_model *m = p->model;

	m->ops->write(m, USRDRV_REGION_CONFIG, 4, 2, m->ops->read(m, USRDRV_REGION_CONFIG, 4, 2) & ~4u);
	m->ops->reset(m);
	m->host = (struct usrdrv_model_host){ 0 };
	for (unsigned int i = 0; i < p->areas.n; i++)
		if (!p->areas.area[i].foreign)
			munmap(p->areas.area[i].cpu, p->areas.area[i].len);
	close(dev->irq_fd);
	pthread_rwlock_destroy(&p->lock);
	pthread_mutex_destroy(&p->irq_lock);
	free(p->vector);
	free(p);
}

static const struct usrdrv_dev_ops ops = {
	.read = do_read, .write_list = do_write_list, .read_rep = do_read_rep, .write_rep = do_write_rep,
	.dma_alloc = do_dma_alloc, .dma_free = do_dma_free, .dma_map = do_dma_map,
	.irq_connect = do_irq_connect, .irq_unmask = do_irq_unmask,
	.irq_hold = do_irq_hold, .irq_release = do_irq_release, .reset = do_reset, .close = do_close,
};

/**
 * usrdrv_inproc_open - make a device of a model in this process
 * @m:		model; stays the caller's, and must outlive the device
 * @out:	result
 *
 * Return: 0 or -errno.
 */
int usrdrv_inproc_open(struct usrdrv_model *m, struct usrdrv_dev **out)
{
	struct inproc *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->vectors = 1;		/* the line's place, also if there is none */
	for (unsigned int i = 0; i < USRDRV_IRQ_KINDS; i++) {
		p->dev.vectors[i] = m->vectors[i];
		if (p->vectors < m->vectors[i])
			p->vectors = m->vectors[i];
	}
	p->vector = calloc(p->vectors, sizeof(*p->vector));
	p->dev.irq_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!p->vector || p->dev.irq_fd < 0) {
		if (p->dev.irq_fd >= 0)
			close(p->dev.irq_fd);
		free(p->vector);
		free(p);
		return -ENOMEM;
	}
	for (unsigned int i = 0; i < p->vectors; i++)
		p->vector[i].fd = -1;
	p->dev.irq_kind = USRDRV_IRQ_KINDS;
	if (m->vectors[USRDRV_IRQ_INTX]) {
		p->dev.irq_kind = USRDRV_IRQ_INTX;
		p->vector[0].fd = p->dev.irq_fd;
	}
	p->model = m;
	p->dev.ops = &ops;
	p->dev.hangup_fd = p->dev.unmask_fd = p->dev.claim_fd = -1;
	for (unsigned int i = 0; i < USRDRV_NUM_BARS; i++)
		p->dev.bar[i] = (struct usrdrv_bar){ .size = m->bar[i].size, .flags = m->bar[i].flags };
	pthread_rwlock_init(&p->lock, NULL);
	pthread_mutex_init(&p->irq_lock, NULL);
	m->host = (struct usrdrv_model_host){ .ctx = p, .dma_read = dma_read, .dma_write = dma_write,
					       .dma_ptr = dma_ptr, .irq = irq, .message = message };
	*out = &p->dev;
	return 0;
}
