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
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "backends.h"
#include "usrdrv/vfio_user.h"

#define MAX_AREAS	64
#define BUS_BASE	0x10000000u
#define PAGE		4096u
#define BATCH		64	/* messages in one system call */

struct area {
	uint64_t bus;
	size_t len;
	void *cpu;
	int memfd;
};

struct access_message {
	struct vu_header h;
	struct vu_region_access a;
	uint32_t data;
};

struct unmask_message {
	struct vu_header h;
	struct vu_irq_set set;
};

struct client {
	struct usrdrv_dev dev;
	pthread_mutex_t lock;	/* the socket, one conversation at a time; areas */
	int fd;
	uint16_t id;
	unsigned int n;
	struct area area[MAX_AREAS];	/* sorted by bus address */
};

static struct client *of(struct usrdrv_dev *dev)
{
	return (struct client *)dev;
}

/* The end of the device: nothing is sent any more, and sleepers wake. */
static int lost(struct client *c)
{
	if (!c->dev.gone) {
		c->dev.gone = 1;
		shutdown(c->fd, SHUT_RDWR);
		eventfd_write(c->dev.irq_fd, 1);
	}
	return -ENODEV;
}

static int send_iov(struct client *c, struct iovec *iov, size_t n, int fd)
{
	union {
		struct cmsghdr align;
		uint8_t space[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = n };

	if (c->dev.gone)
		return -ENODEV;
	if (fd >= 0) {
		struct cmsghdr *h;

		m.msg_control = control.space;
		m.msg_controllen = sizeof(control.space);
		h = CMSG_FIRSTHDR(&m);
		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_RIGHTS;
		h->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(h), &fd, sizeof(fd));
	}
	while (m.msg_iovlen) {
		ssize_t done = sendmsg(c->fd, &m, MSG_NOSIGNAL);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return lost(c);
		m.msg_control = NULL;
		m.msg_controllen = 0;
		while (m.msg_iovlen && (size_t)done >= m.msg_iov->iov_len) {
			done -= (ssize_t)m.msg_iov->iov_len;
			m.msg_iov++;
			m.msg_iovlen--;
		}
		if (m.msg_iovlen) {
			m.msg_iov->iov_base = (uint8_t *)m.msg_iov->iov_base + done;
			m.msg_iov->iov_len -= (size_t)done;
		}
	}
	return 0;
}

