// SPDX-License-Identifier: MIT
/*
 * The front end over the null chip, without Python, so that it can run under ASan/UBSan or TSan: threads read and write
 * areas of their own, spread over several queues with many commands in flight, which end in any order; a thread of the
 * control plane decides about commands that fail.
 *
 * usage: stress_null SECONDS SEED DELAY_US
 * Ends with 0 and a line of counts (requests; failed ones, each of which met the bad sector), or with 1 at the first
 * difference.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "null.h"

#define THREADS		6u
#define AREA		4096u		/* sectors */
#define MOST		1024u		/* sectors of a request: several commands */

struct worker {
	pthread_t thread;
	unsigned int number;
	uint64_t random;
	uint8_t shadow[AREA * USRDRV_SECTOR], buf[MOST * USRDRV_SECTOR];
};

static struct null *null;
static atomic_int stop, failed;
static atomic_ulong requests, errors;

static uint64_t next(struct worker *w)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return w->random;
}

static void complain(const struct worker *w, const char *what, uint64_t sector, int ret)
{
	fprintf(stderr, "thread %u: %s at sector %llu (%d)\n", w->number, what, (unsigned long long)sector, ret);
	atomic_store(&failed, 1);
	atomic_store(&stop, 1);
}

/* The bad sector is the last of the first thread's area. */
static int meets_bad(const struct worker *w, uint64_t start, uint64_t count)
{
	return !w->number && start + count == AREA;
}

static void *work(void *arg)
{
	struct worker *w = arg;
	struct usrdrv_block *b = block_top_end(null_front(null), 0);
	uint64_t base = (uint64_t)w->number * AREA;

	while (!atomic_load(&stop)) {
		uint64_t start = next(w) % AREA, count = 1 + next(w) % (next(w) % 4 ? 16 : MOST);
		uint64_t offset, len;
		unsigned int dice = next(w) % 100;
		int ret;

		count = count < AREA - start ? count : AREA - start;
		offset = (base + start) * USRDRV_SECTOR;
		len = count * USRDRV_SECTOR;
		if (dice < 45) {
			ret = usrdrv_block_submit(b, USRDRV_BLOCK_READ, offset, len, w->buf, 0);
			if (!ret && memcmp(w->buf, w->shadow + start * USRDRV_SECTOR, len))
				complain(w, "wrong data", base + start, 0);
		} else if (dice < 90 && !meets_bad(w, start, count)) {
			for (uint64_t i = 0; i < len; i += 8)
				memcpy(w->buf + i, &(uint64_t){ next(w) }, 8);
			ret = usrdrv_block_submit(b, USRDRV_BLOCK_WRITE, offset, len, w->buf, 0);
			memcpy(w->shadow + start * USRDRV_SECTOR, w->buf, len);
		} else if (dice < 95) {
			ret = usrdrv_block_submit(b, USRDRV_BLOCK_TRIM, offset, len, NULL, 0);
			memset(w->shadow + start * USRDRV_SECTOR, 0, len);
		} else {
			ret = usrdrv_block_submit(b, USRDRV_BLOCK_FLUSH, 0, 0, NULL, 0);
		}
		if (ret == -EIO && meets_bad(w, start, count))
			atomic_fetch_add(&errors, 1);
		else if (ret)
			complain(w, "request failed", base + start, ret);
		atomic_fetch_add(&requests, 1);
	}
	return NULL;
}

/* Try what was joined alone; what fails alone fails. */
static void *decide(void *arg)
{
	struct block_event event;
	unsigned int channel;

	while (!block_wait_event(null_front(null), &channel, &event))
		if (event.kind < BLOCK_EVENT_GONE)
			block_resume(null_front(null), channel, event.segments > 1 ? BLOCK_SPLIT : BLOCK_FAIL, -EIO);
	return NULL;
}

int main(int argc, char **argv)
{
	static struct worker workers[THREADS];
	struct null_conf conf = { .sectors = THREADS * AREA, .queues = 3, .depth = 8 };
	pthread_t policy;
	int ret;

	if (argc != 4)
		return 2;
	conf.delay_us = (uint32_t)atoi(argv[3]);
	ret = null_create(&conf, &null);
	if (!ret)
		ret = block_start(null_front(null));
	if (ret) {
		fprintf(stderr, "start: %s\n", strerror(-ret));
		return 2;
	}
	null_fail(null, AREA - 1);
	pthread_create(&policy, NULL, decide, NULL);
	for (unsigned int i = 0; i < THREADS; i++) {
		workers[i].number = i;
		workers[i].random = strtoull(argv[2], NULL, 0) * 0x9e3779b97f4a7c15ull + i + 1;
		pthread_create(&workers[i].thread, NULL, work, &workers[i]);
	}
	for (int t = 0; t < atoi(argv[1]) * 10 && !atomic_load(&stop); t++)
		nanosleep(&(struct timespec){ .tv_nsec = 100000000 }, NULL);
	atomic_store(&stop, 1);
	for (unsigned int i = 0; i < THREADS; i++)
		pthread_join(workers[i].thread, NULL);
	block_stop(null_front(null));
	pthread_join(policy, NULL);
	null_destroy(null);
	printf("%lu requests, %lu failed\n", atomic_load(&requests), atomic_load(&errors));
	return atomic_load(&failed);
}
