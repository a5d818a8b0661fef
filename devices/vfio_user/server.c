// SPDX-License-Identifier: MIT
/*
 * The vfio-user server: one device model, one client at a time. Framing,
 * descriptors and connections are here, what messages say in
 * messages.c.
 *
 * The peer is hostile. A bad message gets an error reply, and only broken
 * framing ends the connection. Register accesses run on this thread; the model
 * may raise its interrupt from any.
 */
#define _GNU_SOURCE
#include "server.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUFFER_SIZE	(sizeof(struct vu_header) + sizeof(struct vu_region_access) + VU_MAX_XFER + 4096)
#define PATIENCE_MS	5000	/* with a client that does not read its replies */
#define BURST_US	1000	/* a client at work sends its next message sooner */
#define BURST		64	/* receives until the next look at everything else */

static void host_message(void *ctx, unsigned int vector)
{
	vu_vectors_message(&((struct vu_server *)ctx)->vectors, vector);
}

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

/* Waiting for the client to read must not keep vu_server_stop() from being heard. */
static int send_all(struct vu_server *s, const void *data, size_t len)
{
	const uint8_t *p = data;

	while (len) {
		ssize_t n = send(s->conn, p, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		struct pollfd wait[] = {
			{ .fd = s->stop_fd, .events = POLLIN },
			{ .fd = s->conn, .events = POLLOUT },
		};

		if (n >= 0) {
			p += n;
			len -= (size_t)n;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return -EPIPE;
		n = poll(wait, 2, PATIENCE_MS);
		if (n == 0 || wait[0].revents || (n < 0 && errno != EINTR))
			return -EPIPE;
	}
	return 0;
}

/* Close what nobody took of the message in hand. */
static void drop_fds(struct vu_server *s)
{
	int fd;

	while ((fd = vu_take_fd(s)) >= 0)
		close(fd);
}

/* One whole message. Return: 0, or -errno when the connection cannot go on. */
static int handle(struct vu_server *s, const struct vu_header *h, uint8_t *payload)
{
	struct vu_header reply = { .id = h->id, .command = h->command, .flags = VU_REPLY };
	int ret;

	if ((h->flags & VU_TYPE_MASK) == VU_REPLY)
		return 0;	/* to report_stray(): of no use */
	if (h->flags & VU_TYPE_MASK)
		ret = -EINVAL;
	else if (s->lost_end && s->lost_end <= s->message_end)
		ret = -EMFILE;
	else
		ret = vu_dispatch(s, h->command, payload, h->size - sizeof(*h), s->out + sizeof(reply));
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

/*
 * The device went where it has no memory. To it that is a master abort, done with by now; but the client
 * may have an IOMMU, which has to see the access to report it. So it is asked for the bytes, and
 * whatever it answers is of no use any more. Not with the access itself: the client waits for that.
 */
static int report_stray(struct vu_server *s)
{
	struct {
		struct vu_header h;
		struct vu_dma_access a;
	} m = {
		.h = { .id = s->asked++, .command = VU_DMA_READ, .size = sizeof(m) },
		.a = { .count = 4 },
	};

	m.a.address = atomic_exchange(&s->dma.stray, VU_NOWHERE);
	return m.a.address == VU_NOWHERE ? 0 : send_all(s, &m, sizeof(m));
}

static ssize_t receive(struct vu_server *s, int flags)
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
	ssize_t n = recvmsg(s->conn, &m, MSG_CMSG_CLOEXEC | flags);

	if (n <= 0)
		return n;
	if (m.msg_flags & MSG_CTRUNC)
		s->lost_end = s->have + (size_t)n;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
		size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
			if (s->nfds < VU_MAX_FDS) {
				s->fds[s->nfds] = fd;
				s->fd_end[s->nfds++] = s->have + (size_t)n;
			} else {
				s->lost_end = s->have + (size_t)n;
				close(fd);
			}
		}
	}
	s->have += (size_t)n;
	return n;
}

/*
 * Every whole message that has arrived. The kernel ends a read after bytes
 * that came with descriptors, but does not begin one there: descriptors are
 * those of the message in which their read ended.
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
		s->message_end = at + h.size;
		ret = handle(s, &h, s->in + at + sizeof(h));
		if (!ret && s->dma.stray != VU_NOWHERE)
			ret = report_stray(s);
		drop_fds(s);
		if (s->lost_end <= s->message_end)
			s->lost_end = 0;
		at += h.size;
	}
	memmove(s->in, s->in + at, s->have - at);
	s->have -= at;
	for (unsigned int i = 0; i < s->nfds; i++)
		s->fd_end[i] -= at;
	if (s->lost_end)
		s->lost_end -= at;
	return ret;
}

static void disconnect(struct vu_server *s)
{
	close(s->conn);
	s->conn = -1;
	s->message_end = SIZE_MAX;
	drop_fds(s);
	s->have = s->lost_end = 0;
	s->negotiated = 0;
	vu_disconnect_irqs(s);
	/* quiet before its memory goes */
	vu_reset(s);
	vu_dma_unmap(&s->dma, 0, 0, 1);
}

