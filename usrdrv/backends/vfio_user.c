// SPDX-License-Identifier: MIT
/*
 * The vfio-user backend: a device behind a Unix socket. Posted writes and the
 * unmasking of the interrupt travel without a reply, several messages in one
 * system call; a read is a question and an answer.
 *
 * The server is not trusted: an answer that does not fit the question ends the
 * device, like silence does.
 */
#define _GNU_SOURCE
#include "vfio_user_client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backends.h"
#include "bounds.h"

#define BATCH		64	/* messages in one system call */

struct access_message {
	struct vu_header h;
	struct vu_region_access a;
	uint64_t data;
};

struct unmask_message {
	struct vu_header h;
	struct vu_irq_set set;
};

/* The most that a PCI function has of each kind */
static const unsigned int most[USRDRV_IRQ_KINDS] = {
	[USRDRV_IRQ_INTX] = 1, [USRDRV_IRQ_MSI] = 32, [USRDRV_IRQ_MSIX] = 2048,
};

static struct client *of(struct usrdrv_dev *dev)
{
	return (struct client *)dev;
}

static size_t fill_access(struct client *c, struct access_message *m, uint16_t command, unsigned int region,
			  uint64_t offset, unsigned int width, uint64_t value)
{
	size_t size = sizeof(m->h) + sizeof(m->a) + (command == VU_REGION_WRITE ? width : 0);

	m->h = (struct vu_header){ .id = c->id++, .command = command, .size = (uint32_t)size };
	m->a = (struct vu_region_access){ .offset = offset, .region = region, .count = width };
	m->data = value;
	return size;
}

/* The answer to a read: the question again, and the data. */
static int read_answer(struct client *c, uint16_t id, const struct vu_region_access *asked, void *data)
{
	uint8_t payload[sizeof(*asked) + 8];
	size_t got;
	int ret = client_answer(c, id, VU_REGION_READ, payload, sizeof(payload), &got);

	if (ret)
		return ret;
	if (got != sizeof(*asked) + asked->count || memcmp(payload, asked, sizeof(*asked)))
		return client_lost(c);
	memcpy(data, payload + sizeof(*asked), asked->count);
	return 0;
}

static int do_read_rep(struct usrdrv_dev *dev, unsigned int region, uint64_t offset, unsigned int width,
		       void *buf, unsigned int count)
{
	struct client *c = of(dev);
	struct access_message m[BATCH];
	struct iovec iov[BATCH];
	uint8_t *p = buf;
	int ret;

	pthread_mutex_lock(&c->lock);
	ret = bounds_check(&c->dev, c->config_size, region, offset, width);
	while (count && !ret) {
		unsigned int n = count < BATCH ? count : BATCH;

		for (unsigned int i = 0; i < n; i++) {
			iov[i].iov_len = fill_access(c, &m[i], VU_REGION_READ, region, offset, width, 0);
			iov[i].iov_base = &m[i];
		}
		ret = client_send(c, iov, n, NULL, 0);
		/* After a refusal the other answers still come. */
		for (unsigned int i = 0; i < n && !c->dev.gone; i++, p += width) {
			int err = read_answer(c, m[i].h.id, &m[i].a, p);

			ret = ret ? ret : err;
		}
		count -= n;
	}
	pthread_mutex_unlock(&c->lock);
	return ret;
}

/* A write that the server confirms: to ports or config space. Memory writes are posted, as on PCI. */
static int confirmed(const struct client *c, unsigned int region)
{
	return region >= USRDRV_NUM_BARS || c->dev.bar[region].flags & USRDRV_BAR_IO;
}

/*
 * Send a list of writes and, behind them, one message more, in as few system calls as possible. Of
 * confirmed writes the last one's answer is waited for. All that can be is sent, also after a refusal,
 * unless the device is gone. Lock held.
 */
