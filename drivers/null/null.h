/* SPDX-License-Identifier: MIT */
/*
 * A disk in memory with a driver like any other: the smallest one to read, and what the front end's own cost is measured
 * with. Its chip has several queues, each with many commands in flight that end in any order, and nothing to join.
 */
#ifndef NULL_H
#define NULL_H

#include "usrdrv/block_chip.h"

/* cffi: begin */
#define NULL_SEGMENTS		64	/* a queue, for requests of threads */
#define NULL_MAX_SECTORS	512	/* of a command */

struct null;

struct null_conf {
	uint64_t sectors;
	uint32_t queues;	/* 1 to BLOCK_MAX_CHANNELS */
	uint32_t depth;		/* commands at once on a queue, 1 to 1024 */
	uint32_t delay_us;	/* a command takes from so long to twice that; 0: it is done at once */
	uint8_t read_only;
};

int null_create(const struct null_conf *conf, struct null **out);
struct block_front *null_front(struct null *null);
void null_fail(struct null *null, uint64_t sector);
void null_destroy(struct null *null);
/* cffi: end */

/* device.c: memory and an interrupt, and no registers */
struct usrdrv_dev *null_device(void);

/* timer.c: raises the interrupt when the first command is due */
struct null_timer;

struct null_timer *null_timer_start(int irq_fd);
void null_timer_set(struct null_timer *t, uint64_t due_ns);
void null_timer_stop(struct null_timer *t);
uint64_t null_now_ns(void);

#endif
