// SPDX-License-Identifier: MIT
/*
 * The QEMU backend: a PCI device of QEMU's, in a machine whose processor sleeps. Registers and configuration space are
 * lines on a socket (qtest.c). DMA memory is the machine's, a file that we have mapped. INTx comes as a line on the
 * socket; a message of MSI or MSI-X is a write to the doorbell of another device of that machine, an ivshmem-doorbell,
 * at which QEMU signals an eventfd of ours.
 *
 * See docs/design/qemu.md.
 */
#define _GNU_SOURCE
#include "qemu.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "areas.h"
#include "qtest.h"

#define DMA_BASE	0x100000u	/* below, a PC's memory has holes */
#define FIRST_LINE	16	/* of those that PCI devices raise; below are the machine's own */
#define EACH		256	/* vectors of a peer */

/* Configuration space: PCI 3.0, PCI Express 3.0 */
#define COMMAND		0x04
#define COMMAND_MASTER	0x0004
#define BARS		0x10
#define CAPABILITIES	0x34
#define IRQ_PIN		0x3d
#define BRIDGE_CONTROL	0x3e
#define BRIDGE_RESET	0x0040
#define CAP_MSI		0x05
#define CAP_EXPRESS	0x10
#define CAP_MSIX	0x11
#define MSI_ENABLE	0x0001
#define MSI_64		0x0080
#define MSIX_ENABLE	0x8000
#define MSIX_MASKED	0x4000
#define MSIX_SIZE	0x07ff
#define EXPRESS_FLR	(1u << 28)
#define EXPRESS_RESET	0x8000

struct qemu {
	struct usrdrv_dev dev;
	struct usrdrv_qemu machine;
	pthread_mutex_t lock;		/* everything below */
	struct qtest talk;
	struct areas areas;
	uint8_t *memory;
	unsigned int cap[USRDRV_IRQ_KINDS];	/* offset of the capability of MSI and MSI-X */
	unsigned int express;
	unsigned int n;			/* vectors in use */
	unsigned int written;		/* entries of the MSI-X table that were */
	unsigned int told;		/* vectors whose eventfds the doorbell has */
	unsigned int echo;		/* number of the next peer that is only to be rung */
	int intx_fd;			/* -1: nobody is told */
	int masked;
	pthread_t listener;
	int has_listener, stop_fd;
	int stop;
};

static struct qemu *of(struct usrdrv_dev *dev)
{
	return (struct qemu *)dev;
}

/* -ENODEV is for good. */
static int result(struct qemu *q, int ret)
{
	if (ret == -ENODEV)
		q->dev.gone = 1;
	return ret;
}

static void deliver(struct qemu *q)
{
	if (q->masked || q->intx_fd < 0 || !(q->talk.lines >> FIRST_LINE))
		return;
	q->masked = 1;
	eventfd_write(q->intx_fd, 1);
}

/* Hears of INTx while nobody else reads the socket. */
static void *listen_to_lines(void *arg)
{
	struct qemu *q = arg;
	struct pollfd fds[] = { { .fd = q->stop_fd, .events = POLLIN }, { .fd = q->talk.fd, .events = POLLIN } };
	uint64_t count;

	for (;;) {
		poll(fds, 2, -1);
		pthread_mutex_lock(&q->lock);
		if (fds[0].revents && read(q->stop_fd, &count, sizeof(count)) < 0)
			q->dev.gone = 1;	/* it is an eventfd: this cannot be */
		if (q->stop || q->dev.gone || result(q, qtest_listen(&q->talk)))
			break;
		deliver(q);
		fds[1].fd = q->intx_fd < 0 ? -1 : q->talk.fd;
		pthread_mutex_unlock(&q->lock);
	}
	pthread_mutex_unlock(&q->lock);
	return NULL;
}

