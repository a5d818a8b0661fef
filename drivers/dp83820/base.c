// SPDX-License-Identifier: MIT
/* What every part of the data path uses: the clock, register writes, and events between it and the control plane. */
#include <errno.h>
#include <time.h>

#include "dp.h"

/* Tell the control plane; from any thread. */
void dp_post(struct dp *dp, int events)
{
	if (events & (DP_EVENT_GONE | DP_EVENT_PORT))
		dp->frozen = true;
	pthread_mutex_lock(&dp->event_lock);
	dp->events |= events;
	pthread_cond_broadcast(&dp->event_cond);
	pthread_mutex_unlock(&dp->event_lock);
}

/**
 * dp_wait_event - sleep until the control plane is needed
 * @dp:	device
 *
 * Return: a mask of DP_EVENT_*, or -ESHUTDOWN after dp_stop().
 */
int dp_wait_event(struct dp *dp)
{
	int events;

	pthread_mutex_lock(&dp->event_lock);
	while (!dp->events && !dp->shut_down)
		pthread_cond_wait(&dp->event_cond, &dp->event_lock);
	events = dp->shut_down ? -ESHUTDOWN : dp->events;
	dp->events = 0;
	pthread_mutex_unlock(&dp->event_lock);
	return events;
}

/* The dispatcher is under way: the chip receives, or there is an event that says why not. */
void dp_started(struct dp *dp)
{
	pthread_mutex_lock(&dp->event_lock);
	dp->started = true;
	pthread_cond_broadcast(&dp->event_cond);
	pthread_mutex_unlock(&dp->event_lock);
}

/* Whoever learns that we have started, or that there is a link, may send us a frame at once. */
void dp_await_start(struct dp *dp)
{
	pthread_mutex_lock(&dp->event_lock);
	while (!dp->started)
		pthread_cond_wait(&dp->event_cond, &dp->event_lock);
	pthread_mutex_unlock(&dp->event_lock);
}

/* The clock of the watchdog: milliseconds, monotonic, a few of them coarse. */
uint64_t dp_now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* A posted register write; a device that is gone ends the dispatcher. */
int dp_write(struct dp *dp, uint32_t reg, uint32_t value)
{
	int ret = usrdrv_write(dp->dev, DP_BAR, reg, 4, value);

	if (ret == -ENODEV)
		dp_post(dp, DP_EVENT_GONE);
	return ret;
}
