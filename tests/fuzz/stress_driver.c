// SPDX-License-Identifier: MIT
/*
 * The driver's data path over the in-process model, without Python, so that it
 * can run under ASan/UBSan or TSan: threads with an area of a drive each do
 * random reads, writes, trims and flushes and compare with a copy of their own.
 *
 * usage: stress_driver SECONDS SEED
 * Ends with 0 and a line of counts, or with 1 at the first difference.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ide.h"
#include "stress_rig.h"
#include "usrdrv/model.h"

#define THREADS		8
#define AREA_SECTORS	4096
#define MAX_SECTORS	300

static struct ide *ide;
static atomic_int stop, failed;
static atomic_ulong requests;

struct worker {
	pthread_t thread;
	unsigned int number;
	uint64_t random;
	uint8_t shadow[AREA_SECTORS * USRDRV_SECTOR];
	uint8_t known[AREA_SECTORS];	/* 0 after a trim: may read as anything */
	uint8_t buf[MAX_SECTORS * USRDRV_SECTOR];
};

static uint64_t next(struct worker *w)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return w->random;
}

static void complain(struct worker *w, const char *what, uint64_t sector, int ret)
{
	fprintf(stderr, "thread %u: %s at sector %llu: %d\n", w->number, what, (unsigned long long)sector, ret);
	atomic_store(&failed, 1);
	atomic_store(&stop, 1);
}

static void compare(struct worker *w, uint64_t start, uint64_t count, uint64_t base)
{
	for (uint64_t i = 0; i < count; i++)
		if (w->known[start + i] && memcmp(w->shadow + (start + i) * USRDRV_SECTOR,
						  w->buf + i * USRDRV_SECTOR, USRDRV_SECTOR))
			return complain(w, "wrong data", base + start + i, 0);
}

static void *work(void *arg)
{
	struct worker *w = arg;
	/* two threads a drive, next to each other, so that merging crosses their border */
	struct usrdrv_block *b = block_top_end(ide_front(ide), w->number % IDE_DRIVES);
	uint64_t base = (uint64_t)(w->number / IDE_DRIVES) * AREA_SECTORS;

	while (!atomic_load(&stop)) {
		uint64_t start = next(w) % AREA_SECTORS;
		uint64_t count = 1 + next(w) % (next(w) % 4 ? 16 : MAX_SECTORS);
		uint64_t offset = (base + start) * USRDRV_SECTOR;
		unsigned int dice = next(w) % 100;
		int ret;

		if (count > AREA_SECTORS - start)
			count = AREA_SECTORS - start;
		if (dice < 45) {
			ret = usrdrv_block_submit(b, USRDRV_BLOCK_READ, offset, count * USRDRV_SECTOR, w->buf, 0);
			if (!ret)
				compare(w, start, count, base);
		} else if (dice < 90) {
			for (uint64_t i = 0; i < count * USRDRV_SECTOR; i += 8)
				memcpy(w->buf + i, &(uint64_t){ next(w) }, 8);
			ret = usrdrv_block_submit(b, USRDRV_BLOCK_WRITE, offset, count * USRDRV_SECTOR, w->buf,
						  dice < 55 ? USRDRV_BLOCK_FUA : 0);
			memcpy(w->shadow + start * USRDRV_SECTOR, w->buf, count * USRDRV_SECTOR);
			memset(w->known + start, 1, count);
		} else if (dice < 95) {
			ret = usrdrv_block_submit(b, USRDRV_BLOCK_TRIM, offset, count * USRDRV_SECTOR, NULL, 0);
			memset(w->known + start, 0, count);
		} else {
			ret = usrdrv_block_submit(b, USRDRV_BLOCK_FLUSH, 0, 0, NULL, 0);
		}
		if (ret)
			complain(w, "request failed", base + start, ret);
		atomic_fetch_add(&requests, 1);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	static struct worker workers[THREADS];
	const struct ide_drive_conf conf = {
		.sectors = 2 * AREA_SECTORS, .physical_block = 512, .lba48 = 1, .fua = 1, .trim = 1,
		.flush = 1, .dma = 1,
	};
	struct usrdrv_dev *dev;
	int seconds = argc > 1 ? atoi(argv[1]) : 3;
	uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
	int ret;

	dev = stress_open(IDE_DRIVES, 2 * AREA_SECTORS);
	if (!dev)
		return 2;
	ret = ide_create(dev, 1, &ide);
	for (unsigned int d = 0; d < IDE_DRIVES && !ret; d++)
		ret = ide_configure(ide, d, &conf);
	if (!ret)
		ret = block_start(ide_front(ide));
	if (ret) {
		fprintf(stderr, "start: %s\n", strerror(-ret));
		return 2;
	}
	for (unsigned int i = 0; i < THREADS; i++) {
		workers[i].number = i;
		workers[i].random = seed * 0x9e3779b97f4a7c15ull + i + 1;
		pthread_create(&workers[i].thread, NULL, work, &workers[i]);
	}
	for (int t = 0; t < seconds * 10 && !atomic_load(&stop); t++)
		nanosleep(&(struct timespec){ .tv_nsec = 100000000 }, NULL);
	atomic_store(&stop, 1);
	for (unsigned int i = 0; i < THREADS; i++)
		pthread_join(workers[i].thread, NULL);
	block_stop(ide_front(ide));
	ide_destroy(ide);
	stress_close(dev);
	printf("%lu requests\n", atomic_load(&requests));
	return atomic_load(&failed);
}
