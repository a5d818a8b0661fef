/* SPDX-License-Identifier: MIT */
/*
 * What usrloop_hostile.c makes up: numbers, bytes, and arguments of calls that are right, nearly right or wrong.
 * An xorshift generator (Marsaglia, 2003), so that a seed repeats a run.
 */
#ifndef USRLOOP_RANDOM_H
#define USRLOOP_RANDOM_H

#include <stddef.h>
#include <stdint.h>

#include "usrloop.h"

/* Registers of BAR 5 (docs/hardware/cmd680.md, sections 3 and 4). */
#define BUS_MASTER	0x00
#define LATCH		0x02
#define SCRATCH		0x4c	/* does nothing */
#define DRIVE		0x86
#define COMMAND		0x87
#define INTERRUPT	0x04	/* in the latch */
#define FLUSH_CACHE	0xe7	/* moves nothing, and interrupts when it is done */

static uint64_t next(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static void fill(void *to, size_t size, uint64_t *seed)
{
	uint8_t *p = to;

	while (size--)
		*p++ = next(seed) >> 24;
}

static void random_info(struct usrloop_info *info, uint64_t *seed)
{
	*info = (struct usrloop_info){
		.argsz = sizeof(*info), .type = 1 + next(seed) % 2, .id = next(seed) % 4 ? USRLOOP_ANY : next(seed) % 4,
		.features = next(seed) % 8 ? 0 : next(seed) % 64, .flags = next(seed) % 2, .policy = next(seed) % 4,
		.recovery_ms = next(seed) % 300, .timeout_ms = next(seed) % 500, .queues = 1 + next(seed) % 3,
		.depth = 1u << next(seed) % 6,
	};
	if (info->type == USRLOOP_NET)
		info->net = (struct usrloop_net_params){ .mtu = 1500, .max_mtu = 9000 };
	else
		info->blk = (struct usrloop_blk_params){ .size = 512 << next(seed) % 16, .logical_block = 512,
							 .physical_block = 512, .max_io = 4096 };
	if (!(next(seed) % 3))
		((uint8_t *)info)[next(seed) % sizeof(*info)] = next(seed);
}

/* An interrupt of the drive's, and the end of it. */
static void good_steps(struct usrloop_finish *finish)
{
	*finish = (struct usrloop_finish){
		.argsz = sizeof(*finish), .steps = 3,
		.step = {
			{ .op = USRLOOP_STEP_EXPECT, .bar = 5, .width = 4, .offset = BUS_MASTER,
			  .mask = INTERRUPT << 16, .value = INTERRUPT << 16 },
			{ .op = USRLOOP_STEP_EXPECT, .bar = 5, .width = 1, .offset = COMMAND,
			  .mask = 0xc9, .value = 0x40 },	/* the status, whose reading ends the interrupt */
			{ .op = USRLOOP_STEP_WRITE, .bar = 5, .width = 1, .offset = LATCH, .value = INTERRUPT },
		},
	};
}

/* What is none of these writes to the chip's scratch register only: the rest of the machine is not to be harmed. */
static void random_steps(struct usrloop_finish *finish, uint64_t *seed)
{
	if (next(seed) % 8) {
		good_steps(finish);
		return;
	}
	*finish = (struct usrloop_finish){ .argsz = sizeof(*finish), .queue = next(seed) % 3, .steps = next(seed) % 4 };
	for (unsigned int i = 0; i < finish->steps; i++) {
		struct usrloop_step *step = &finish->step[i];

		*step = (struct usrloop_step){ .op = USRLOOP_STEP_EXPECT, .bar = 5, .width = 1 << next(seed) % 3 };
		step->offset = next(seed) % 16 ? next(seed) % 64 * 4 : next(seed);
		if (!(next(seed) % 3))
			step->value = step->mask = next(seed) % 2;
		if (!(next(seed) % 3))
			*step = (struct usrloop_step){ .op = USRLOOP_STEP_WRITE, .bar = 5, .width = 4, .offset = SCRATCH,
						       .mask = next(seed), .shift = next(seed) % 33 };
	}
}

#endif
