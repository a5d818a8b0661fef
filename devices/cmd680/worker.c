// SPDX-License-Identifier: MIT
/*
 * What a drive finishes later: flushes (fdatasync) and slow media. One thread
 * per channel, started with its first job; a channel has one command in
 * flight, so one job is enough. The drive shows BSY meanwhile.
 */
#include <errno.h>
#include <time.h>

#include "cmd680_priv.h"

uint64_t cmd680_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void *worker(void *arg)
{
	struct channel *ch = arg;
	struct model *m = ch->m;

	pthread_mutex_lock(&m->lock);
	while (!m->stop) {
		struct job job = ch->job;
		uint64_t generation = ch->generation;
		int error = 0;

		if (!job.armed) {
			pthread_cond_wait(&ch->wake, &m->lock);
			continue;
		}
		if (cmd680_now() < job.when) {
			struct timespec ts = {
				.tv_sec = (time_t)(job.when / 1000000000u),
				.tv_nsec = (long)(job.when % 1000000000u),
			};

			pthread_cond_timedwait(&ch->wake, &m->lock, &ts);
			continue;
		}
		ch->job.armed = false;
		if (job.sync) {
			pthread_mutex_unlock(&m->lock);
			error = cmd680_store_sync(&job.drive->store);
			pthread_mutex_lock(&m->lock);
			if (m->stop || generation != ch->generation)
				continue;	/* reset or unplugged while we were away */
		}
		ch->job.drive = NULL;
		job.fn(job.drive, error);
		cmd680_irq_update(ch);
	}
	pthread_mutex_unlock(&m->lock);
	return NULL;
}

/**
 * cmd680_worker_defer() - finish the running command from the channel's thread
 * @d: the drive; its status must show BSY
 * @delay_ns: not before this time has passed
 * @sync: make the medium durable first
 * @fn: called with the model locked, unless cmd680_worker_cancel() comes first
 */
void cmd680_worker_defer(struct drive *d, uint64_t delay_ns, bool sync, void (*fn)(struct drive *d, int error))
{
	struct channel *ch = d->ch;

	ch->generation++;
	ch->job = (struct job){
		.armed = true, .sync = sync, .when = cmd680_now() + delay_ns, .drive = d, .fn = fn,
	};
	if (!ch->threaded && pthread_create(&ch->thread, NULL, worker, ch)) {
		/* No thread to be had: late is better than never. */
		ch->job = (struct job){ .armed = false };
		fn(d, sync ? cmd680_store_sync(&d->store) : 0);
		return;
	}
	ch->threaded = true;
	pthread_cond_signal(&ch->wake);
}

/* Finish the command that waits for its time now. The model is locked, and the job armed. */
void cmd680_worker_hurry(struct channel *ch)
{
	struct job job = ch->job;

	cmd680_worker_cancel(ch);
	job.fn(job.drive, 0);
	cmd680_irq_update(ch);
}

/* Forget the job: its command was aborted. */
void cmd680_worker_cancel(struct channel *ch)
{
	ch->generation++;
	ch->job = (struct job){ .armed = false };
}

/* Model unlocked, stop set. */
void cmd680_worker_join(struct channel *ch)
{
	if (ch->threaded)
		pthread_join(ch->thread, NULL);
	pthread_cond_destroy(&ch->wake);
}
