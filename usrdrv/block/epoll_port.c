// SPDX-License-Identifier: MIT
/*
 * The port without orders: requests come from threads, and the dispatcher sleeps on epoll. The wait is edge-triggered, so
 * the eventfds need no read: one system call for each wake-up.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "front.h"

struct epoll_port {
	struct block_port port;		/* first */
	int fd;
};

static int add(struct epoll_port *p, int fd, uint32_t events, uint32_t what)
{
	struct epoll_event ev = { .events = events, .data.u32 = what };

	return fd < 0 || !epoll_ctl(p->fd, EPOLL_CTL_ADD, fd, &ev) ? 0 : -errno;
}

static int join(struct block_port *port, const struct block_wakers *wakers)
{
	struct epoll_port *p = (struct epoll_port *)port;
	int ret = add(p, wakers->irq_fd, EPOLLIN | EPOLLET, BLOCK_ON_IRQ);

	if (!ret)
		ret = add(p, wakers->kick_fd, EPOLLIN | EPOLLET, BLOCK_ON_KICK);
	if (!ret)
		ret = add(p, wakers->hangup_fd, wakers->hangup_events, BLOCK_ON_HANGUP);
	return ret;
}

/* They stay: what another port takes of an eventfd is no edge here. */
static void leave(struct block_port *port)
{
	(void)port;
}

static unsigned int wait(struct block_port *port, int timeout, enum block_sleep how)
{
	struct epoll_event ev[3];
	int n = epoll_wait(((struct epoll_port *)port)->fd, ev, 3, how == BLOCK_SLEEP_NOT ? 0 : timeout);
	unsigned int on = 0;

	for (int i = 0; i < n; i++)
		on |= ev[i].data.u32;
	return on;
}

static void close_port(struct block_port *port)
{
	close(((struct epoll_port *)port)->fd);
	free(port);
}

static const struct block_port_ops ops = {
	.join = join, .leave = leave, .wait = wait, .close = close_port,
};

/**
 * block_epoll_port - make a port without orders
 *
 * Return: the port, or NULL with errno set.
 */
struct block_port *block_epoll_port(void)
{
	struct epoll_port *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->port.ops = &ops;
	p->fd = epoll_create1(EPOLL_CLOEXEC);
	if (p->fd >= 0)
		return &p->port;
	free(p);
	return NULL;
}
