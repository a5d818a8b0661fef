// SPDX-License-Identifier: MIT
/*
 * The vfio-user server: one device model, one client at a time.
 *
 * The peer is hostile. Every length, count, offset and descriptor is checked;
 * a bad message gets an error reply, and only broken framing ends the
 * connection. Register accesses run on this thread; the model may raise its
 * interrupt from any.
 */
#define _GNU_SOURCE
#include "vfio_user_server.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUFFER_SIZE	(sizeof(struct vu_header) + sizeof(struct vu_region_access) + VU_MAX_XFER + 4096)
#define SEND_TIMEOUT_S	5

struct vu_server {
	struct usrdrv_model *model;
	struct vu_dma dma;
	int listen_fd, stop_fd, conn;
	int once;
	int negotiated;

	uint8_t *in, *out;
	size_t have;			/* bytes in `in` */
	int fds[VU_MAX_FDS];		/* that came with bytes in `in`, in order */
	unsigned int nfds;

	struct vu_irq irq;
};

static void host_irq(void *ctx, int level)
{
	vu_irq_level(&((struct vu_server *)ctx)->irq, level);
}

static int host_dma_read(void *ctx, uint64_t addr, void *buf, size_t len)
{
	return vu_dma_read(&((struct vu_server *)ctx)->dma, addr, buf, len);
}

static int host_dma_write(void *ctx, uint64_t addr, const void *buf, size_t len)
{
	return vu_dma_write(&((struct vu_server *)ctx)->dma, addr, buf, len);
}

static void *host_dma_ptr(void *ctx, uint64_t addr, size_t len, int device_writes, size_t *avail)
{
	return vu_dma_ptr(&((struct vu_server *)ctx)->dma, addr, len, device_writes, avail);
}

