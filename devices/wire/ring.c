// SPDX-License-Identifier: MIT
#include "ring.h"

#define MASK	(RING_SIZE - 1)
#define SKIP	UINT32_MAX	/* length of a record that fills the ring up to its end */

static uint32_t rounded(size_t len)
{
	return (uint32_t)((sizeof(struct ring_record) + len + 7) & ~(size_t)7);
}

static struct ring_record *record(struct ring_end *e, uint32_t at)
{
	return (struct ring_record *)(e->ring->data + (at & MASK));
}

/* Where the next record goes if there is room for the longest one. */
static bool place(struct ring_end *e, uint32_t *at)
{
	uint32_t used = e->at - atomic_load_explicit(&e->ring->tail, memory_order_acquire);
	uint32_t to_end = RING_SIZE - (e->at & MASK);
	uint32_t skip = to_end < rounded(RING_RECORD_MAX) ? to_end : 0;

	if (used > RING_SIZE) {
		e->broken = true;
		return false;
	}
	*at = e->at + skip;
	return RING_SIZE - used >= skip + rounded(RING_RECORD_MAX);
}

/**
 * ring_reserve() - room for a record of RING_RECORD_MAX bytes
 * @e: the writer's end
 *
 * Return: where to write, or NULL: full.
 */
void *ring_reserve(struct ring_end *e)
{
	if (!place(e, &e->next))
		return NULL;
	return record(e, e->next) + 1;
}

/**
 * ring_commit() - hand the reserved record over
 * @e: the writer's end
 * @len: bytes of it that count
 * @flags: for the reader
 *
 * Return: true if the reader sleeps and is to be woken.
 */
bool ring_commit(struct ring_end *e, size_t len, uint32_t flags)
{
	if (e->next != e->at)
		record(e, e->at)->len = SKIP;
	*record(e, e->next) = (struct ring_record){ .len = (uint32_t)len, .flags = flags };
	e->at = e->next + rounded(len);
	/* The reader says that it sleeps before it looks at head for the last time. */
	atomic_store(&e->ring->head, e->at);
	return atomic_load(&e->ring->reader_sleeps) && atomic_exchange(&e->ring->reader_sleeps, 0);
}

/**
 * ring_peek() - the oldest record
 * @e: the reader's end
 * @len: its bytes
 * @flags: as the writer gave them
 *
 * Return: its contents, which a hostile writer may still change; NULL: there is none.
 */
const void *ring_peek(struct ring_end *e, size_t *len, uint32_t *flags)
{
	uint32_t have = atomic_load_explicit(&e->ring->head, memory_order_acquire) - e->at;
	uint32_t at = e->at;
	struct ring_record r;

	if (!have || e->broken)
		return NULL;
	r = *(volatile struct ring_record *)record(e, at);
	if (have <= RING_SIZE && r.len == SKIP) {
		uint32_t skip = RING_SIZE - (at & MASK);

		at += skip;
		have -= skip;
		r = *(volatile struct ring_record *)record(e, at);
	}
	if (have > RING_SIZE || r.len > RING_RECORD_MAX || rounded(r.len) > have ||
	    rounded(r.len) > RING_SIZE - (at & MASK)) {
		e->broken = true;
		return NULL;
	}
	e->next = at + rounded(r.len);
	*len = r.len;
	*flags = r.flags;
	return record(e, at) + 1;
}

/**
 * ring_next() - give the peeked record's room back
 * @e: the reader's end
 *
 * Return: true if the writer waits for room and there is plenty again.
 */
bool ring_next(struct ring_end *e)
{
	struct ring *r = e->ring;

	e->at = e->next;
	atomic_store(&r->tail, e->at);
	return atomic_load(&r->writer_waits) && atomic_load(&r->head) - e->at < RING_SIZE / 2 &&
		atomic_exchange(&r->writer_waits, 0);
}

/* Before the reader sleeps: whether there is a record after all. */
bool ring_has(struct ring_end *e)
{
	atomic_store(&e->ring->reader_sleeps, 1);
	if (atomic_load(&e->ring->head) == e->at)
		return false;
	atomic_store(&e->ring->reader_sleeps, 0);
	return true;
}

/* Before the writer sleeps: whether there is room after all. */
bool ring_has_room(struct ring_end *e)
{
	uint32_t at;

	atomic_store(&e->ring->writer_waits, 1);
	if (!place(e, &at))
		return false;
	atomic_store(&e->ring->writer_waits, 0);
	return true;
}