static int post(struct client *c, const struct usrdrv_write *w, unsigned int n, void *last, size_t last_len)
{
	struct access_message m[BATCH];
	struct iovec iov[BATCH + 1];
	int ret = 0;

	while ((n || last) && ret != -ENODEV) {
		unsigned int k = n < BATCH ? n : BATCH, messages = 0, writes;
		int wait = 0, err;

		for (; k; k--, n--, w++) {
			err = bounds_check(&c->dev, c->config_size, w->region, w->offset, w->width);
			if (err) {
				ret = ret ? ret : err;
				continue;
			}
			iov[messages].iov_len = fill_access(c, &m[messages], VU_REGION_WRITE, w->region, w->offset,
							    w->width, w->value);
			iov[messages].iov_base = &m[messages];
			m[messages++].h.flags = VU_NO_REPLY;
			wait = confirmed(c, w->region);
		}
		writes = messages;
		if (wait)
			m[writes - 1].h.flags = 0;
		if (!n && last) {
			iov[messages++] = (struct iovec){ .iov_base = last, .iov_len = last_len };
			last = NULL;
		}
		err = messages ? client_send(c, iov, messages, NULL, 0) : 0;
		if (!err && wait) {
			struct vu_region_access a;
			size_t got;

			err = client_answer(c, m[writes - 1].h.id, VU_REGION_WRITE, &a, sizeof(a), &got);
		}
		ret = err == -ENODEV || !ret ? err : ret;
	}
	return ret;
}

static int read_locked(struct client *c, const struct usrdrv_write *w, unsigned int n, unsigned int region,
		       uint64_t offset, unsigned int width, uint64_t *value)
{
	int err = bounds_check(&c->dev, c->config_size, region, offset, width), ret;
	struct access_message m;
	size_t len;

	*value = 0;
	if (err) {
		ret = post(c, w, n, NULL, 0);
		return ret ? ret : err;
	}
	len = fill_access(c, &m, VU_REGION_READ, region, offset, width, 0);
	ret = post(c, w, n, &m, len);
	if (ret != -ENODEV) {
		err = read_answer(c, m.h.id, &m.a, value);
		ret = ret ? ret : err;
	}
	return ret;
}

static int do_read(struct usrdrv_dev *dev, const struct usrdrv_write *w, unsigned int n, unsigned int region,
		   uint64_t offset, unsigned int width, uint64_t *value)
{
	struct client *c = of(dev);
	int ret;

	pthread_mutex_lock(&c->lock);
	ret = read_locked(c, w, n, region, offset, width, value);
	pthread_mutex_unlock(&c->lock);
	return ret;
}

static int do_write_list(struct usrdrv_dev *dev, const struct usrdrv_write *w, unsigned int n)
{
	struct client *c = of(dev);
	int ret;

	pthread_mutex_lock(&c->lock);
	ret = post(c, w, n, NULL, 0);
	pthread_mutex_unlock(&c->lock);
	return ret;
}

static int do_write_rep(struct usrdrv_dev *dev, unsigned int region, uint64_t offset, unsigned int width,
			const void *buf, unsigned int count)
{
	struct client *c = of(dev);
	struct usrdrv_write w[BATCH];
	const uint8_t *p = buf;
	int ret = 0;

	pthread_mutex_lock(&c->lock);
	while (count && !ret) {
		unsigned int n = count < BATCH ? count : BATCH;

		for (unsigned int i = 0; i < n; i++, p += width) {
			w[i] = (struct usrdrv_write){
				.region = (uint8_t)region, .width = (uint8_t)width, .offset = offset,
			};
			memcpy(&w[i].value, p, width);
		}
		ret = post(c, w, n, NULL, 0);
		count -= n;
	}
	pthread_mutex_unlock(&c->lock);
	return ret;
}

/* Connect eventfds to vectors from `start`; of none, with n = 0 and start = 0, the kind is switched off. Lock held. */
static int set_irqs(struct client *c, unsigned int kind, unsigned int start, const int *fds, unsigned int n)
{
	struct vu_irq_set set = {
		.argsz = sizeof(set), .flags = VU_IRQ_TRIGGER | (n ? VU_IRQ_DATA_EVENTFD : VU_IRQ_DATA_NONE),
		.index = kind, .start = start, .count = n,
	};
	uint8_t reply[64];

	return client_ask_with(c, VU_SET_IRQS, &set, sizeof(set), fds, n, reply, sizeof(reply), 0);
}

