// SPDX-License-Identifier: MIT
/*
 * What mapping memory for DMA takes through the usrdrv system calls: map_cost ADDRESS BYTES LIVE COUNT BATCHES
 *
 * Claims the PCI function ADDRESS (0000:00:12.0). Each batch maps the same BYTES COUNT times, undoes the mappings in the
 * order in which they were made, and last replaces one COUNT times (USR_PCI_DMA_REMAP); LIVE others exist all the time.
 * Prints what each of the three took, in nanoseconds and in ticks of the time-stamp counter, and the number of segments.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "usr_pci.h"

#define OPEN	548
#define MAP	549
#define PAGE	4096

static int fd;
static struct usr_pci_segment *room;
static unsigned int segments;

static void check(int good, const char *what)
{
	if (good)
		return;
	perror(what);
	exit(1);
}

static uint32_t map(int op, const void *memory, size_t size, uint32_t old)
{
	struct usr_pci_dma_map arg = {
		.addr = (uintptr_t)memory, .len = size, .segment = (uintptr_t)room, .nr = size / PAGE + 1,
		.flags = USR_PCI_DMA_FROM_DEVICE, .id = old,
	};

	check(!syscall(MAP, fd, op, &arg, sizeof(arg)), "map");
	segments = arg.nr;
	return arg.id;
}

static void unmap(uint32_t id)
{
	struct usr_pci_dma_id arg = { .id = id };

	check(!syscall(MAP, fd, USR_PCI_DMA_UNMAP, &arg, sizeof(arg)), "unmap");
}

struct stamp {
	uint64_t ns, ticks;
};

static struct stamp now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (struct stamp){ t.tv_sec * 1000000000ull + t.tv_nsec, __rdtsc() };
}

static void claim(const char *address)
{
	unsigned int domain, bus, device, function;
	struct usr_pci_open_how how = { .flags = USR_PCI_CLOEXEC };

	check(sscanf(address, "%x:%x:%x.%x", &domain, &bus, &device, &function) == 4, address);
	how.domain = domain;
	how.bus = bus;
	how.device = device;
	how.function = function;
	fd = syscall(OPEN, &how, sizeof(how));
	check(fd >= 0, address);
}

static char *pages(size_t size)
{
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	check(memory != MAP_FAILED, "mmap");
	memset(memory, 1, size);
	return memory;
}

int main(int argc, char **argv)
{
	unsigned int live, count, batches;
	struct stamp begin[3], end[3];
	char *memory;
	uint32_t *id;
	size_t size;

	if (argc != 6)
		return 2;
	size = atol(argv[2]);
	live = atoi(argv[3]);
	count = atoi(argv[4]);
	batches = atoi(argv[5]);
	claim(argv[1]);
	room = (void *)pages((size / PAGE + 1) * sizeof(*room));
	id = (void *)pages(count * sizeof(*id));
	memory = pages(size);
	while (live--)
		map(USR_PCI_DMA_MAP, memory, PAGE, 0);
	while (batches--) {
		begin[0] = now();
		for (unsigned int i = 0; i < count; i++)
			id[i] = map(USR_PCI_DMA_MAP, memory, size, 0);
		end[0] = begin[1] = now();
		for (unsigned int i = 0; i < count; i++)
			unmap(id[i]);
		end[1] = now();
		id[0] = map(USR_PCI_DMA_MAP, memory, size, 0);
		begin[2] = now();
		for (unsigned int i = 0; i < count; i++)
			id[0] = map(USR_PCI_DMA_REMAP, memory, size, id[0]);
		end[2] = now();
		unmap(id[0]);
		for (int i = 0; i < 3; i++)
			printf("%llu %llu ", (unsigned long long)(end[i].ns - begin[i].ns),
			       (unsigned long long)(end[i].ticks - begin[i].ticks));
		printf("%u\n", segments);
	}
	return 0;
}