static int send_all(struct vu_server *s, const void *data, size_t len)
{
	const uint8_t *p = data;

	while (len) {
		ssize_t n = send(s->conn, p, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -EPIPE;	/* gone, or has not read for SEND_TIMEOUT_S */
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

static int take_fd(struct vu_server *s)
{
	int fd;

	if (!s->nfds)
		return -1;
	fd = s->fds[0];
	memmove(s->fds, s->fds + 1, --s->nfds * sizeof(int));
	return fd;
}

static uint32_t bar_size(const struct vu_server *s, uint32_t region)
{
	if (region == VU_CONFIG_REGION)
		return USRDRV_MODEL_CONFIG_SIZE;
	return region < 6 ? s->model->bar[region].size : 0;
}

/* One access of any length, as naturally aligned ones of up to 4 bytes. */
static int access_region(struct vu_server *s, const struct vu_region_access *a, uint8_t *data, int write)
{
	const struct usrdrv_model_ops *ops = s->model->ops;
	uint32_t size = bar_size(s, a->region);
	uint64_t at = a->offset, end;

	if (!a->count || a->count > VU_MAX_XFER || a->offset >= size || a->count > size - a->offset)
		return -EINVAL;
	for (end = at + a->count; at < end;) {
		unsigned int width = 4;
		uint32_t value = 0;

		while (at % width || width > end - at)
			width /= 2;
		if (write) {
			memcpy(&value, data, width);
			ops->write(s->model, a->region, (uint32_t)at, width, value);
		} else {
			value = ops->read(s->model, a->region, (uint32_t)at, width);
			memcpy(data, &value, width);
		}
		at += width;
		data += width;
	}
	if (a->region != VU_CONFIG_REGION)
		vu_irq_touched(&s->irq);
	return 0;
}

/* Replies: bytes after the header, or -errno. `in` is the payload, `len` its size, `out` has room enough. */

static int do_version(struct vu_server *s, const uint8_t *in, size_t len, uint8_t *out)
{
	struct vu_version v;

	if (len < sizeof(v))
		return -EINVAL;
	memcpy(&v, in, sizeof(v));
	if (s->negotiated || v.major != VU_VERSION_MAJOR)
		return -EINVAL;
	if (len > sizeof(v) && in[len - 1])
		return -EINVAL;
	s->negotiated = 1;
	v.minor = VU_VERSION_MINOR;
	memcpy(out, &v, sizeof(v));
	return (int)sizeof(v) + 1 +
	       sprintf((char *)out + sizeof(v),
		       "{\"capabilities\":{\"max_msg_fds\":%d,\"max_data_xfer_size\":%u,\"write_multiple\":true}}",
		       VU_MAX_FDS, VU_MAX_XFER);
}

static int do_dma_map(struct vu_server *s, const uint8_t *in, size_t len)
{
	struct vu_dma_map m;
	int fd, ret;

	if (len != sizeof(m))
		return -EINVAL;
	memcpy(&m, in, sizeof(m));
	fd = take_fd(s);
	ret = vu_dma_map(&s->dma, fd, &m);
	if (fd >= 0)
		close(fd);
	return ret;
}

static int do_dma_unmap(struct vu_server *s, const uint8_t *in, size_t len, uint8_t *out)
{
	struct vu_dma_unmap m;
	int ret;

	if (len < sizeof(m))
		return -EINVAL;
	memcpy(&m, in, sizeof(m));
	if (m.flags & ~2u || (m.flags & 2 && (m.address || m.size)))
		return -EINVAL;
	ret = vu_dma_unmap(&s->dma, m.address, m.size, !!(m.flags & 2));
	if (ret)
		return ret;
	memcpy(out, &m, sizeof(m));
	return sizeof(m);
}

static int do_get_info(const uint8_t *in, size_t len, uint8_t *out)
{
	const struct vu_device_info info = {
		.argsz = sizeof(info), .flags = 3, .regions = VU_REGIONS, .irqs = VU_IRQS,
	};
	uint32_t argsz;

	if (len < sizeof(argsz))
		return -EINVAL;
	memcpy(&argsz, in, sizeof(argsz));
	if (argsz < sizeof(info))
		return -EINVAL;
	memcpy(out, &info, sizeof(info));
	return sizeof(info);
}

static int do_region_info(struct vu_server *s, const uint8_t *in, size_t len, uint8_t *out)
{
	struct vu_region_info info;

	if (len < sizeof(info))
		return -EINVAL;
	memcpy(&info, in, sizeof(info));
	if (info.argsz < sizeof(info) || info.index >= VU_REGIONS)
		return -EINVAL;
	info = (struct vu_region_info){
		.argsz = sizeof(info), .index = info.index, .size = bar_size(s, info.index),
	};
	info.flags = info.size ? 3 : 0;
	memcpy(out, &info, sizeof(info));
	return sizeof(info);
}

static int do_irq_info(const uint8_t *in, size_t len, uint8_t *out)
{
	struct vu_irq_info info;

	if (len < sizeof(info))
		return -EINVAL;
	memcpy(&info, in, sizeof(info));
	if (info.argsz < sizeof(info) || info.index >= VU_IRQS)
		return -EINVAL;
	/* INTx: eventfd, maskable, masked by each trigger */
	info.flags = info.index ? 0 : 7;
	info.count = info.index ? 0 : 1;
	memcpy(out, &info, sizeof(info));
	return sizeof(info);
}

static int do_set_irqs(struct vu_server *s, const uint8_t *in, size_t len)
{
	struct vu_irq_set set;
	uint32_t data, action;
	int on = 1;

	if (len < sizeof(set))
		return -EINVAL;
	memcpy(&set, in, sizeof(set));
	data = set.flags & 0x07;
	action = set.flags & 0x38;
	if (set.index || set.start > 1 || set.count > 1 - set.start || set.flags & ~0x3fu ||
	    (data != VU_IRQ_DATA_NONE && data != VU_IRQ_DATA_BOOL && data != VU_IRQ_DATA_EVENTFD) ||
	    (action != VU_IRQ_MASK && action != VU_IRQ_UNMASK && action != VU_IRQ_TRIGGER))
		return -EINVAL;
	if (data == VU_IRQ_DATA_BOOL) {
		if (len < sizeof(set) + set.count)
			return -EINVAL;
		on = set.count && in[sizeof(set)];
	}
	if (data == VU_IRQ_DATA_EVENTFD && action != VU_IRQ_TRIGGER)
		return -EOPNOTSUPP;

	if (action == VU_IRQ_TRIGGER && (data == VU_IRQ_DATA_EVENTFD || !set.count))
		vu_irq_connect(&s->irq, set.count ? take_fd(s) : -1);
	else if (set.count && on)
		vu_irq_act(&s->irq, action);
	return 0;
}

static int do_region_read(struct vu_server *s, const uint8_t *in, size_t len, uint8_t *out)
{
	struct vu_region_access a;
	int ret;

	if (len != sizeof(a))
		return -EINVAL;
	memcpy(&a, in, sizeof(a));
	ret = access_region(s, &a, out + sizeof(a), 0);
	if (ret)
		return ret;
	memcpy(out, &a, sizeof(a));
	return (int)(sizeof(a) + a.count);
}

static int do_region_write(struct vu_server *s, uint8_t *in, size_t len, uint8_t *out)
{
	struct vu_region_access a;
	int ret;

	if (len < sizeof(a))
		return -EINVAL;
	memcpy(&a, in, sizeof(a));
	if (len - sizeof(a) != a.count)
		return -EINVAL;
	ret = access_region(s, &a, in + sizeof(a), 1);
	if (ret)
		return ret;
	memcpy(out, &a, sizeof(a));
	return sizeof(a);
}

static int do_write_multi(struct vu_server *s, const uint8_t *in, size_t len, uint8_t *out)
{
	struct vu_write_multi m;
	struct vu_multi w;
	int ret;

	if (len < sizeof(m))
		return -EINVAL;
	memcpy(&m, in, sizeof(m));
	if (m.count != (len - sizeof(m)) / sizeof(w) || (len - sizeof(m)) % sizeof(w))
		return -EINVAL;
	for (uint64_t i = 0; i < m.count; i++) {
		struct vu_region_access a;

		memcpy(&w, in + sizeof(m) + i * sizeof(w), sizeof(w));
		if (w.count > sizeof(w.data))
			return -EINVAL;
		a = (struct vu_region_access){ .offset = w.offset, .region = w.region, .count = w.count };
		ret = access_region(s, &a, w.data, 1);
		if (ret)
			return ret;
	}
	memcpy(out, &m, sizeof(m));
	return sizeof(m);
}

static int dispatch(struct vu_server *s, uint16_t command, uint8_t *in, size_t len, uint8_t *out)
{
	if (!s->negotiated && command != VU_VERSION)
		return -EINVAL;
	switch (command) {
	case VU_VERSION:
		return do_version(s, in, len, out);
	case VU_DMA_MAP:
		return do_dma_map(s, in, len);
	case VU_DMA_UNMAP:
		return do_dma_unmap(s, in, len, out);
	case VU_GET_INFO:
		return do_get_info(in, len, out);
	case VU_GET_REGION_INFO:
		return do_region_info(s, in, len, out);
	case VU_GET_IRQ_INFO:
		return do_irq_info(in, len, out);
	case VU_SET_IRQS:
		return do_set_irqs(s, in, len);
	case VU_REGION_READ:
		return do_region_read(s, in, len, out);
	case VU_REGION_WRITE:
		return do_region_write(s, in, len, out);
	case VU_REGION_WRITE_MULTI:
		return do_write_multi(s, in, len, out);
	case VU_RESET:
		s->model->ops->reset(s->model);
		return 0;
	default:
		return -EOPNOTSUPP;
	}
}

/* One whole message. Return: 0, or -errno when the connection cannot go on. */
static int handle(struct vu_server *s, const struct vu_header *h, uint8_t *payload)
{
	struct vu_header reply = { .id = h->id, .command = h->command, .flags = VU_REPLY };
	int ret;

	if ((h->flags & VU_TYPE_MASK) == VU_REPLY)
		return 0;	/* we never ask anything: an answer is noise */
	if (h->flags & VU_TYPE_MASK)
		ret = -EINVAL;
	else
		ret = dispatch(s, h->command, payload, h->size - sizeof(*h), s->out + sizeof(reply));
	if (h->flags & VU_NO_REPLY)
		return 0;
	if (ret < 0) {
		reply.flags |= VU_ERROR;
		reply.error = (uint32_t)-ret;
		ret = 0;
	}
	reply.size = (uint32_t)(sizeof(reply) + (size_t)ret);
	memcpy(s->out, &reply, sizeof(reply));
	return send_all(s, s->out, reply.size);
}

static void close_fds(struct vu_server *s)
{
	while (s->nfds)
		close(s->fds[--s->nfds]);
}

static ssize_t receive(struct vu_server *s)
{
	union {
		struct cmsghdr align;
		uint8_t space[CMSG_SPACE(sizeof(int) * VU_MAX_FDS)];
	} control;
	struct iovec iov = { .iov_base = s->in + s->have, .iov_len = BUFFER_SIZE - s->have };
	struct msghdr m = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space,
		.msg_controllen = sizeof(control.space),
	};
	ssize_t n = recvmsg(s->conn, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);

	if (n <= 0)
		return n;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
		size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
			if (s->nfds < VU_MAX_FDS)
				s->fds[s->nfds++] = fd;
			else
				close(fd);
		}
	}
	s->have += (size_t)n;
	return n;
}

