// SPDX-License-Identifier: MIT
/*
 * What register accesses cost where a driver makes them: reads and writes one
 * 32-bit register of a mapped BAR and says, in microseconds, the median read
 * and the mean of posted writes, the read that ends them included.
 *
 * access FILE OFFSET COUNT read|write
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double reads(volatile uint32_t *reg, int count)
{
	double *took = calloc((size_t)count, sizeof(*took));
	double median;

	if (!took)
		exit(1);
	for (int i = 0; i < count; i++) {
		double begin = now_us();

		(void)*reg;
		took[i] = now_us() - begin;
	}
	qsort(took, (size_t)count, sizeof(*took), compare);
	median = took[count / 2];
	free(took);
	return median;
}

static double writes(volatile uint32_t *reg, int count)
{
	double begin = now_us();

	for (int i = 1; i <= count; i++)
		*reg = (uint32_t)i;
	if (*reg != (uint32_t)count)
		exit(2);
	return (now_us() - begin) / count;
}

int main(int argc, char **argv)
{
	int fd = argc == 5 ? open(argv[1], O_RDWR | O_SYNC) : -1;
	uint8_t *bar = fd < 0 ? MAP_FAILED : mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	volatile uint32_t *reg;
	int count;

	if (bar == MAP_FAILED) {
		perror(argv[0]);
		return 1;
	}
	reg = (volatile uint32_t *)(bar + strtoul(argv[2], NULL, 0));
	count = atoi(argv[3]);
	printf("%.2f\n", strcmp(argv[4], "read") ? writes(reg, count) : reads(reg, count));
	return 0;
}