/* At least `need` bytes more, at most `room`, into buf; usually one system call. */
static int receive(struct client *c, uint8_t *buf, size_t need, size_t room, size_t *got)
{
	*got = 0;
	while (*got < need) {
		ssize_t n = recv(c->fd, buf + *got, room - *got, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return lost(c);	/* closed, or the time-out of the socket */
		*got += (size_t)n;
	}
	return 0;
}

/*
 * The answer to message `id`. With the `expect` bytes of payload that it should have it comes in one
 * piece. A refusal has none; others may be shorter than `room`, the length goes to *got.
 */
static int answer(struct client *c, uint16_t id, uint16_t command, void *payload, size_t expect, size_t room,
		  size_t *got)
{
	struct {
		struct vu_header h;
		uint8_t data[64];
	} first;
	size_t size, have, more = 0;
	int ret;

	if (expect > sizeof(first.data))
		expect = sizeof(first.data);
	ret = receive(c, (uint8_t *)&first, sizeof(first.h), sizeof(first.h) + expect, &have);
	if (ret)
		return ret;
	if (first.h.id != id || first.h.command != command || (first.h.flags & VU_TYPE_MASK) != VU_REPLY ||
	    first.h.size < sizeof(first.h) || first.h.size - sizeof(first.h) > room || first.h.size < have)
		return lost(c);
	size = first.h.size - sizeof(first.h);
	have -= sizeof(first.h);
	if (have)
		memcpy(payload, first.data, have);
	if (size > have)
		ret = receive(c, (uint8_t *)payload + have, size - have, size - have, &more);
	if (ret)
		return ret;
	if (first.h.flags & VU_ERROR)
		return first.h.error && first.h.error < 4096 ? -(int)first.h.error : -EIO;
	*got = size;
	return 0;
}

/* Ask and wait. The answer has to be of `want` bytes at least; lock held. */
static int ask(struct client *c, uint16_t command, const void *in, size_t in_len, int fd, void *out,
	       size_t room, size_t want)
{
	struct vu_header h = { .id = c->id++, .command = command, .size = (uint32_t)(sizeof(h) + in_len) };
	struct iovec iov[2] = {
		{ .iov_base = &h, .iov_len = sizeof(h) },
		{ .iov_base = (void *)(uintptr_t)in, .iov_len = in_len },
	};
	size_t got;
	int ret = send_iov(c, iov, in_len ? 2 : 1, fd);

	if (!ret)
		ret = answer(c, h.id, command, out, want, room, &got);
	if (!ret && got < want)
		ret = lost(c);
	return ret;
}

static int ask_locked(struct client *c, uint16_t command, const void *in, size_t in_len, int fd, void *out,
		      size_t room, size_t want)
{
	int ret;

	pthread_mutex_lock(&c->lock);
	ret = ask(c, command, in, in_len, fd, out, room, want);
	pthread_mutex_unlock(&c->lock);
	return ret;
}

static size_t fill_access(struct client *c, struct access_message *m, uint16_t command, unsigned int region,
			  uint64_t offset, unsigned int width, uint32_t value)
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
	uint8_t payload[sizeof(*asked) + 4];
	size_t got;
	int ret = answer(c, id, VU_REGION_READ, payload, sizeof(*asked) + asked->count, sizeof(payload), &got);

	if (ret)
		return ret;
	if (got != sizeof(*asked) + asked->count || memcmp(payload, asked, sizeof(*asked)))
		return lost(c);
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
	int ret = 0;

	pthread_mutex_lock(&c->lock);
	while (count && !ret) {
		unsigned int n = count < BATCH ? count : BATCH;

		for (unsigned int i = 0; i < n; i++) {
			iov[i].iov_len = fill_access(c, &m[i], VU_REGION_READ, region, offset, width, 0);
			iov[i].iov_base = &m[i];
		}
		ret = send_iov(c, iov, n, -1);
		for (unsigned int i = 0; i < n && !ret; i++, p += width)
			ret = read_answer(c, m[i].h.id, &m[i].a, p);
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
 * confirmed writes the last one's answer is waited for. Lock held.
 */
static int post(struct client *c, const struct usrdrv_write *w, unsigned int n, void *last, size_t last_len)
{
	struct access_message m[BATCH];
	struct iovec iov[BATCH + 1];
	int ret = 0;

	while ((n || last) && !ret) {
		unsigned int k = n < BATCH ? n : BATCH, messages = k;
		int wait = k && confirmed(c, w[k - 1].region);

		for (unsigned int i = 0; i < k; i++) {
			iov[i].iov_len = fill_access(c, &m[i], VU_REGION_WRITE, w[i].region, w[i].offset,
						     w[i].width, w[i].value);
			iov[i].iov_base = &m[i];
			m[i].h.flags = wait && i == k - 1 ? 0 : VU_NO_REPLY;
		}
		n -= k;
		w += k;
		if (!n && last) {
			iov[messages++] = (struct iovec){ .iov_base = last, .iov_len = last_len };
			last = NULL;
		}
		ret = send_iov(c, iov, messages, -1);
		if (!ret && wait) {
			struct vu_region_access a;
			size_t got;

			ret = answer(c, m[k - 1].h.id, VU_REGION_WRITE, &a, sizeof(a), sizeof(a), &got);
		}
	}
	return ret;
}

static int do_read(struct usrdrv_dev *dev, const struct usrdrv_write *w, unsigned int n, unsigned int region,
		   uint64_t offset, unsigned int width, uint32_t *value)
{
	struct client *c = of(dev);
	struct access_message m;
	size_t len;
	int ret;

	*value = 0;
	pthread_mutex_lock(&c->lock);
	len = fill_access(c, &m, VU_REGION_READ, region, offset, width, 0);
	ret = post(c, w, n, &m, len);
	if (!ret)
		ret = read_answer(c, m.h.id, &m.a, value);
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
				.region = (uint8_t)region, .width = (uint8_t)width, .offset = (uint16_t)offset,
			};
			memcpy(&w[i].value, p, width);
		}
		ret = post(c, w, n, NULL, 0);
		count -= n;
	}
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
	ret = post(c, w, n, &m, sizeof(m));
	pthread_mutex_unlock(&c->lock);
	return ret;
}

