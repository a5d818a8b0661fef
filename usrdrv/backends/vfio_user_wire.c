// SPDX-License-Identifier: MIT
/*
 * The conversation with a vfio-user server: whole messages out, checked answers
 * in. All of it with the client's lock held.
 */
#include "vfio_user_client.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#define MAX_QUESTIONS	64	/* of a server between two answers */

/**
 * client_connect - connect the socket
 * @c:		client
 * @path:	of the socket
 * @timeout_ms:	how long every answer may take, and the connection
 *
 * Return: 0 or -errno.
 */
int client_connect(struct client *c, const char *path, int timeout_ms)
{
	const struct timeval patience = {
		.tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000,
	};
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0 || setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) ||
	    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) ||
	    connect(c->fd, (struct sockaddr *)&address, sizeof(address)))
		return -errno;
	c->dev.hangup_fd = c->fd;
	return 0;
}

/*
 * The end of the device: nothing is sent any more, and sleepers wake by the socket's hang-up. Not by irq_fd: the server
 * has it as well, and may have filled it and made it one whose writers wait.
 */
int client_lost(struct client *c)
{
	if (!c->dev.gone) {
		c->dev.gone = 1;
		shutdown(c->fd, SHUT_RDWR);
	}
	return -ENODEV;
}

/* Send all of it, with up to VU_MAX_FDS descriptors; clobbers iov. */
int client_send(struct client *c, struct iovec *iov, size_t n, const int *fds, unsigned int nfds)
{
	union {
		struct cmsghdr align;
		uint8_t space[CMSG_SPACE(sizeof(int) * VU_MAX_FDS)];
	} control = { 0 };
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = n };

	if (c->dev.gone)
		return -ENODEV;
	if (nfds) {
		struct cmsghdr *h;

		m.msg_control = control.space;
		m.msg_controllen = CMSG_SPACE(sizeof(int) * nfds);
		h = CMSG_FIRSTHDR(&m);
		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_RIGHTS;
		h->cmsg_len = CMSG_LEN(sizeof(int) * nfds);
		memcpy(CMSG_DATA(h), fds, sizeof(int) * nfds);
	}
	while (m.msg_iovlen) {
		ssize_t done = sendmsg(c->fd, &m, MSG_NOSIGNAL);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return client_lost(c);
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

/* What has arrived is taken in one system call: answers to several questions often come together. */
static int receive(struct client *c, void *buf, size_t len)
{
	uint8_t *p = buf;

	while (len) {
		size_t n = c->have - c->at;

		if (!n) {
			ssize_t got = recv(c->fd, c->in, sizeof(c->in), 0);

			if (got < 0 && errno == EINTR)
				continue;
			if (got <= 0)
				return client_lost(c);	/* closed, or the time-out of the socket */
			c->at = 0;
			c->have = (size_t)got;
			continue;
		}
		if (n > len)
			n = len;
		memcpy(p, c->in + c->at, n);
		c->at += n;
		p += n;
		len -= n;
	}
	return 0;
}

/* Pass over the server's own questions: it has all the memory that there is, and waits for no answer. */
static int next_answer(struct client *c, struct vu_header *h)
{
	uint8_t payload[sizeof(struct vu_dma_access)];
	int ret = receive(c, h, sizeof(*h));

	for (int i = 0; !ret && i < MAX_QUESTIONS && h->command == VU_DMA_READ && !(h->flags & VU_TYPE_MASK) &&
	     h->size == sizeof(*h) + sizeof(payload); i++) {
		ret = receive(c, payload, sizeof(payload));
		if (!ret)
			ret = receive(c, h, sizeof(*h));
	}
	return ret;
}

/*
 * The answer to message `id`. A refusal has no payload; an answer may be shorter
 * than `room`, its length goes to *got.
 */
int client_answer(struct client *c, uint16_t id, uint16_t command, void *payload, size_t room, size_t *got)
{
	struct vu_header h;
	int ret = next_answer(c, &h);

	if (ret)
		return ret;
	if (h.id != id || h.command != command || (h.flags & VU_TYPE_MASK) != VU_REPLY || h.size < sizeof(h) ||
	    h.size - sizeof(h) > room)
		return client_lost(c);
	ret = receive(c, payload, h.size - sizeof(h));
	if (ret)
		return ret;
	if (h.flags & VU_ERROR) {
		if (h.error == ENODEV)
			return client_lost(c);	/* so that -ENODEV is always for good */
		return h.error && h.error < 4096 ? -(int)h.error : -EIO;
	}
	*got = h.size - sizeof(h);
	return 0;
}

/* Ask and wait. The answer has to be of `want` bytes at least; lock held. */
int client_ask_with(struct client *c, uint16_t command, const void *in, size_t in_len, const int *fds,
		    unsigned int nfds, void *out, size_t room, size_t want)
{
	struct vu_header h = { .id = c->id++, .command = command, .size = (uint32_t)(sizeof(h) + in_len) };
	struct iovec iov[2] = {
		{ .iov_base = &h, .iov_len = sizeof(h) },
		{ .iov_base = (void *)(uintptr_t)in, .iov_len = in_len },
	};
	size_t got;
	int ret = client_send(c, iov, in_len ? 2 : 1, fds, nfds);

	if (!ret)
		ret = client_answer(c, h.id, command, out, room, &got);
	if (!ret && got < want)
		ret = client_lost(c);
	return ret;
}

int client_ask(struct client *c, uint16_t command, const void *in, size_t in_len, void *out, size_t room, size_t want)
{
	return client_ask_with(c, command, in, in_len, NULL, 0, out, room, want);
}
