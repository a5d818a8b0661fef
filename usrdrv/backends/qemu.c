// SPDX-License-Identifier: MIT
/*
 * The QEMU backend: a PCI device of QEMU's, in a machine whose processor sleeps. Registers and configuration space are
 * lines on a socket (qtest.c). DMA memory is the machine's, a file that we have mapped.
 *
 * See docs/design/qemu.md.
 */
#define _GNU_SOURCE
#include "qemu_device.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

/* Configuration space: PCI 3.0, PCI Express 3.0 */
#define BARS		0x10
#define BRIDGE_CONTROL	0x3e
#define BRIDGE_RESET	0x0040
#define EXPRESS_FLR	(1u << 28)
#define EXPRESS_RESET	0x8000

static struct qemu *of(struct usrdrv_dev *dev)
{
	return (struct qemu *)dev;
}

static int do_read(struct usrdrv_dev *dev, const struct usrdrv_write *w, unsigned int n, unsigned int region,
		   uint64_t offset, unsigned int width, uint64_t *value)
{
	struct qemu *q = of(dev);
	int ret, err;

	pthread_mutex_lock(&q->lock);
	ret = qemu_post(q, w, n);
	err = qemu_ask(q, region, offset, width, value);
	qemu_deliver(q);
	pthread_mutex_unlock(&q->lock);
	return ret ? ret : err;
}

static int do_write_list(struct usrdrv_dev *dev, const struct usrdrv_write *w, unsigned int n)
{
	struct qemu *q = of(dev);
	int ret;

	pthread_mutex_lock(&q->lock);
	ret = qemu_post(q, w, n);
	qemu_deliver(q);	/* many answers are read on the way, and lines between them */
	pthread_mutex_unlock(&q->lock);
	return ret;
}

static int do_read_rep(struct usrdrv_dev *dev, unsigned int region, uint64_t offset, unsigned int width, void *buf,
		       unsigned int count)
{
	struct qemu *q = of(dev);
	uint8_t *p = buf;
	int ret = 0;

	pthread_mutex_lock(&q->lock);
	for (; count && !ret; count--, p += width) {
		uint64_t value;

		ret = qemu_ask(q, region, offset, width, &value);
		memcpy(p, &value, width);
	}
	qemu_deliver(q);
	pthread_mutex_unlock(&q->lock);
	return ret;
}

static int do_write_rep(struct usrdrv_dev *dev, unsigned int region, uint64_t offset, unsigned int width,
			const void *buf, unsigned int count)
{
	struct usrdrv_write w = { .region = (uint8_t)region, .width = (uint8_t)width, .offset = offset };
	struct qemu *q = of(dev);
	const uint8_t *p = buf;
	int ret = 0;

	pthread_mutex_lock(&q->lock);
	for (; count && !ret; count--, p += width) {
		memcpy(&w.value, p, width);
		ret = qemu_post(q, &w, 1);
	}
	qemu_deliver(q);
	pthread_mutex_unlock(&q->lock);
	return ret;
}

static int do_dma_alloc(struct usrdrv_dev *dev, size_t len, size_t align, uint64_t limit, struct usrdrv_dma *dma)
{
	struct qemu *q = of(dev);
	struct area a = { 0 };
	int at;

	if (limit >= q->machine.memory)
		limit = q->machine.memory - 1;
	pthread_mutex_lock(&q->lock);
	at = areas_place(&q->areas, len, align, limit, &a);
	if (at >= 0) {
		a.cpu = q->memory + a.bus;
		areas_insert(&q->areas, at, &a);
		*dma = (struct usrdrv_dma){ .cpu = a.cpu, .bus = a.bus, .len = a.len };
	}
	pthread_mutex_unlock(&q->lock);
	return at < 0 ? at : 0;
}

static void do_dma_free(struct usrdrv_dev *dev, struct usrdrv_dma *dma)
{
	struct qemu *q = of(dev);
	struct area *a;

	pthread_mutex_lock(&q->lock);
	a = areas_find(&q->areas, dma->bus);
	if (a) {
		madvise(a->cpu, a->len, MADV_REMOVE);	/* the next one finds zeroes */
		areas_remove(&q->areas, a);
	}
	pthread_mutex_unlock(&q->lock);
	memset(dma, 0, sizeof(*dma));
}

