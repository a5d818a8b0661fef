/* SPDX-License-Identifier: MIT */
/* A queue of records in memory, from one writer to one reader, who may be two processes. */
#ifndef USRDRV_DEVICES_RING_H
#define USRDRV_DEVICES_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RING_SIZE	(1u << 18)	/* bytes */
#define RING_RECORD_MAX	16448u		/* bytes of a record: a frame and what goes with it */

/* Positions run freely; each field that one side writes has its own cache line. */
struct ring {
	_Alignas(64) _Atomic uint32_t head;	/* the writer's */
	_Alignas(64) _Atomic uint32_t tail;	/* the reader's */
	_Alignas(64) _Atomic uint32_t reader_sleeps;
	_Alignas(64) _Atomic uint32_t writer_waits;
	_Alignas(64) uint8_t data[RING_SIZE];
};

struct ring_record {
	uint32_t len;		/* bytes that follow */
	uint32_t flags;
};

/* One side's own view; the positions in the ring are only believed where the other side wrote them. */
struct ring_end {
	struct ring *ring;
	uint32_t at;		/* head or tail as this side has it */
	uint32_t next;		/* writer: where the reserved record is; reader: behind the peeked one */
	bool broken;		/* the other side wrote nonsense */
};

void *ring_reserve(struct ring_end *e);
bool ring_commit(struct ring_end *e, size_t len, uint32_t flags);
const void *ring_peek(struct ring_end *e, size_t *len, uint32_t *flags);
bool ring_next(struct ring_end *e);
bool ring_has(struct ring_end *e);
bool ring_has_room(struct ring_end *e);

#endif