/*
 * Every whole message that has arrived. The kernel ends a read at a message
 * with descriptors, so what is in hand belongs to the last of these messages;
 * what that one leaves over is closed.
 */
static int serve_messages(struct vu_server *s)
{
	size_t at = 0;
	int ret = 0;

	while (!ret && s->have - at >= sizeof(struct vu_header)) {
		struct vu_header h;

		memcpy(&h, s->in + at, sizeof(h));
		if (h.size < sizeof(h) || h.size > BUFFER_SIZE) {
			ret = -EPROTO;
			break;
		}
		if (s->have - at < h.size)
			break;
		ret = handle(s, &h, s->in + at + sizeof(h));
		at += h.size;
		if (at == s->have)
			close_fds(s);
	}
	memmove(s->in, s->in + at, s->have - at);
	s->have -= at;
	return ret;
}

static void disconnect(struct vu_server *s)
{
	close(s->conn);
	s->conn = -1;
	close_fds(s);
	s->have = 0;
	s->negotiated = 0;
	vu_irq_connect(&s->irq, -1);
	/* quiet before its memory goes */
	s->model->ops->reset(s->model);
	vu_dma_unmap(&s->dma, 0, 0, 1);
}

/* A second client: told so in the reply to its VERSION, whose id is 0 or will be taken as such. */
static void refuse(int fd)
{
	const struct timeval patience = { .tv_sec = 1 };
	struct vu_header h;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (recv(fd, &h, sizeof(h), MSG_WAITALL) == sizeof(h)) {
		h.size = sizeof(h);
		h.flags = VU_REPLY | VU_ERROR;
		h.error = EBUSY;
		send(fd, &h, sizeof(h), MSG_NOSIGNAL | MSG_DONTWAIT);
	}
	close(fd);
}