/* Where a register is in the machine; lock held. */
static int locate(struct qemu *q, unsigned int region, uint64_t offset, unsigned int width, uint64_t *at, int *port)
{
	const struct usrdrv_bar *bar = region < USRDRV_NUM_BARS ? &q->dev.bar[region] : NULL;
	uint64_t size = bar ? bar->size : 4096;

	if (!bar && region != USRDRV_REGION_CONFIG)
		return -EINVAL;
	*port = bar && bar->flags & USRDRV_BAR_IO;
	if (width != 1 && width != 2 && width != 4 && !(width == 8 && bar && !*port))
		return -EINVAL;
	if (offset % width || offset >= size || width > size - offset)
		return -EINVAL;
	*at = (bar ? q->machine.bar[region].base : q->machine.config) + offset;
	return q->dev.gone ? -ENODEV : 0;
}

static int post(struct qemu *q, const struct usrdrv_write *w, unsigned int n)
{
	int ret = 0;

	for (; n--; w++) {
		uint64_t at;
		int port, err = locate(q, w->region, w->offset, w->width, &at, &port);

		if (!err)
			err = result(q, qtest_write(&q->talk, port, w->width, at, w->value));
		ret = ret ? ret : err;
	}
	return ret;
}

static int ask(struct qemu *q, unsigned int region, uint64_t offset, unsigned int width, uint64_t *value)
{
	uint64_t at;
	int port, ret = locate(q, region, offset, width, &at, &port);

	*value = 0;
	if (!ret)
		ret = qtest_read(&q->talk, port, width, at);
	if (!ret)
		ret = qtest_settle(&q->talk);
	if (!ret)
		*value = q->talk.value;
	return result(q, ret);
}

static int do_read(struct usrdrv_dev *dev, const struct usrdrv_write *w, unsigned int n, unsigned int region,
		   uint64_t offset, unsigned int width, uint64_t *value)
{
	struct qemu *q = of(dev);
	int ret, err;

	pthread_mutex_lock(&q->lock);
	ret = post(q, w, n);
	err = ask(q, region, offset, width, value);
	deliver(q);
	pthread_mutex_unlock(&q->lock);
	return ret ? ret : err;
}

static int do_write_list(struct usrdrv_dev *dev, const struct usrdrv_write *w, unsigned int n)
{
	struct qemu *q = of(dev);
	int ret;

	pthread_mutex_lock(&q->lock);
	ret = post(q, w, n);
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

		ret = ask(q, region, offset, width, &value);
		memcpy(p, &value, width);
	}
	deliver(q);
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
		ret = post(q, &w, 1);
	}
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

static int get_config(struct qemu *q, unsigned int offset, unsigned int width, uint32_t *value)
{
	uint64_t wide;
	int ret = ask(q, USRDRV_REGION_CONFIG, offset, width, &wide);

	*value = (uint32_t)wide;
	return ret;
}

static int set_config(struct qemu *q, unsigned int offset, unsigned int width, uint32_t value)
{
	const struct usrdrv_write w = {
		.region = USRDRV_REGION_CONFIG, .offset = offset, .width = (uint8_t)width, .value = value,
	};

	return post(q, &w, 1);
}

/* Change bits of a register of 16 bits. */
static int change(struct qemu *q, unsigned int offset, uint32_t clear, uint32_t set)
{
	uint32_t value;
	int ret = get_config(q, offset, 2, &value);

	return ret ? ret : set_config(q, offset, 2, (value & ~clear) | set);
}

/* A message of the protocol of ivshmem (QEMU, docs/specs/ivshmem-spec.rst): a number, and for a vector its eventfd. */
static int tell_doorbell(struct qemu *q, int64_t number, int fd)
{
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(fd))];
	} control = { 0 };
	struct iovec iov = { .iov_base = &number, .iov_len = sizeof(number) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t sent;

	if (fd >= 0) {
		m.msg_control = &control;
		m.msg_controllen = sizeof(control);
		control.h = (struct cmsghdr){
			.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(fd)),
		};
		memcpy(CMSG_DATA(&control.h), &fd, sizeof(fd));
	}
	do
		sent = sendmsg(q->machine.peers_fd, &m, MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	return sent == sizeof(number) ? 0 : result(q, -ENODEV);
}

