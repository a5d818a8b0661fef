// SPDX-License-Identifier: MIT
/* The chip's own clock: a thread that raises the interrupt when a command is due. */
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>

#include "null.h"

#define NEVER	UINT64_MAX
#define SECOND	1000000000ull

struct null_timer {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint64_t due;			/* ns */
	int irq_fd, stop;
};

/**
 * null_now_ns - the clock of commands
 *
 * Return: nanoseconds, monotonic.
 */
uint64_t null_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static void *run(void *arg)
{
	struct null_timer *t = arg;

	pthread_mutex_lock(&t->lock);
	while (!t->stop) {
		if (t->due == NEVER) {
			pthread_cond_wait(&t->changed, &t->lock);
		} else if (null_now_ns() >= t->due) {
			t->due = NEVER;
			eventfd_write(t->irq_fd, 1);
		} else {
			struct timespec until = {
				.tv_sec = (time_t)(t->due / SECOND), .tv_nsec = (long)(t->due % SECOND),
			};

			pthread_cond_timedwait(&t->changed, &t->lock, &until);
		}
	}
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

/**
 * null_timer_start - start a clock that is not set
 * @irq_fd:	eventfd, signalled when what it was set to has come; stays the caller's
 *
 * Return: the clock, or NULL.
 */
struct null_timer *null_timer_start(int irq_fd)
{
	struct null_timer *t = calloc(1, sizeof(*t));
	pthread_condattr_t monotonic;

	if (!t)
		return NULL;
	t->irq_fd = irq_fd;
	t->due = NEVER;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&t->changed, &monotonic);
	pthread_mutex_init(&t->lock, NULL);
	if (!pthread_create(&t->thread, NULL, run, t))
		return t;
	free(t);
	return NULL;
}

/**
 * null_timer_set - interrupt at this time, unless it is set to an earlier one
 * @t:		clock
 * @due_ns:	null_now_ns() then
 *
 * From any thread.
 */
void null_timer_set(struct null_timer *t, uint64_t due_ns)
{
	pthread_mutex_lock(&t->lock);
	if (due_ns < t->due) {
		t->due = due_ns;
		pthread_cond_signal(&t->changed);
	}
	pthread_mutex_unlock(&t->lock);
}

/**
 * null_timer_stop - end a clock
 * @t:	clock
 */
void null_timer_stop(struct null_timer *t)
{
	pthread_mutex_lock(&t->lock);
	t->stop = 1;
	pthread_cond_signal(&t->changed);
	pthread_mutex_unlock(&t->lock);
	pthread_join(t->thread, NULL);
	free(t);
}