/* The second client has spoken, or left: the reply to its VERSION says that there is a first. */
static void refuse(struct vu_server *s)
{
	struct vu_header h;

	if (recv(s->second, &h, sizeof(h), MSG_DONTWAIT) == sizeof(h)) {
		h.size = sizeof(h);
		h.flags = VU_REPLY | VU_ERROR;
		h.error = EBUSY;
		send(s->second, &h, sizeof(h), MSG_NOSIGNAL | MSG_DONTWAIT);
	}
	close(s->second);
	s->second = -1;
}

static void greet(struct vu_server *s)
{
	const struct timeval burst = { .tv_usec = BURST_US };
	int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		return;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &burst, sizeof(burst));
	if (s->conn >= 0) {
		if (s->second >= 0)
			refuse(s);	/* silent so far: has to give way */
		s->second = fd;
		return;
	}
	s->conn = fd;
}

/*
 * What the client has sent, and its leaving. Without MSG_DONTWAIT in flags it gets a while to send.
 * Return: 1 if it did, 0 if not, -ESHUTDOWN if it was the only one to serve and is gone.
 */
static int serve_client(struct vu_server *s, int flags)
{
	ssize_t n = receive(s, flags);
	int client;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n > 0 && !serve_messages(s))
		return 1;
	client = s->negotiated;
	disconnect(s);
	if (s->once && client)
		return -ESHUTDOWN;
	s->conn = s->second;
	s->second = -1;
	return 1;
}

/**
 * vu_server_run - serve clients until told to stop
 * @s:	server
 *
 * Return: 0; -errno if it cannot go on.
 */
int vu_server_run(struct vu_server *s)
{
	int burst = 0, ret = 0;

	while (ret != -ESHUTDOWN) {
		struct pollfd p[] = {
			{ .fd = s->stop_fd, .events = POLLIN },
			{ .fd = s->conn, .events = POLLIN },
			{ .fd = s->second, .events = POLLIN },
			{ .fd = s->listen_fd, .events = POLLIN },
		};
		struct timespec t;
		const struct timespec *patience = vu_irq_patience(&s->irq, &t);

		/* One call for each message, not two, while messages come. */
		if (burst && s->conn >= 0 && !patience) {
			ret = serve_client(s, 0);
			burst = ret ? burst - 1 : 0;
			continue;
		}
		ret = ppoll(p, sizeof(p) / sizeof(p[0]), patience, NULL);
		if (ret < 0 && errno != EINTR)
			return -errno;
		if (p[0].revents)
			break;
		if (!ret)
			vu_irq_idle(&s->irq);
		if (p[1].revents) {
			ret = serve_client(s, MSG_DONTWAIT);
			burst = BURST;
		}
		if (p[2].revents && s->second >= 0)
			refuse(s);
		if (p[3].revents)
			greet(s);
	}
	if (s->second >= 0)
		refuse(s);
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
 * @once:	end when the first client that negotiated leaves
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
	if (!s->in || !s->out || s->stop_fd < 0 ||
	    vu_vectors_init(&s->vectors, model)) {
		if (s->stop_fd >= 0)
			close(s->stop_fd);
		free(s->in);
		free(s->out);
		free(s);
		return -ENOMEM;
	}
	s->model = model;
	s->listen_fd = listen_fd;
	s->once = once;
	s->conn = s->second = -1;
	s->irq_kind = USRDRV_IRQ_KINDS;
	vu_irq_init(&s->irq);
	vu_dma_init(&s->dma, model);
	model->host = (struct usrdrv_model_host){
		.ctx = s, .dma_read = host_dma_read, .dma_write = host_dma_write, .dma_ptr = host_dma_ptr,
		.irq = host_irq, .message = host_message,
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
	s->model->host = (struct usrdrv_model_host){ 0 };
	vu_dma_destroy(&s->dma);
	vu_irq_destroy(&s->irq);
	vu_vectors_destroy(&s->vectors);
	close(s->stop_fd);
	free(s->in);
	free(s->out);
	free(s);
}
