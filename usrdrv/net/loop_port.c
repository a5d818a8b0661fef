// SPDX-License-Identifier: MIT
/*
 * The port to usrloop: packets are copied to and from the slots that the kernel shares with us, which
 * takes no system call; or, with zero copy, the slots say where they are. One call tells the kernel of all that
 * happened since the last, and is what the driver sleeps in.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "ports.h"
#include "usrdrv/loop.h"

#define NAP_US	1000	/* ENTER counts milliseconds: shorter sleeps are poll()'s */
#define ENOUGH	32u	/* packets to the wire that are done, to tell the kernel of */
#define WOKEN	((1 << USRDRV_NET_WATCHES) - 1)

struct loop_port {
	struct usrdrv_net_port port;	/* first */
	struct loop_queue q;
	void *map;
	size_t map_size;
	uint32_t told_cq, told_rx;	/* what the kernel knows of */
	int woken;			/* what flush() came by and wait() has not reported */
	struct pollfd look;		/* a descriptor that is no eventfd; fd -1: there is none */
	unsigned int look_index;
};

static struct loop_port *of(struct usrdrv_net_port *port)
{
	return (struct loop_port *)port;
}

/* more: packets that are there do not count. */
static int enter(struct loop_port *l, unsigned int flags, unsigned int ms, int more)
{
	struct loop_queue *q = &l->q;
	uint32_t seen = q->sq_head;
	int ready;

	if (more)
		q->sq_head = __atomic_load_n(&q->ring->sq_tail, __ATOMIC_ACQUIRE);
	ready = loop_enter(q, flags, ms);
	q->sq_head = seen;
	l->port.stats->system_calls++;
	l->told_cq = q->cq_tail;
	l->told_rx = q->rx_tail;
	if (ready == -EINTR)
		return 0;
	if (ready < 0 || ready & USRLOOP_READY_STOP)
		return USRDRV_NET_GONE;
	return (ready / USRLOOP_READY_EVENT & WOKEN) * USRDRV_NET_WOKEN |
	       (ready & USRLOOP_READY_WORK ? USRDRV_NET_PACKETS : 0);
}

static void tell(struct loop_port *l)
{
	if (l->told_cq != l->q.cq_tail || l->told_rx != l->q.rx_tail)
		l->woken |= enter(l, USRLOOP_ENTER_NOWAIT, 0, 0) & ~USRDRV_NET_PACKETS;
}

/* The kernel wants its packets at once. Slots that are free again can wait for our next sleep, up to a point. */
static int flush(struct usrdrv_net_port *port)
{
	struct loop_port *l = of(port);

	if (l->told_rx != l->q.rx_tail || l->q.cq_tail - l->told_cq >= ENOUGH)
		tell(l);
	return l->q.sq_head == __atomic_load_n(&l->q.ring->sq_tail, __ATOMIC_ACQUIRE) ? 0 : USRDRV_NET_PACKETS;
}

static void scatter(const struct iovec *iov, int n, const uint8_t *from, size_t len)
{
	for (int i = 0; i < n && len; i++) {
		size_t part = iov[i].iov_len < len ? iov[i].iov_len : len;

		memcpy(iov[i].iov_base, from, part);
		from += part;
		len -= part;
	}
}

static size_t total(const struct iovec *iov, int n)
{
	size_t len = 0;

	for (int i = 0; i < n; i++)
		len += iov[i].iov_len;
	return len;
}

static int pull(struct usrdrv_net_port *port, const struct iovec *iov, int n)
{
	struct loop_port *l = of(port);
	const struct usrloop_sqe *sqe;

	while ((sqe = loop_next(&l->q))) {
		uint32_t len = sqe->len;
		int fits = sqe->op == USRLOOP_OP_TX && len <= total(iov, n);

		if (fits) {
			scatter(iov, n, loop_slot(&l->q, sqe->tag), len);
			port->stats->copied += len;
		}
		loop_complete(&l->q, sqe->tag, sqe->seq, fits ? 0 : -EMSGSIZE);
		if (fits)
			return (int)len;
	}
	return 0;
}

static int push(struct usrdrv_net_port *port, const struct iovec *iov, int n)
{
	struct loop_port *l = of(port);
	size_t len = total(iov, n);
	uint8_t *slot = loop_receive_slot(&l->q);

	if (len > l->q.slot_size)
		return -EMSGSIZE;
	if (!slot) {
		tell(l);
		slot = loop_receive_slot(&l->q);
	}
	if (!slot)
		return -ENOBUFS;
	for (int i = 0; i < n; i++) {
		memcpy(slot, iov[i].iov_base, iov[i].iov_len);
		slot += iov[i].iov_len;
	}
	loop_received(&l->q, (uint32_t)len);
	port->stats->copied += len;
	return 0;
}

static const struct usrloop_segment *table(const struct loop_queue *q, uint32_t slot)
{
	return (const struct usrloop_segment *)(loop_slot(q, slot) + USRLOOP_NET_TABLE);
}

static int take(struct usrdrv_net_port *port, struct usrdrv_net_packet *p)
{
	struct loop_queue *q = &of(port)->q;
	const struct usrloop_sqe *sqe = loop_next(q);
	const uint8_t *slot;

	if (!sqe)
		return 0;
	slot = loop_slot(q, sqe->tag);
	memcpy(&p->header, slot, sizeof(p->header));
	p->head = slot + sizeof(p->header);
	p->len = p->at = sqe->len - (uint32_t)sizeof(p->header);
	p->piece = table(q, sqe->tag);
	p->pieces = sqe->segments;
	for (unsigned int i = 0; i < p->pieces; i++)
		p->at -= p->piece[i].len;
	p->head_len = p->at;
	p->token = q->sq_head - 1;
	return 1;
}

