// SPDX-License-Identifier: MIT
/*
 * The chip: a command is a copy to or from the disk's memory. Without a delay it is done in start(); with one it stays at
 * the chip for from that long to twice as long, so commands end in another order than they came.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "null.h"

#define NOWHERE	UINT64_MAX

struct null_queue {
	struct block_channel block;	/* first */
	struct null *null;
	uint64_t *due;			/* ns, of each command by its tag; 0: not at the chip */
	uint32_t random;
};

struct null {
	struct block_front front;
	struct null_conf conf;
	struct usrdrv_dev *dev;
	struct null_timer *timer;
	struct null_queue queue[BLOCK_MAX_CHANNELS];
	uint8_t *disk;
	size_t size;
	_Atomic uint64_t bad_sector;	/* reads and writes of it fail; NOWHERE: none */
};

static struct null_queue *of(struct block_channel *ch)
{
	return (struct null_queue *)ch;
}

static int is_bad(const struct null *null, const struct block_command *cmd)
{
	uint64_t bad = atomic_load(&null->bad_sector);

	return cmd->op <= USRDRV_BLOCK_WRITE && bad - cmd->sector < cmd->sectors;
}

/* The data move at the end of a command, as a disk's do at the latest. */
static void transfer(struct null *null, const struct block_command *cmd)
{
	for (const struct block_segment *s = cmd->segments; s; s = s->next) {
		uint8_t *at = null->disk + s->sector * USRDRV_SECTOR;
		size_t len = (size_t)s->sectors * USRDRV_SECTOR;

		if (s->op == USRDRV_BLOCK_READ)
			memcpy(s->page, at, len);
		else if (s->op == USRDRV_BLOCK_WRITE)
			memcpy(at, s->page, len);
		else if (s->op == USRDRV_BLOCK_TRIM)
			memset(at, 0, len);
	}
}

static void end(struct block_channel *ch, struct block_command *cmd)
{
	struct null *null = of(ch)->null;

	if (is_bad(null, cmd)) {
		block_error(ch, cmd, BLOCK_EVENT_ERROR);
		return;
	}
	transfer(null, cmd);
	block_end(ch, cmd, 0);
}

static void start(struct block_channel *ch, struct block_command *cmd, struct block_list *l, struct usrdrv_write *go)
{
	struct null_queue *q = of(ch);
	uint64_t delay = q->null->conf.delay_us * 1000ull;

	if (!delay) {
		end(ch, cmd);
		return;
	}
	q->random = q->random * 1664525u + 1013904223u;
	q->due[cmd->tag] = null_now_ns() + delay + delay * (q->random >> 16) / 65536;
	null_timer_set(q->null->timer, q->due[cmd->tag]);
}

/* End what is due, and have the next interrupt when the next one is. */
static int interrupt(struct block_channel *ch, struct block_list *l)
{
	struct null_queue *q = of(ch);
	uint64_t now = null_now_ns(), next = UINT64_MAX;
	int any = 0;

	for (unsigned int tag = 0; tag < ch->depth; tag++) {
		if (!ch->command[tag].flying)
			continue;
		if (q->due[tag] > now) {
			next = q->due[tag] < next ? q->due[tag] : next;
			continue;
		}
		any = 1;
		end(ch, &ch->command[tag]);
	}
	ch->count->interrupts += (uint64_t)any;
	if (next != UINT64_MAX)
		null_timer_set(q->null->timer, next);
	return any;
}

static void idle_interrupt(struct block_channel *ch, struct block_list *l)
{
}

static void watch(struct block_channel *ch, struct block_list *l, uint64_t now)
{
	interrupt(ch, l);
}

static void resumed(struct block_channel *ch)
{
}

static const struct block_chip_ops chip = {
	.start = start, .interrupt = interrupt, .idle_interrupt = idle_interrupt, .watch = watch, .resumed = resumed,
};

static int add_queue(struct null *null, unsigned int number)
{
	struct null_queue *q = &null->queue[number];

	q->null = null;
	q->random = number;
	q->due = calloc(null->conf.depth, sizeof(*q->due));
	if (!q->due)
		return -ENOMEM;
	return block_add_channel(&null->front, &q->block, null->conf.depth, NULL_SEGMENTS);
}

static int make(struct null *null)
{
	const struct block_abilities can = {
		.dma_limit = UINT64_MAX, .trim_bytes = 16 << 20,
		.max_pieces = NULL_MAX_SECTORS * USRDRV_SECTOR / BLOCK_SEGMENT_BYTES,
	};
	void *disk = mmap(NULL, null->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct block_unit *u;
	int ret;

	if (disk == MAP_FAILED)
		return -errno;
	null->disk = disk;
	null->dev = null_device();
	if (!null->dev)
		return -errno;
	null->timer = null_timer_start(null->dev->irq_fd);
	if (!null->timer)
		return -ENOMEM;
	ret = block_init(&null->front, null->dev, &chip, &can);
	for (unsigned int i = 0; i < null->conf.queues && !ret; i++)
		ret = add_queue(null, i);
	if (ret)
		return ret;
	u = block_add_unit(&null->front, 0, 0, null->conf.queues);
	u->max_sectors = NULL_MAX_SECTORS;
	u->block.sectors = null->conf.sectors;
	u->block.physical_block = 4096;
	u->block.read_only = null->conf.read_only;
	u->block.can_flush = u->block.can_fua = u->block.can_trim = 1;
	return 0;
}

/**
 * null_create - make a disk of zeroes
 * @conf:	copied
 * @out:	result; not started
 *
 * Return: 0; -EINVAL a number is out of its range; -errno.
 */
int null_create(const struct null_conf *conf, struct null **out)
{
	struct null *null;
	int ret;

	if (!conf->sectors || conf->sectors > SIZE_MAX / USRDRV_SECTOR / 2 || !conf->queues ||
	    conf->queues > BLOCK_MAX_CHANNELS || !conf->depth || conf->depth > 1024)
		return -EINVAL;
	null = calloc(1, sizeof(*null));
	if (!null)
		return -ENOMEM;
	null->conf = *conf;
	null->size = conf->sectors * USRDRV_SECTOR;
	null->bad_sector = NOWHERE;
	ret = make(null);
	if (ret)
		null_destroy(null);
	else
		*out = null;
	return ret;
}

/**
 * null_front - the front end
 * @null:	disk
 *
 * Return: owned by @null.
 */
struct block_front *null_front(struct null *null)
{
	return &null->front;
}

/**
 * null_fail - have reads and writes of a sector fail
 * @null:	disk
 * @sector:	or UINT64_MAX: none
 */
void null_fail(struct null *null, uint64_t sector)
{
	atomic_store(&null->bad_sector, sector);
}

/**
 * null_destroy - give everything back
 * @null:	disk, stopped
 */
void null_destroy(struct null *null)
{
	if (null->timer)
		null_timer_stop(null->timer);
	if (null->front.dev)
		block_free(&null->front);
	for (unsigned int i = 0; i < null->conf.queues; i++)
		free(null->queue[i].due);
	if (null->dev)
		null->dev->ops->close(null->dev);
	if (null->disk)
		munmap(null->disk, null->size);
	free(null);
}