static void greet(struct vu_server *s)
{
	const struct timeval patience = { .tv_sec = SEND_TIMEOUT_S };
	int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		return;
	if (s->conn >= 0) {
		refuse(fd);
		return;
	}
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	s->conn = fd;
}

/**
 * vu_server_run - serve clients until told to stop
 * @s:	server
 *
 * Return: 0; -errno if it cannot go on.
 */
int vu_server_run(struct vu_server *s)
{
	for (;;) {
		struct pollfd p[3] = {
			{ .fd = s->stop_fd, .events = POLLIN },
			{ .fd = s->conn, .events = POLLIN },
			{ .fd = s->listen_fd, .events = POLLIN },
		};
		struct timespec t;
		ssize_t n;

		if (ppoll(p, 3, vu_irq_due(&s->irq, &t), NULL) < 0 && errno != EINTR)
			return -errno;
		if (p[0].revents)
			break;
		if (p[1].revents) {
			n = receive(s);
			if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR) || serve_messages(s)) {
				disconnect(s);
				if (s->once)
					break;
			}
		}
		if (p[2].revents)
			greet(s);
	}
	if (s->conn >= 0)
		disconnect(s);
	return 0;
}

/**
 * vu_server_stop - end vu_server_run(); from any thread or a signal handler
 * @s:	server
 */
void vu_server_stop(struct vu_server *s)
{
	eventfd_write(s->stop_fd, 1);
}

/**
 * vu_server_create - make a server
 * @model:	stays the caller's; must outlive the server
 * @listen_fd:	listening Unix socket; stays the caller's
 * @once:	end when the first client leaves
 * @out:	result
 *
 * Return: 0 or -errno.
 */
int vu_server_create(struct usrdrv_model *model, int listen_fd, int once, struct vu_server **out)
{
	struct vu_server *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->in = malloc(BUFFER_SIZE);
	s->out = malloc(BUFFER_SIZE);
	s->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!s->in || !s->out || s->stop_fd < 0) {
		free(s->in);
		free(s->out);
		free(s);
		return -ENOMEM;
	}
	s->model = model;
	s->listen_fd = listen_fd;
	s->once = once;
	s->conn = -1;
	vu_irq_init(&s->irq);
	vu_dma_init(&s->dma);
	model->host = (struct usrdrv_model_host){
		.ctx = s, .dma_read = host_dma_read, .dma_write = host_dma_write, .dma_ptr = host_dma_ptr,
		.irq = host_irq,
	};
	*out = s;
	return 0;
}

/**
 * vu_server_destroy - give everything back
 * @s:	server that does not run
 */
void vu_server_destroy(struct vu_server *s)
{
	vu_dma_destroy(&s->dma);
	vu_irq_destroy(&s->irq);
	close(s->stop_fd);
	free(s->in);
	free(s->out);
	free(s);
}