/* Wait until QEMU has read what was told: a peer of a number of its own, told last, can be rung. */
static int wait_for_doorbell(struct qemu *q)
{
	int echo = eventfd(0, EFD_CLOEXEC), ret = echo < 0 ? -errno : tell_doorbell(q, q->echo, echo);
	struct pollfd heard = { .fd = echo, .events = POLLIN };

	while (!ret && !heard.revents) {
		ret = result(q, qtest_write(&q->talk, 0, 4, q->machine.doorbell, q->echo << 16));
		if (!ret)
			ret = result(q, qtest_settle(&q->talk));
		poll(&heard, 1, 1);
	}
	q->echo++;
	if (echo >= 0)
		close(echo);
	return ret;
}

/* Have the eventfds of n vectors behind the machine's doorbell. None is taken away: QEMU 11 does not survive that. */
static int tell_vectors(struct qemu *q, const int *fds, unsigned int n)
{
	int ret = 0;

	if (n <= q->told)
		return 0;
	for (; q->told < n && !ret; q->told++)
		ret = tell_doorbell(q, q->told / EACH, fds[q->told]);
	return ret ? ret : wait_for_doorbell(q);
}

/* An entry of the MSI-X table; one that is not in use is masked. */
static int set_entry(struct qemu *q, uint8_t bar, uint64_t at, unsigned int vector)
{
	const uint64_t doorbell = q->machine.doorbell;
	const struct usrdrv_write w[] = {
		{ .region = bar, .width = 4, .offset = at, .value = (uint32_t)doorbell },
		{ .region = bar, .width = 4, .offset = at + 4, .value = doorbell >> 32 },
		{ .region = bar, .width = 4, .offset = at + 8, .value = vector / EACH << 16 | vector % EACH },
		{ .region = bar, .width = 4, .offset = at + 12, .value = vector >= q->n },
	};

	return post(q, w, 4);
}

static int set_msix(struct qemu *q)
{
	unsigned int cap = q->cap[USRDRV_IRQ_MSIX];
	uint32_t table;
	int ret = get_config(q, cap + 4, 4, &table);

	if (!ret && !q->machine.bar[table & 7].base)
		ret = -EIO;
	if (!ret && q->written < q->n)
		q->written = q->n;
	for (unsigned int i = 0; i < q->written && !ret; i++)
		ret = set_entry(q, table & 7, (table & ~7u) + 16 * i, i);
	return ret ? ret : change(q, cap + 2, MSIX_MASKED, MSIX_ENABLE);
}

/* Its messages differ in the lowest bits of their data. */
static int set_msi(struct qemu *q)
{
	unsigned int cap = q->cap[USRDRV_IRQ_MSI], log = 0;
	uint32_t control;
	int ret = get_config(q, cap + 2, 2, &control), wide = control & MSI_64 ? 4 : 0;

	while (1u << log < q->n)
		log++;
	if (!ret)
		ret = set_config(q, cap + 4, 4, (uint32_t)q->machine.doorbell);
	if (!ret && wide)
		ret = set_config(q, cap + 8, 4, (uint32_t)(q->machine.doorbell >> 32));
	if (!ret)
		ret = set_config(q, cap + 8 + (unsigned int)wide, 2, 0);
	return ret ? ret : change(q, cap + 2, 7 << 4, log << 4 | MSI_ENABLE);
}

