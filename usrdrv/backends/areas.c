// SPDX-License-Identifier: MIT
#include "areas.h"

#include <errno.h>
#include <string.h>

#define BUS_BASE	0x10000000u
#define PAGE		4096u

static uint64_t round_up(uint64_t x, uint64_t to)
{
	return (x + to - 1) & ~(to - 1);
}

/**
 * areas_place - find room on the bus: the first gap that fits
 * @s:		areas there are
 * @len:	bytes
 * @align:	power of two; at least a page is taken
 * @limit:	highest address that the last byte may have
 * @a:		bus and len (whole pages) are set
 *
 * Return: index for areas_insert(); -EINVAL, -ENOSPC.
 */
int areas_place(const struct areas *s, size_t len, size_t align, uint64_t limit, struct area *a)
{
	uint64_t bus = s->base ? s->base : BUS_BASE;
	unsigned int i;

	if (!len || len > UINT32_MAX || align > UINT32_MAX || align & (align - 1))
		return -EINVAL;
	if (align < PAGE)
		align = PAGE;
	if (limit > UINT32_MAX)
		limit = UINT32_MAX;
	len = round_up(len, PAGE);
	for (i = 0; i < s->n; i++) {
		bus = round_up(bus, align);
		if (bus + len <= s->area[i].bus)
			break;
		bus = s->area[i].bus + s->area[i].len;
	}
	bus = round_up(bus, align);
	if (s->n == MAX_AREAS || bus + len - 1 > limit)
		return -ENOSPC;
	a->bus = bus;
	a->len = len;
	return (int)i;
}

void areas_insert(struct areas *s, int at, const struct area *a)
{
	memmove(&s->area[at + 1], &s->area[at], (s->n - (unsigned int)at) * sizeof(*a));
	s->area[at] = *a;
	s->n++;
}

/* The area that a bus address is in, or NULL. */
struct area *areas_find(struct areas *s, uint64_t bus)
{
	unsigned int lo = 0, hi = s->n;

	while (lo < hi) {
		unsigned int mid = (lo + hi) / 2;

		if (s->area[mid].bus + s->area[mid].len <= bus)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < s->n && s->area[lo].bus <= bus ? &s->area[lo] : NULL;
}

void areas_remove(struct areas *s, struct area *a)
{
	s->n--;
	memmove(a, a + 1, (size_t)(&s->area[s->n] - a) * sizeof(*a));
}