static int share(struct client *c, struct area *a)
{
	struct vu_dma_map m = { .argsz = sizeof(m), .flags = 3, .address = a->bus, .size = a->len };
	uint8_t reply[64];

	return ask(c, VU_DMA_MAP, &m, sizeof(m), a->memfd, reply, sizeof(reply), 0);
}

static void withdraw(struct client *c, struct area *a)
{
	struct vu_dma_unmap m = { .argsz = sizeof(m), .address = a->bus, .size = a->len };
	uint8_t reply[64];

	if (!c->dev.gone)
		ask(c, VU_DMA_UNMAP, &m, sizeof(m), -1, reply, sizeof(reply), 0);
	munmap(a->cpu, a->len);
	close(a->memfd);
}

static int make_area(struct area *a, size_t len)
{
	a->len = len;
	a->memfd = memfd_create("usrdrv-dma", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (a->memfd < 0)
		return -errno;
	a->cpu = MAP_FAILED;
	if (!ftruncate(a->memfd, (off_t)len) && !fcntl(a->memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW))
		a->cpu = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, a->memfd, 0);
	if (a->cpu == MAP_FAILED) {
		int ret = -errno;

		close(a->memfd);
		return ret;
	}
	return 0;
}

/* First gap that fits; there are few areas, made at start-up. */
static int do_dma_alloc(struct usrdrv_dev *dev, size_t len, size_t align, uint64_t limit, struct usrdrv_dma *dma)
{
	struct client *c = of(dev);
	struct area a = { .bus = BUS_BASE };
	unsigned int i;
	int ret;

	if (!len || align & (align - 1) || len > UINT32_MAX)
		return -EINVAL;
	if (align < PAGE)
		align = PAGE;
	len = (len + PAGE - 1) & ~(size_t)(PAGE - 1);
	pthread_mutex_lock(&c->lock);
	for (i = 0; i < c->n; i++) {
		a.bus = (a.bus + align - 1) & ~(uint64_t)(align - 1);
		if (a.bus + len <= c->area[i].bus)
			break;
		a.bus = c->area[i].bus + c->area[i].len;
	}
	a.bus = (a.bus + align - 1) & ~(uint64_t)(align - 1);
	ret = c->n == MAX_AREAS || a.bus + len - 1 > limit || a.bus + len - 1 > UINT32_MAX ?
		-ENOSPC : make_area(&a, len);
	if (!ret) {
		ret = share(c, &a);
		if (ret) {
			munmap(a.cpu, a.len);
			close(a.memfd);
		}
	}
	if (!ret) {
		memmove(&c->area[i + 1], &c->area[i], (c->n - i) * sizeof(a));
		c->area[i] = a;
		c->n++;
		*dma = (struct usrdrv_dma){ .cpu = a.cpu, .bus = a.bus, .len = a.len };
	}
	pthread_mutex_unlock(&c->lock);
	return ret;
}

static void do_dma_free(struct usrdrv_dev *dev, struct usrdrv_dma *dma)
{
	struct client *c = of(dev);

	pthread_mutex_lock(&c->lock);
	for (unsigned int i = 0; i < c->n; i++) {
		if (c->area[i].bus != dma->bus)
			continue;
		withdraw(c, &c->area[i]);
		c->n--;
		memmove(&c->area[i], &c->area[i + 1], (c->n - i) * sizeof(c->area[0]));
		break;
	}
	pthread_mutex_unlock(&c->lock);
	memset(dma, 0, sizeof(*dma));
}

static int do_reset(struct usrdrv_dev *dev)
{
	return ask_locked(of(dev), VU_RESET, NULL, 0, -1, NULL, 0, 0);
}