static int disconnect_irqs(struct client *c)
{
	int ret = set_irqs(c, c->dev.irq_kind, 0, NULL, 0);

	if (!ret)
		c->dev.irq_kind = USRDRV_IRQ_KINDS;
	return ret;
}

/* All of them or, after an error, none; nothing is connected before. Lock held. */
static int connect_irqs(struct client *c, unsigned int kind, const int *fds, unsigned int n)
{
	int ret = 0;

	c->dev.irq_kind = kind;
	for (unsigned int from = 0, some; from < n && !ret; from += some) {
		some = n - from < c->max_fds ? n - from : c->max_fds;
		ret = set_irqs(c, kind, from, fds + from, some);
	}
	if (ret)
		disconnect_irqs(c);
	return ret;
}

static int do_irq_connect(struct usrdrv_dev *dev, unsigned int kind, const int *fds, unsigned int n)
{
	struct client *c = of(dev);
	int ret = 0;

	if (kind >= USRDRV_IRQ_KINDS || n > dev->vectors[kind])
		return -EINVAL;
	pthread_mutex_lock(&c->lock);
	/* One kind at a time, as VFIO has it; and of a kind perhaps only all at once. */
	if (dev->irq_kind != USRDRV_IRQ_KINDS)
		ret = disconnect_irqs(c);
	if (!ret && n)
		ret = connect_irqs(c, kind, fds, n);
	pthread_mutex_unlock(&c->lock);
	return ret;
}

static int do_irq_unmask(struct usrdrv_dev *dev, const struct usrdrv_write *w, unsigned int n)
{
	struct client *c = of(dev);
	struct unmask_message m = {
		.h = { .command = VU_SET_IRQS, .size = sizeof(m), .flags = VU_NO_REPLY },
		.set = { .argsz = sizeof(m.set), .flags = VU_IRQ_DATA_NONE | VU_IRQ_UNMASK, .count = 1 },
	};
	int ret;

	pthread_mutex_lock(&c->lock);
	m.h.id = c->id++;
	ret = post(c, w, n, dev->irq_kind == USRDRV_IRQ_INTX ? &m : NULL, sizeof(m));
	pthread_mutex_unlock(&c->lock);
	return ret;
}

static int share(struct client *c, struct area *a)
{
	struct vu_dma_map m = { .argsz = sizeof(m), .flags = 3, .address = a->bus, .size = a->len };
	uint8_t reply[64];

	return client_ask_with(c, VU_DMA_MAP, &m, sizeof(m), &a->memfd, 1, reply, sizeof(reply), 0);
}

static void withdraw(struct client *c, struct area *a)
{
	struct vu_dma_unmap m = { .argsz = sizeof(m), .address = a->bus, .size = a->len };
	uint8_t reply[64];

	client_ask(c, VU_DMA_UNMAP, &m, sizeof(m), reply, sizeof(reply), 0);
}