static int do_irq_connect(struct usrdrv_dev *dev, unsigned int kind, const int *fds, unsigned int n)
{
	struct qemu *q = of(dev);
	int ret;

	if (kind >= USRDRV_IRQ_KINDS || n > dev->vectors[kind])
		return -EINVAL;
	pthread_mutex_lock(&q->lock);
	q->n = kind == USRDRV_IRQ_INTX ? 0 : n;
	q->intx_fd = -1;
	dev->irq_kind = n ? kind : USRDRV_IRQ_KINDS;
	ret = qemu_tell_vectors(q, fds, q->n);
	if (!ret)
		ret = qemu_set_irqs(q);
	if (!ret && kind == USRDRV_IRQ_INTX && n) {
		q->intx_fd = fds[0];
		q->masked = 0;
		ret = qemu_result(q, qtest_settle(&q->talk));
		qemu_deliver(q);
	}
	if (ret) {
		q->n = 0;
		q->intx_fd = -1;
		dev->irq_kind = USRDRV_IRQ_KINDS;
	}
	pthread_mutex_unlock(&q->lock);
	eventfd_write(q->stop_fd, 1);	/* the listener looks again for whom it listens */
	return ret;
}

static int do_irq_unmask(struct usrdrv_dev *dev, const struct usrdrv_write *w, unsigned int n)
{
	struct qemu *q = of(dev);
	int ret;

	pthread_mutex_lock(&q->lock);
	ret = dev->gone ? -ENODEV : qemu_post(q, w, n);
	if (!ret && dev->irq_kind == USRDRV_IRQ_INTX) {
		/* A write that lowers the line does so before its answer. */
		ret = qemu_result(q, qtest_settle(&q->talk));
		q->masked = 0;
		qemu_deliver(q);
	}
	pthread_mutex_unlock(&q->lock);
	return ret;
}

/* Registers that the system writes, and a reset clears: cache line size, latency timer, interrupt line. */
static const unsigned int kept[] = { 0x0c, 0x0d, 0x3c };

/* What a reset of the function undoes, and Linux's VFIO puts back too. */
static int restore(struct qemu *q, uint32_t command, const uint32_t *values)
{
	int ret = 0;

	for (unsigned int i = 0; i < sizeof(kept) / sizeof(kept[0]) && !ret; i++)
		ret = qemu_set_config(q, kept[i], 1, values[i]);
	for (unsigned int i = 0; i < USRDRV_NUM_BARS && !ret; i++) {
		const struct usrdrv_qemu_bar *bar = &q->machine.bar[i];

		if (bar->base)
			ret = qemu_set_config(q, BARS + 4 * i, 4, (uint32_t)bar->base);
		if (!ret && bar->base && bar->flags & USRDRV_BAR_64)
			ret = qemu_set_config(q, BARS + 4 * i + 4, 4, (uint32_t)(bar->base >> 32));
	}
	if (!ret)
		ret = qemu_set_config(q, COMMAND, 2, command);
	return ret ? ret : qemu_set_irqs(q);
}

static int do_reset(struct usrdrv_dev *dev)
{
	struct qemu *q = of(dev);
	uint32_t command, can = 0, values[sizeof(kept) / sizeof(kept[0])];
	int ret;

	pthread_mutex_lock(&q->lock);
	ret = qemu_get_config(q, COMMAND, 2, &command);
	for (unsigned int i = 0; i < sizeof(kept) / sizeof(kept[0]) && !ret; i++)
		ret = qemu_get_config(q, kept[i], 1, &values[i]);
	if (!ret && q->express)
		ret = qemu_get_config(q, q->express + 4, 4, &can);
	if (!ret && can & EXPRESS_FLR) {
		ret = qemu_change_config(q, q->express + 8, 0, EXPRESS_RESET);
	} else if (!ret) {
		uint64_t at = q->machine.bridge + BRIDGE_CONTROL;

		ret = qtest_write(&q->talk, 0, 2, at, BRIDGE_RESET);
		ret = qemu_result(q, ret ? ret : qtest_write(&q->talk, 0, 2, at, 0));
	}
	if (!ret)
		ret = restore(q, command, values);
	if (!ret)
		ret = qemu_result(q, qtest_settle(&q->talk));
	qemu_deliver(q);
	pthread_mutex_unlock(&q->lock);
	return ret;
}