static void do_close(struct usrdrv_dev *dev)
{
	struct client *c = of(dev);
	uint32_t command;

	/* quiet before its memory goes */
	if (!do_read(dev, NULL, 0, USRDRV_REGION_CONFIG, 4, 2, &command)) {
		const struct usrdrv_write w = {
			.region = USRDRV_REGION_CONFIG, .offset = 4, .width = 2, .value = command & ~4u,
		};

		do_write_list(dev, &w, 1);
		do_reset(dev);
	}
	for (unsigned int i = 0; i < c->n; i++)
		withdraw(c, &c->area[i]);
	if (c->fd >= 0)
		close(c->fd);
	close(dev->irq_fd);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

static const struct usrdrv_dev_ops ops = {
	.read = do_read, .write_list = do_write_list, .read_rep = do_read_rep, .write_rep = do_write_rep,
	.dma_alloc = do_dma_alloc, .dma_free = do_dma_free, .irq_unmask = do_irq_unmask, .reset = do_reset,
	.close = do_close,
};

static int connect_to(struct client *c, const char *path, int timeout_ms)
{
	const struct timeval patience = {
		.tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000,
	};
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof(address)) ||
	    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) ||
	    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)))
		return -errno;
	c->dev.hangup_fd = c->fd;
	return 0;
}

static int negotiate(struct client *c)
{
	static const char json[] = "{\"capabilities\":{\"max_msg_fds\":1,\"max_data_xfer_size\":1048576}}";
	struct {
		struct vu_version v;
		char json[sizeof(json)];
	} in = { .v = { .major = VU_VERSION_MAJOR, .minor = VU_VERSION_MINOR } };
	uint8_t out[4096];
	int ret;

	memcpy(in.json, json, sizeof(json));
	ret = ask(c, VU_VERSION, &in, sizeof(in), -1, out, sizeof(out), sizeof(in.v));
	if (!ret && memcmp(out, &in.v.major, sizeof(in.v.major)))
		ret = -EPROTO;
	return ret;
}

static int learn_regions(struct client *c)
{
	struct vu_device_info device = { .argsz = sizeof(device) };
	int ret = ask(c, VU_GET_INFO, &device, sizeof(device), -1, &device, sizeof(device), sizeof(device));

	if (!ret && !(device.flags & 2))
		ret = -EPROTO;	/* no PCI device */
	for (uint32_t i = 0; i < USRDRV_NUM_BARS && !ret; i++) {
		struct vu_region_info info = { .argsz = sizeof(info), .index = i };
		uint32_t bar = 0;

		ret = ask(c, VU_GET_REGION_INFO, &info, sizeof(info), -1, &info, sizeof(info), sizeof(info));
		if (ret)
			break;
		c->dev.bar[i].size = info.size;
		/* its kind is what the register says */
		pthread_mutex_unlock(&c->lock);
		ret = do_read(&c->dev, NULL, 0, USRDRV_REGION_CONFIG, 0x10 + 4 * i, 4, &bar);
		pthread_mutex_lock(&c->lock);
		if (bar & 1)
			c->dev.bar[i].flags = USRDRV_BAR_IO;
	}
	return ret;
}

static int connect_interrupt(struct client *c)
{
	struct vu_irq_set set = {
		.argsz = sizeof(set), .flags = VU_IRQ_DATA_EVENTFD | VU_IRQ_TRIGGER, .count = 1,
	};
	uint8_t out[64];

	return ask(c, VU_SET_IRQS, &set, sizeof(set), c->dev.irq_fd, out, sizeof(out), 0);
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
	c->fd = c->dev.hangup_fd = -1;
	pthread_mutex_init(&c->lock, NULL);
	c->dev.irq_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ret = c->dev.irq_fd < 0 ? -errno : connect_to(c, path, timeout_ms);
	if (!ret) {
		pthread_mutex_lock(&c->lock);
		ret = negotiate(c);
		if (!ret)
			ret = learn_regions(c);
		if (!ret)
			ret = connect_interrupt(c);
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