static int make_area(struct area *a)
{
	a->memfd = memfd_create("usrdrv-dma", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (a->memfd < 0)
		return -errno;
	a->cpu = MAP_FAILED;
	if (!ftruncate(a->memfd, (off_t)a->len) && !fcntl(a->memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW))
		a->cpu = mmap(NULL, a->len, PROT_READ | PROT_WRITE, MAP_SHARED, a->memfd, 0);
	if (a->cpu == MAP_FAILED) {
		int ret = -errno;

		close(a->memfd);
		return ret;
	}
	return 0;
}

static void release(struct area *a)
{
	munmap(a->cpu, a->len);
	close(a->memfd);
}

static int do_dma_alloc(struct usrdrv_dev *dev, size_t len, size_t align, uint64_t limit, struct usrdrv_dma *dma)
{
	struct client *c = of(dev);
	struct area a;
	int at, ret;

	pthread_mutex_lock(&c->lock);
	at = areas_place(&c->areas, len, align, limit, &a);
	ret = at < 0 ? at : make_area(&a);
	if (!ret) {
		ret = share(c, &a);
		if (ret)
			release(&a);
	}
	if (!ret) {
		areas_insert(&c->areas, at, &a);
		*dma = (struct usrdrv_dma){ .cpu = a.cpu, .bus = a.bus, .len = a.len };
	}
	pthread_mutex_unlock(&c->lock);
	return ret;
}

static void do_dma_free(struct usrdrv_dev *dev, struct usrdrv_dma *dma)
{
	struct client *c = of(dev);
	struct area *a;

	pthread_mutex_lock(&c->lock);
	a = areas_find(&c->areas, dma->bus);
	if (a) {
		withdraw(c, a);
		release(a);
		areas_remove(&c->areas, a);
	}
	pthread_mutex_unlock(&c->lock);
	memset(dma, 0, sizeof(*dma));
}

static int do_reset(struct usrdrv_dev *dev)
{
	struct client *c = of(dev);
	int ret;

	pthread_mutex_lock(&c->lock);
	ret = client_ask(c, VU_RESET, NULL, 0, NULL, 0, 0);
	pthread_mutex_unlock(&c->lock);
	return ret;
}

static void do_close(struct usrdrv_dev *dev)
{
	struct client *c = of(dev);
	uint64_t command;

	/* quiet before its memory goes */
	if (!do_read(dev, NULL, 0, USRDRV_REGION_CONFIG, 4, 2, &command)) {
		const struct usrdrv_write w = {
			.region = USRDRV_REGION_CONFIG, .offset = 4, .width = 2, .value = command & ~4u,
		};

		do_write_list(dev, &w, 1);
		do_reset(dev);
	}
	for (unsigned int i = 0; i < c->areas.n; i++) {
		withdraw(c, &c->areas.area[i]);
		release(&c->areas.area[i]);
	}
	if (c->fd >= 0)
		close(c->fd);
	close(dev->irq_fd);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

static const struct usrdrv_dev_ops ops = {
	.read = do_read, .write_list = do_write_list, .read_rep = do_read_rep, .write_rep = do_write_rep,
	.dma_alloc = do_dma_alloc, .dma_free = do_dma_free, .irq_connect = do_irq_connect,
	.irq_unmask = do_irq_unmask, .reset = do_reset, .close = do_close,
};

/* Of the server's capabilities, JSON with its NUL, only this one is of interest; it is 1 where nothing else is said. */
static void learn_max_fds(struct client *c, const char *json, size_t room)
{
	static const char name[] = "\"max_msg_fds\"";
	const char *at = memchr(json, 0, room) ? strstr(json, name) : NULL;
	unsigned long n = 0;

	if (at) {
		at += sizeof(name) - 1;
		n = strtoul(at + strspn(at, " \t\r\n:"), NULL, 10);
	}
	c->max_fds = n < 1 ? 1 : n > VU_MAX_FDS ? VU_MAX_FDS : (unsigned int)n;
}

static int negotiate(struct client *c)
{
	static const char json[] = "{\"capabilities\":{\"max_msg_fds\":1,\"max_data_xfer_size\":1048576}}";
	struct {
		struct vu_version v;
		char json[sizeof(json)];
	} in = { .v = { .major = VU_VERSION_MAJOR, .minor = VU_VERSION_MINOR } };
	uint8_t out[4096] = { 0 };
	int ret;

	memcpy(in.json, json, sizeof(json));
	ret = client_ask(c, VU_VERSION, &in, sizeof(in), out, sizeof(out), sizeof(in.v));
	if (!ret && memcmp(out, &in.v.major, sizeof(in.v.major)))
		ret = -EPROTO;
	if (!ret)
		learn_max_fds(c, (const char *)out + sizeof(in.v), sizeof(out) - sizeof(in.v));
	return ret;
}

/* Its kind is what the base address register says (PCI 2.2, 6.2.5.1). */
static int learn_bar(struct client *c, uint32_t i, uint64_t size)
{
	uint64_t bar;
	int ret;

	if (i && c->dev.bar[i - 1].flags & USRDRV_BAR_64)
		return 0;	/* this register is the upper half of that BAR's */
	ret = read_locked(c, NULL, 0, USRDRV_REGION_CONFIG, 0x10 + 4 * i, 4, &bar);
	if (ret || !size)
		return ret;
	c->dev.bar[i].size = size;
	if (bar & 1)
		c->dev.bar[i].flags = USRDRV_BAR_IO;
	else
		c->dev.bar[i].flags = ((bar & 6) == 4 ? USRDRV_BAR_64 : 0) | (bar & 8 ? USRDRV_BAR_PREFETCH : 0);
	return 0;
}

static int learn_irqs(struct client *c, unsigned int kind)
{
	const uint32_t line = VU_IRQ_INFO_EVENTFD | VU_IRQ_INFO_MASKABLE | VU_IRQ_INFO_AUTOMASKED;
	const uint32_t need = kind == USRDRV_IRQ_INTX ? line : VU_IRQ_INFO_EVENTFD;
	struct vu_irq_info info = { .argsz = sizeof(info), .index = kind };
	int ret = client_ask(c, VU_GET_IRQ_INFO, &info, sizeof(info), &info, sizeof(info), sizeof(info));

	if (ret)
		return ret;
	if (info.count > most[kind] || (info.count && (info.flags & need) != need))
		return -EPROTO;
	c->dev.vectors[kind] = info.count;
	return 0;
}

static int learn(struct client *c)
{
	struct vu_device_info device = { .argsz = sizeof(device) };
	int ret = client_ask(c, VU_GET_INFO, &device, sizeof(device), &device, sizeof(device), sizeof(device));

	if (!ret && (!(device.flags & 2) || device.regions <= USRDRV_REGION_CONFIG))
		ret = -EPROTO;	/* no PCI device */
	for (uint32_t i = 0; i <= USRDRV_REGION_CONFIG && !ret; i++) {
		struct vu_region_info info = { .argsz = sizeof(info), .index = i };

		ret = client_ask(c, VU_GET_REGION_INFO, &info, sizeof(info), &info, sizeof(info), sizeof(info));
		if (!ret && i < USRDRV_NUM_BARS)
			ret = learn_bar(c, i, info.size);
		else if (!ret && i == USRDRV_REGION_CONFIG && info.size < 256)
			ret = -EPROTO;
		else if (!ret && i == USRDRV_REGION_CONFIG)
			c->config_size = info.size;
	}
	for (unsigned int kind = 0; kind < USRDRV_IRQ_KINDS && kind < device.irqs && !ret; kind++)
		ret = learn_irqs(c, kind);
	return ret;
}

/**
 * usrdrv_vfio_user_open - connect to a device on a vfio-user socket
 * @path:	of the socket
 * @timeout_ms:	a server that does not answer for so long is treated as gone
 * @out:	result
 *
 * Return: 0; -ENOENT, -ECONNREFUSED nobody serves there; -EBUSY it has another
 * client; -EPROTO it is no PCI device or speaks another version; -errno.
 */
int usrdrv_vfio_user_open(const char *path, int timeout_ms, struct usrdrv_dev **out)
{
	struct client *c = calloc(1, sizeof(*c));
	int ret;

	if (!c)
		return -ENOMEM;
	c->dev.ops = &ops;
	c->config_size = 256;	/* so much there is at least */
	c->fd = c->dev.hangup_fd = c->dev.unmask_fd = c->dev.claim_fd = -1;
	c->dev.hangup_events = EPOLLRDHUP;
	c->dev.irq_kind = USRDRV_IRQ_KINDS;
	pthread_mutex_init(&c->lock, NULL);
	c->dev.irq_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ret = c->dev.irq_fd < 0 ? -errno : client_connect(c, path, timeout_ms);
	if (!ret) {
		pthread_mutex_lock(&c->lock);
		ret = negotiate(c);
		if (!ret)
			ret = learn(c);
		if (!ret && c->dev.vectors[USRDRV_IRQ_INTX])
			ret = connect_irqs(c, USRDRV_IRQ_INTX, &c->dev.irq_fd, 1);
		pthread_mutex_unlock(&c->lock);
	}
	if (ret) {
		c->dev.gone = 1;	/* close() talks to nobody */
		do_close(&c->dev);
		return ret;
	}
	*out = &c->dev;
	return 0;
}
