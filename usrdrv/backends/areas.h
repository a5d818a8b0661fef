/* SPDX-License-Identifier: MIT */
/* The bus addresses of a device's DMA memory: few areas, made at start-up. The caller has the lock. */
#ifndef USRDRV_AREAS_H
#define USRDRV_AREAS_H

#include <stddef.h>
#include <stdint.h>

#define MAX_AREAS	64

struct area {
	uint64_t bus;
	size_t len;
	uint8_t *cpu;
	int memfd;		/* of backends that share it */
	int foreign;		/* the memory is the caller's, dma_map() */
};

struct areas {
	uint64_t base;		/* lowest address that is given out; 0: the usual one */
	unsigned int n;
	struct area area[MAX_AREAS];	/* sorted by bus address */
};

int areas_place(const struct areas *s, size_t len, size_t align, uint64_t limit, struct area *a);
void areas_insert(struct areas *s, int at, const struct area *a);
struct area *areas_find(struct areas *s, uint64_t bus);
void areas_remove(struct areas *s, struct area *a);

#endif