static void sent(struct usrdrv_net_port *port, uint32_t token)
{
	struct loop_queue *q = &of(port)->q;
	/* The kernel leaves it alone until its slot is free. */
	const struct usrloop_sqe *sqe = &q->sq[token & q->mask];

	loop_complete(q, sqe->tag, sqe->seq, 0);
}

static uint32_t buffers(struct usrdrv_net_port *port, uint32_t *first)
{
	struct loop_queue *q = &of(port)->q;

	*first = q->rx_tail;
	return __atomic_load_n(&q->ring->rx_head, __ATOMIC_ACQUIRE) + q->mask + 1;
}

static uint32_t buffer(struct usrdrv_net_port *port, uint32_t i, uint32_t *len)
{
	const struct loop_queue *q = &of(port)->q;
	const struct usrloop_segment *s = table(q, q->mask + 1 + (i & q->mask));

	*len = s->len;
	return (uint32_t)s->addr;	/* of a function that was claimed for 32 bits */
}

static void received(struct usrdrv_net_port *port, const struct usrdrv_net_header *header, const uint32_t *len,
		     unsigned int n)
{
	struct loop_queue *q = &of(port)->q;
	struct usrdrv_net_header *to = (void *)loop_slot(q, q->mask + 1 + (q->rx_tail & q->mask));

	*to = header ? *header : (struct usrdrv_net_header){ 0 };
	to->num_buffers = (uint16_t)n;
	loop_received(q, header ? (uint32_t)sizeof(*header) + len[0] : 0);
	for (unsigned int i = 1; i < n; i++)
		loop_received(q, len[i]);
}

static int watch(struct usrdrv_net_port *port, unsigned int index, int fd, uint32_t events)
{
	struct loop_port *l = of(port);
	struct usrloop_eventfd event = {
		.argsz = sizeof(event), .queue = l->q.index, .index = index, .fd = fd, .ack_fd = -1,
	};

	if (l->look.fd >= 0 && l->look_index == index)
		l->look.fd = -1;
	if (!ioctl(l->q.fd, USRLOOP_IOC_EVENTFD, &event))
		return 0;
	if (errno != EINVAL || l->look.fd >= 0)
		return -errno;
	/* No eventfd: looked at whenever nothing happens. */
	l->look = (struct pollfd){ .fd = fd, .events = (short)events };
	l->look_index = index;
	return 0;
}

/* Sleep for less than ENTER can. The kernel was told of everything. */
static int nap(struct loop_port *l, uint32_t us, int more)
{
	struct timespec timeout = { .tv_nsec = us * 1000 };
	struct pollfd fds[2] = { l->look, { .fd = more ? -1 : l->q.fd, .events = POLLIN } };

	l->port.stats->system_calls++;
	if (ppoll(fds, 2, &timeout, NULL) <= 0)
		return 0;
	return (fds[0].revents ? USRDRV_NET_WOKEN << l->look_index : 0) |
	       (fds[1].revents & POLLIN ? USRDRV_NET_PACKETS : 0) |
	       (fds[1].revents & ~POLLIN ? USRDRV_NET_GONE : 0);
}

static int look(struct loop_port *l)
{
	if (l->look.fd < 0)
		return 0;
	l->port.stats->system_calls++;
	return poll(&l->look, 1, 0) > 0 ? USRDRV_NET_WOKEN << l->look_index : 0;
}

static int wait_for(struct usrdrv_net_port *port, uint32_t timeout_us, int more)
{
	struct loop_port *l = of(port);
	int woken;

	if (timeout_us < NAP_US || l->woken)
		tell(l);
	woken = l->woken;
	l->woken = 0;
	if (woken)
		return woken;
	if (timeout_us < NAP_US)
		return nap(l, timeout_us, more);
	woken = enter(l, 0, timeout_us / 1000, more);
	return woken ? woken : look(l);
}

static void close_port(struct usrdrv_net_port *port)
{
	struct loop_port *l = of(port);

	for (unsigned int i = 0; i < USRDRV_NET_WATCHES; i++)
		watch(port, i, -1, 0);
	munmap(l->map, l->map_size);
	free(l);
}

static const struct usrdrv_net_port_ops ops = {
	.pull = pull, .push = push, .flush = flush, .watch = watch, .wait = wait_for, .close = close_port,
};

static const struct usrdrv_net_port_ops zero_copy_ops = {
	.take = take, .sent = sent, .buffers = buffers, .buffer = buffer, .received = received, .flush = flush,
	.watch = watch, .wait = wait_for, .close = close_port,
};

/**
 * usrdrv_loop_port() - make a port of an interface of usrloop
 * @fd:		of /dev/usrloop, attached to an interface of one queue
 * @attach:	what ATTACH returned
 * @out:	result
 *
 * Return: 0 or -errno.
 */
int usrdrv_loop_port(int fd, const struct usrloop_attach *attach, struct usrdrv_net_port **out)
{
	struct loop_port *l = calloc(1, sizeof(*l));
	int ret;

	if (!l)
		return -ENOMEM;
	l->port.ops = attach->claim_fd < 0 ? &ops : &zero_copy_ops;
	l->port.buffers = attach->claim_fd < 0 ? 0 : attach->depth;
	l->look.fd = -1;
	l->map_size = attach->size;
	ret = loop_map(fd, attach, &l->map);
	if (ret) {
		free(l);
		return ret;
	}
	loop_queue_init(&l->q, fd, attach, l->map, 0);
	*out = &l->port;
	return 0;
}
