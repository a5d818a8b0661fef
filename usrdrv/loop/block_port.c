// SPDX-License-Identifier: MIT
/*
 * Orders of usrloop: they come out of the kernel's ring, in the dispatcher's own sleep. One system call waits for both the
 * interrupt and new orders, hands over what is complete and unmasks the interrupt (docs/design/one-sleep.md). With zero
 * copy the kernel ends the only request at the chip by itself, and the call returns with the next one.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "usrdrv/block_port.h"
#include "usrdrv/loop.h"

#define LOOK_MS		1000	/* how often to look whether a device that has no eventfd for it is gone */

enum { ON_IRQ, ON_KICK, ON_HANGUP, EVENTS };

#define SAME(field) (offsetof(struct block_piece, field) == offsetof(struct usrloop_segment, field))

_Static_assert(sizeof(struct block_piece) == sizeof(struct usrloop_segment) && SAME(addr) && SAME(len),
	       "a slot's table is read as it lies there");
_Static_assert(BLOCK_STEPS <= USRLOOP_STEPS, "the kernel takes as many");

struct usrloop_port {
	struct block_port port;		/* first */
	struct loop_queue q;
	void *map;
	size_t map_size;
	struct pollfd look;		/* the device's hang-up, if it is no eventfd; fd -1 else */
};

static struct usrloop_port *of(struct block_port *port)
{
	return (struct usrloop_port *)port;
}

static int set_event(struct usrloop_port *p, unsigned int index, int fd, int ack_fd)
{
	struct usrloop_eventfd event = {
		.argsz = sizeof(event), .queue = p->q.index, .index = index, .fd = fd, .ack_fd = ack_fd,
	};

	return ioctl(p->q.fd, USRLOOP_IOC_EVENTFD, &event) ? -errno : 0;
}

/* Only the dispatcher may do so: a signal that ENTER knows of does not end a wait in epoll any more. */
static int join(struct block_port *port, const struct block_wakers *wakers)
{
	struct usrloop_port *p = of(port);
	int ret = wakers->irq_fd < 0 ? 0 : set_event(p, ON_IRQ, wakers->irq_fd, wakers->unmask_fd);

	if (!ret)
		ret = set_event(p, ON_KICK, wakers->kick_fd, -1);
	if (!ret && wakers->hangup_fd >= 0 && set_event(p, ON_HANGUP, wakers->hangup_fd, -1))
		p->look = (struct pollfd){ .fd = wakers->hangup_fd, .events = (short)wakers->hangup_events };
	port->unmasks = !ret && wakers->unmask_fd >= 0;
	return ret;
}

static void leave(struct block_port *port)
{
	for (unsigned int i = 0; i < EVENTS; i++)
		set_event(of(port), i, -1, -1);
	port->unmasks = 0;
}

static unsigned int wait(struct block_port *port, int timeout, enum block_sleep how)
{
	static const unsigned int flags[] = {
		[BLOCK_SLEEP_UNMASK] = USRLOOP_ENTER_ACK, [BLOCK_SLEEP_NOT] = USRLOOP_ENTER_NOWAIT,
	};
	struct usrloop_port *p = of(port);
	unsigned int on = 0;
	int ready;

	if (p->look.fd >= 0 && (timeout < 0 || timeout > LOOK_MS))
		timeout = LOOK_MS;
	ready = loop_enter(&p->q, flags[how], timeout < 0 ? 0 : (unsigned int)timeout);
	port->calls = p->q.enters;
	if (ready == -EINTR)
		return 0;
	if (ready < 0)
		return BLOCK_ON_END;
	if (ready & USRLOOP_READY_STOP)
		on |= BLOCK_ON_END;
	if (ready & USRLOOP_READY_EVENT << ON_IRQ)
		on |= BLOCK_ON_IRQ;
	if (ready & USRLOOP_READY_EVENT << ON_KICK)
		on |= BLOCK_ON_KICK;
	/* The hang-up is looked at when nothing happened for a while. */
	if (ready & USRLOOP_READY_EVENT << ON_HANGUP ||
	    (p->look.fd >= 0 && !ready && how != BLOCK_SLEEP_NOT && poll(&p->look, 1, 0) > 0))
		on |= BLOCK_ON_HANGUP;
	if (ready & USRLOOP_READY_WORK)
		on |= BLOCK_ON_WORK;
	return on;
}

