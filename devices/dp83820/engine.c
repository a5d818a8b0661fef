// SPDX-License-Identifier: MIT
/*
 * The chip's own thread: it receives, lets time-outs pass, and goes on transmitting when the wire
 * has room again. It sleeps in one epoll wait for the wire, a kick, and the next time-out.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "nic.h"

#define TAG_KICK	0u

static uint64_t earliest(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Do what is due; returns when the next thing is. */
static uint64_t timers(struct nic *n, uint64_t now)
{
	uint64_t next = NEVER;

	if (n->late && now >= n->late_at) {
		uint32_t bits = n->late;

		n->late = 0;
		nic_raise(n, bits);
	}
	if (n->late)
		next = n->late_at;
	if (n->holdoff_until) {
		if (now >= n->holdoff_until)
			n->holdoff_until = 0;
		nic_irq_update(n);
		if (n->holdoff_until && (n->isr & n->imr))
			next = earliest(next, n->holdoff_until);
	}
	nic_wire_due(n, now);
	nic_link_update(n, now);
	return earliest(next, nic_link_timer(n));
}

static void sleep_until(struct nic *n, uint64_t when)
{
	uint64_t now = when == NEVER ? 0 : nic_now();
	uint64_t left = when > now ? when - now : 0;
	struct timespec ts = { .tv_sec = (time_t)(left / 1000000000u), .tv_nsec = (long)(left % 1000000000u) };
	struct epoll_event ev[8];
	int events;

	n->asleep = true;
	pthread_mutex_unlock(&n->lock);
	events = epoll_pwait2(n->epoll_fd, ev, 8, when == NEVER ? NULL : &ts, NULL);
	pthread_mutex_lock(&n->lock);
	n->asleep = false;
	n->count.wakeups++;
	for (int i = 0; i < events; i++)
		if (ev[i].data.u32 != TAG_KICK && n->wire)
			n->wire->ops->event(n->wire, ev[i].data.u32);
}

static void *engine(void *arg)
{
	struct nic *n = arg;

	prctl(PR_SET_NAME, "dp83820");
	prctl(PR_SET_TIMERSLACK, 1000);
	pthread_mutex_lock(&n->lock);
	while (!n->stop) {
		uint64_t now = nic_now();
		uint64_t next = timers(n, now);
		bool more = nic_rx_work(n, now);

		more |= nic_tx_run(n);
		if (more) {
			/* Register accesses get their turn. */
			pthread_mutex_unlock(&n->lock);
			pthread_mutex_lock(&n->lock);
			continue;
		}
		if (n->wire && n->wire->ops->arm(n->wire, nic_rx_wants_frames(n), n->tx_want_room))
			continue;
		/* Both may have set one of these meanwhile. */
		if (n->late)
			next = earliest(next, n->late_at);
		if (n->holdoff_until && (n->isr & n->imr) && (n->ier & 1))
			next = earliest(next, n->holdoff_until);
		if (n->held_until > now)
			next = earliest(next, n->held_until);
		next = earliest(next, nic_wire_timer(n));
		sleep_until(n, earliest(next, nic_tx_timer(n)));
	}
	pthread_mutex_unlock(&n->lock);
	return NULL;
}

int nic_engine_start(struct nic *n)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLET, .data.u32 = TAG_KICK };
	int ret;

	n->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	n->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (n->epoll_fd < 0 || n->kick_fd < 0 || epoll_ctl(n->epoll_fd, EPOLL_CTL_ADD, n->kick_fd, &ev))
		return -errno;
	ret = -pthread_create(&n->engine, NULL, engine, n);
	n->started = !ret;
	return ret;
}

void nic_engine_stop(struct nic *n)
{
	if (!n->started)
		return;
	pthread_mutex_lock(&n->lock);
	n->stop = true;
	nic_kick(n);
	pthread_mutex_unlock(&n->lock);
	pthread_join(n->engine, NULL);
	n->started = false;
}
