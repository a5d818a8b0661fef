// SPDX-License-Identifier: MIT
/* The port to a TAP interface: one system call for each packet, which may be up to 64 KiB. */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "ports.h"

#define ON_TAP	USRDRV_NET_WATCHES

struct tap_port {
	struct usrdrv_net_port port;	/* first */
	int fd, epoll_fd;
	int watched[USRDRV_NET_WATCHES];
};

static struct tap_port *of(struct usrdrv_net_port *port)
{
	return (struct tap_port *)port;
}

static int tap_pull(struct usrdrv_net_port *port, const struct iovec *iov, int n)
{
	ssize_t got = readv(of(port)->fd, iov, n);

	port->stats->system_calls++;
	if (got >= 0)
		return (int)got;
	return errno == EAGAIN || errno == EINTR ? 0 : -errno;
}

static int tap_push(struct usrdrv_net_port *port, const struct iovec *iov, int n)
{
	port->stats->system_calls++;
	return writev(of(port)->fd, iov, n) < 0 ? -errno : 0;
}

static int add(struct tap_port *t, int fd, uint32_t events, uint32_t what)
{
	struct epoll_event ev = { .events = events | EPOLLET, .data.u32 = what };

	return epoll_ctl(t->epoll_fd, EPOLL_CTL_ADD, fd, &ev) ? -errno : 0;
}

static int tap_watch(struct usrdrv_net_port *port, unsigned int index, int fd, uint32_t events)
{
	struct tap_port *t = of(port);

	/* One that was closed is not there any more, and its number may be another's. */
	if (t->watched[index] >= 0)
		epoll_ctl(t->epoll_fd, EPOLL_CTL_DEL, t->watched[index], NULL);
	t->watched[index] = fd;
	return fd < 0 ? 0 : add(t, fd, events, index);
}

static int tap_wait(struct usrdrv_net_port *port, uint32_t timeout_us, int more)
{
	struct timespec timeout = { .tv_sec = timeout_us / 1000000, .tv_nsec = timeout_us % 1000000 * 1000 };
	struct epoll_event ev[USRDRV_NET_WATCHES + 1];
	int n, woken = 0;

	port->stats->system_calls++;
	n = epoll_pwait2(of(port)->epoll_fd, ev, USRDRV_NET_WATCHES + 1, &timeout, NULL);
	for (int i = 0; i < n; i++) {
		if (ev[i].data.u32 != ON_TAP)
			woken |= USRDRV_NET_WOKEN << ev[i].data.u32;
		else
			woken |= USRDRV_NET_PACKETS | (ev[i].events & (EPOLLERR | EPOLLHUP) ? USRDRV_NET_GONE : 0);
	}
	return woken;
}

static void tap_close(struct usrdrv_net_port *port)
{
	close(of(port)->epoll_fd);
	free(port);
}

static const struct usrdrv_net_port_ops ops = {
	.pull = tap_pull, .push = tap_push, .watch = tap_watch, .wait = tap_wait, .close = tap_close,
};

/**
 * usrdrv_tap_port() - make a port of a TAP interface
 * @fd:		with IFF_VNET_HDR and headers of 12 bytes, non-blocking
 * @out:	result
 *
 * Return: 0 or -errno.
 */
int usrdrv_tap_port(int fd, struct usrdrv_net_port **out)
{
	struct tap_port *t = calloc(1, sizeof(*t));
	int ret;

	if (!t)
		return -ENOMEM;
	t->port.ops = &ops;
	t->fd = fd;
	for (unsigned int i = 0; i < USRDRV_NET_WATCHES; i++)
		t->watched[i] = -1;
	t->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	ret = t->epoll_fd < 0 ? -errno : add(t, fd, EPOLLIN, ON_TAP);
	if (ret) {
		if (t->epoll_fd >= 0)
			close(t->epoll_fd);
		free(t);
		return ret;
	}
	*out = &t->port;
	return 0;
}