static enum usrdrv_block_op op_of(const struct usrloop_sqe *sqe)
{
	switch (sqe->op) {
	case USRLOOP_OP_READ:
		return USRDRV_BLOCK_READ;
	case USRLOOP_OP_WRITE:
		return USRDRV_BLOCK_WRITE;
	case USRLOOP_OP_DISCARD:
		return USRDRV_BLOCK_TRIM;
	default:	/* ZEROES was not offered */
		return USRDRV_BLOCK_FLUSH;
	}
}

static int next(struct block_port *port, struct block_order *order)
{
	const struct usrloop_sqe *sqe = loop_next(&of(port)->q);

	if (!sqe)
		return 0;
	order->tag = sqe->tag;
	order->seq = sqe->seq;
	order->op = op_of(sqe);
	order->flags = sqe->flags & USRLOOP_SQE_FUA ? USRDRV_BLOCK_FUA : 0;
	order->offset = sqe->sector * USRDRV_SECTOR;
	order->len = sqe->len;
	order->pieces = sqe->segments;
	return 1;
}

static void complete(struct block_port *port, uint32_t tag, uint32_t seq, int status)
{
	loop_complete(&of(port)->q, tag, seq, status);
}

static int finish(struct block_port *port, const struct block_step *steps, unsigned int n)
{
	struct usrloop_port *p = of(port);
	struct usrloop_finish finish = { .argsz = sizeof(finish), .queue = p->q.index, .steps = n };

	for (unsigned int i = 0; i < n; i++)
		finish.step[i] = (struct usrloop_step){
			.op = steps[i].op == BLOCK_STEP_EXPECT ? USRLOOP_STEP_EXPECT : USRLOOP_STEP_WRITE,
			.bar = steps[i].bar, .width = steps[i].width, .shift = steps[i].shift,
			.offset = steps[i].offset, .mask = steps[i].mask, .value = steps[i].value,
		};
	return ioctl(p->q.fd, USRLOOP_IOC_FINISH, &finish) ? -errno : 0;
}

static void arm(struct block_port *port, uint32_t tag, uint32_t seq)
{
	struct usrloop_ring *ring = of(port)->q.ring;

	ring->finish_tag = tag;
	ring->finish_seq = seq;
	__atomic_store_n(&ring->finish, USRLOOP_FINISH_ARMED, __ATOMIC_RELEASE);
}

static int disarm(struct block_port *port)
{
	uint32_t *word = &of(port)->q.ring->finish, is = USRLOOP_FINISH_ARMED;

	/* Its handler is on another processor, and takes no longer than a few registers do. */
	while (!__atomic_compare_exchange_n(word, &is, USRLOOP_FINISH_OFF, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE) &&
	       is == USRLOOP_FINISH_TAKING)
		is = USRLOOP_FINISH_ARMED;
	return is == USRLOOP_FINISH_DONE;
}

static void close_port(struct block_port *port)
{
	struct usrloop_port *p = of(port);

	if (p->map)
		munmap(p->map, p->map_size);
	free(p);
}

static const struct block_port_ops ops = {
	.join = join, .leave = leave, .wait = wait, .next = next, .complete = complete, .finish = finish, .arm = arm,
	.disarm = disarm, .close = close_port,
};

/**
 * loop_block_port - make the port of a queue of a block device
 * @fd:		of /dev/usrloop, attached to a block device; kept by the caller until the port is closed
 * @attach:	what ATTACH returned
 * @index:	0 to attach->queues - 1
 * @out:	result
 *
 * Return: 0 or -errno.
 */
int loop_block_port(int fd, const struct usrloop_attach *attach, unsigned int index, struct block_port **out)
{
	struct usrloop_port *p = calloc(1, sizeof(*p));
	int ret;

	if (!p)
		return -ENOMEM;
	p->port.ops = &ops;
	p->look.fd = -1;
	p->map_size = attach->size;
	ret = loop_map(fd, attach, &p->map);
	if (ret) {
		free(p);
		return ret;
	}
	loop_queue_init(&p->q, fd, attach, p->map, index);
	p->port.depth = attach->depth;
	p->port.slots = p->q.data;
	p->port.slot_size = p->q.slot_size;
	p->port.tables = attach->claim_fd >= 0;
	*out = &p->port;
	return 0;
}