/* Program what irq_connect chose, which a reset has undone. */
static int set_irqs(struct qemu *q)
{
	int ret = 0;

	if (q->cap[USRDRV_IRQ_MSIX])
		ret = change(q, q->cap[USRDRV_IRQ_MSIX] + 2, MSIX_ENABLE, 0);
	if (!ret && q->cap[USRDRV_IRQ_MSI])
		ret = change(q, q->cap[USRDRV_IRQ_MSI] + 2, MSI_ENABLE, 0);
	if (ret || !q->n)
		return ret;
	return q->dev.irq_kind == USRDRV_IRQ_MSIX ? set_msix(q) : set_msi(q);
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
	dev->irq_kind = kind;
	ret = tell_vectors(q, fds, q->n);
	if (!ret)
		ret = set_irqs(q);
	if (!ret && kind == USRDRV_IRQ_INTX && n) {
		q->intx_fd = fds[0];
		q->masked = 0;
		ret = result(q, qtest_settle(&q->talk));
		deliver(q);
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
	ret = dev->gone ? -ENODEV : post(q, w, n);
	if (!ret && dev->irq_kind == USRDRV_IRQ_INTX) {
		/* A write that lowers the line does so before its answer. */
		ret = result(q, qtest_settle(&q->talk));
		q->masked = 0;
		deliver(q);
	}
	pthread_mutex_unlock(&q->lock);
	return ret;
}

/* What a reset of the function undoes, and Linux's VFIO puts back too. */
static int restore(struct qemu *q, uint32_t command)
{
	int ret = 0;

	for (unsigned int i = 0; i < USRDRV_NUM_BARS && !ret; i++) {
		const struct usrdrv_qemu_bar *bar = &q->machine.bar[i];

		if (bar->base)
			ret = set_config(q, BARS + 4 * i, 4, (uint32_t)bar->base);
		if (!ret && bar->base && bar->flags & USRDRV_BAR_64)
			ret = set_config(q, BARS + 4 * i + 4, 4, (uint32_t)(bar->base >> 32));
	}
	if (!ret)
		ret = set_config(q, COMMAND, 2, command);
	return ret ? ret : set_irqs(q);
}

static int do_reset(struct usrdrv_dev *dev)
{
	struct qemu *q = of(dev);
	uint32_t command, can = 0;
	int ret;

	pthread_mutex_lock(&q->lock);
	ret = get_config(q, COMMAND, 2, &command);
	if (!ret && q->express)
		ret = get_config(q, q->express + 4, 4, &can);
	if (!ret && can & EXPRESS_FLR) {
		ret = change(q, q->express + 8, 0, EXPRESS_RESET);
	} else if (!ret) {
		uint64_t at = q->machine.bridge + BRIDGE_CONTROL;

		ret = qtest_write(&q->talk, 0, 2, at, BRIDGE_RESET);
		ret = result(q, ret ? ret : qtest_write(&q->talk, 0, 2, at, 0));
	}
	if (!ret)
		ret = restore(q, command);
	if (!ret)
		ret = result(q, qtest_settle(&q->talk));
	deliver(q);
	pthread_mutex_unlock(&q->lock);
	return ret;
}

static void do_close(struct usrdrv_dev *dev)
{
	struct qemu *q = of(dev);

	pthread_mutex_lock(&q->lock);
	if (!dev->gone && !change(q, COMMAND, COMMAND_MASTER, 0))
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

/* Interrupts and capabilities. */
static int learn(struct qemu *q)
{
	uint32_t at, head;
	int ret = get_config(q, IRQ_PIN, 1, &at);

	q->dev.vectors[USRDRV_IRQ_INTX] = at != 0;
	if (!ret)
		ret = get_config(q, CAPABILITIES, 1, &at);
	for (unsigned int i = 0; at && i < 48 && !ret; i++, at = head >> 8 & 0xfc) {
		ret = get_config(q, at, 4, &head);
		switch (head & 0xff) {
		case CAP_MSI:
			q->cap[USRDRV_IRQ_MSI] = at;
			q->dev.vectors[USRDRV_IRQ_MSI] = 1u << (head >> 17 & 7);
			break;
		case CAP_MSIX:
			q->cap[USRDRV_IRQ_MSIX] = at;
			q->dev.vectors[USRDRV_IRQ_MSIX] = (head >> 16 & MSIX_SIZE) + 1;
			break;
		case CAP_EXPRESS:
			q->express = at;
			break;
		}
	}
	return ret;
}

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
	ret = learn(q);
	if (ret)
		return ret;
	if (q->dev.vectors[USRDRV_IRQ_INTX])
		q->intx_fd = q->dev.irq_fd;
	ret = -pthread_create(&q->listener, NULL, listen_to_lines, q);
	q->has_listener = !ret;
	return ret;
}

/**
 * usrdrv_qemu_open - make a device of a machine that QEMU runs
 * @machine:	what there is
 * @out:	result
 *
 * The descriptors are closed after an error too. A read that QEMU does not answer waits until QEMU ends.
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
	q->areas.base = DMA_BASE;
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
