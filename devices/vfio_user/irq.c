// SPDX-License-Identifier: MIT
/*
 * The INTx line of a served model: a level becomes one eventfd signal, which
 * masks the line until the client unmasks it.
 *
 * See docs/design/interrupt-level.md.
 */
#define _GNU_SOURCE
#include "server.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/uio.h>
#include <unistd.h>

#define RETRIGGER_NS	2000000

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* One that still has the last signal in it is not read by its client. */
static void signal_client(struct vu_irq *irq)
{
	struct pollfd p = { .fd = irq->trigger, .events = POLLIN };

	poll(&p, 1, 0);
	irq->recall = irq->signalled && irq->nonblock && !(p.revents & POLLIN);
	irq->signalled = 1;
	peer_signal_send(&irq->signal, irq->trigger);
}

/*
 * The reason for a signal is gone before the client took notice: take the
 * signal back. QEMU would raise the line of its guest for it, and lower it at
 * the guest's next access to the device, which an idle one never gets.
 */
static void recall(struct vu_irq *irq)
{
	uint64_t signals;
	struct iovec iov = { .iov_base = &signals, .iov_len = sizeof(signals) };

	if (irq->state != VU_LINE_SIGNALLED || !irq->recall)
		return;
	/* the client shares the flags of the file: without RWF_NOWAIT it could make us wait */
	if (preadv2(irq->trigger, &iov, 1, -1, RWF_NOWAIT) == sizeof(signals))
		irq->state = VU_LINE_OPEN;
}

/* Lock held. */
static void trigger(struct vu_irq *irq)
{
	if (!irq->level || irq->state != VU_LINE_OPEN || irq->trigger < 0)
		return;
	irq->state = VU_LINE_SIGNALLED;
	irq->dropped = 0;
	irq->retrigger = 0;
	signal_client(irq);
}

void vu_irq_init(struct vu_irq *irq)
{
	*irq = (struct vu_irq){ .trigger = -1 };
	peer_signal_init(&irq->signal);
	pthread_mutex_init(&irq->lock, NULL);
}

void vu_irq_destroy(struct vu_irq *irq)
{
	vu_irq_connect(irq, -1);
	peer_signal_destroy(&irq->signal);
	pthread_mutex_destroy(&irq->lock);
}

/**
 * vu_irq_level - the model changed the level
 * @irq:	line
 * @level:	0 or 1
 */
void vu_irq_level(struct vu_irq *irq, int level)
{
	pthread_mutex_lock(&irq->lock);
	irq->level = level;
	if (level) {
		trigger(irq);
	} else {
		irq->dropped = 1;
		recall(irq);
	}
	pthread_mutex_unlock(&irq->lock);
}

/**
 * vu_irq_connect - signal another eventfd from now on
 * @irq:	line
 * @eventfd:	owned by the line from now on; -1: none
 */
void vu_irq_connect(struct vu_irq *irq, int eventfd)
{
	pthread_mutex_lock(&irq->lock);
	if (irq->trigger >= 0)
		close(irq->trigger);
	irq->trigger = eventfd;
	irq->nonblock = eventfd >= 0 && fcntl(eventfd, F_GETFL) & O_NONBLOCK;
	irq->signalled = 0;
	irq->state = VU_LINE_OPEN;
	irq->dropped = 1;
	irq->retrigger = 0;
	trigger(irq);
	pthread_mutex_unlock(&irq->lock);
}

/**
 * vu_irq_act - do what the client asks
 * @irq:	line
 * @action:	VU_IRQ_MASK, VU_IRQ_UNMASK or VU_IRQ_TRIGGER (a test signal)
 *
 * A client that unmasks with the level still up has either not serviced the
 * device or, like QEMU when its guest has touched any BAR, not finished. If
 * the level was not low since the last trigger, it gets a while to.
 */
void vu_irq_act(struct vu_irq *irq, uint32_t action)
{
	pthread_mutex_lock(&irq->lock);
	if (action == VU_IRQ_TRIGGER) {
		if (irq->trigger >= 0)
			signal_client(irq);
	} else if (action == VU_IRQ_MASK) {
		irq->state = VU_LINE_MASKED;
		irq->retrigger = 0;
	} else {
		irq->state = VU_LINE_OPEN;
		if (irq->level && !irq->dropped)
			irq->retrigger = now_ns() + RETRIGGER_NS;
		else
			trigger(irq);
	}
	pthread_mutex_unlock(&irq->lock);
}

/**
 * vu_irq_touched - the client is at work on the device: wait on
 * @irq:	line
 */
void vu_irq_touched(struct vu_irq *irq)
{
	pthread_mutex_lock(&irq->lock);
	if (irq->retrigger)
		irq->retrigger = now_ns() + RETRIGGER_NS;
	pthread_mutex_unlock(&irq->lock);
}

/**
 * vu_irq_patience - how long to wait for the client
 * @irq:	line
 * @t:		room for the result
 *
 * Return: how long it may leave the device alone until vu_irq_idle(), NULL: for ever.
 */
const struct timespec *vu_irq_patience(struct vu_irq *irq, struct timespec *t)
{
	int64_t left;

	pthread_mutex_lock(&irq->lock);
	left = irq->retrigger;
	pthread_mutex_unlock(&irq->lock);
	if (!left)
		return NULL;
	left -= now_ns();
	t->tv_sec = 0;
	t->tv_nsec = left > 0 ? left : 0;
	return t;
}

/**
 * vu_irq_idle - the client has nothing to say: signal again if it had its time
 * @irq:	line
 */
void vu_irq_idle(struct vu_irq *irq)
{
	pthread_mutex_lock(&irq->lock);
	if (irq->retrigger && irq->retrigger <= now_ns()) {
		irq->retrigger = 0;
		trigger(irq);
	}
	pthread_mutex_unlock(&irq->lock);
}