static void do_close(struct usrdrv_dev *dev)
{
	struct qemu *q = of(dev);

	pthread_mutex_lock(&q->lock);
	if (!dev->gone && !qemu_change_config(q, COMMAND, COMMAND_MASTER, 0))
		qtest_settle(&q->talk);
	q->stop = 1;
	pthread_mutex_unlock(&q->lock);
	if (q->has_listener) {
		eventfd_write(q->stop_fd, 1);
		pthread_join(q->listener, NULL);
	}
	if (q->memory)
		munmap(q->memory, q->machine.memory);
	close(q->machine.qtest_fd);
	close(q->machine.memory_fd);
	close(q->machine.peers_fd);
	if (dev->irq_fd >= 0)
		close(dev->irq_fd);
	if (q->stop_fd >= 0)
		close(q->stop_fd);
	pthread_mutex_destroy(&q->lock);
	free(q);
}

static const struct usrdrv_dev_ops ops = {
	.read = do_read, .write_list = do_write_list, .read_rep = do_read_rep, .write_rep = do_write_rep,
	.dma_alloc = do_dma_alloc, .dma_free = do_dma_free, .irq_connect = do_irq_connect,
	.irq_unmask = do_irq_unmask, .reset = do_reset, .close = do_close,
};

static int start(struct qemu *q)
{
	int ret;

	q->memory = mmap(NULL, q->machine.memory, PROT_READ | PROT_WRITE, MAP_SHARED, q->machine.memory_fd, 0);
	if (q->memory == MAP_FAILED) {
		q->memory = NULL;
		return -errno;
	}
	q->dev.irq_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	q->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (q->dev.irq_fd < 0 || q->stop_fd < 0)
		return -errno;
	ret = qemu_learn_irqs(q);
	if (ret)
		return ret;
	if (q->dev.vectors[USRDRV_IRQ_INTX])
		q->intx_fd = q->dev.irq_fd;
	else
		q->dev.irq_kind = USRDRV_IRQ_KINDS;
	ret = -pthread_create(&q->listener, NULL, qemu_listen, q);
	q->has_listener = !ret;
	return ret;
}

/**
 * usrdrv_qemu_open - make a device of a machine that QEMU runs
 * @machine:	what there is
 * @out:	result
 *
 * The descriptors are closed after an error too. A QEMU that does not answer for as long as the socket waits
 * (SO_RCVTIMEO) is treated as gone.
 *
 * Return: 0; -ENODEV QEMU has ended; -errno.
 */
int usrdrv_qemu_open(const struct usrdrv_qemu *machine, struct usrdrv_dev **out)
{
	struct qemu *q = calloc(1, sizeof(*q));
	int ret;

	if (!q) {
		close(machine->qtest_fd);
		close(machine->memory_fd);
		close(machine->peers_fd);
		return -ENOMEM;
	}
	q->machine = *machine;
	q->areas.base = USRDRV_QEMU_LOW;
	q->echo = USRDRV_QEMU_ITSELF + 1;
	q->talk.fd = machine->qtest_fd;
	q->intx_fd = q->stop_fd = -1;
	q->dev.ops = &ops;
	q->dev.irq_fd = q->dev.unmask_fd = q->dev.claim_fd = -1;
	q->dev.hangup_fd = machine->qtest_fd;
	q->dev.hangup_events = EPOLLRDHUP;
	for (unsigned int i = 0; i < USRDRV_NUM_BARS; i++) {
		q->dev.bar[i].size = machine->bar[i].size;
		q->dev.bar[i].flags = machine->bar[i].flags;
	}
	pthread_mutex_init(&q->lock, NULL);
	ret = start(q);
	if (ret)
		do_close(&q->dev);
	else
		*out = &q->dev;
	return ret;
}
