// SPDX-License-Identifier: MIT
/*
 * Direct requests to a disk, and what each took of the time-stamp counter; in a guest whose virtual time
 * counts instructions that is their number. requests DISK read|write BYTES DEPTH COUNT BATCHES
 *
 * Prints ticks and requests of each batch of COUNT requests or a few more. Depth 1 is pread() and pwrite(),
 * more is Linux's asynchronous I/O: a request is made for each that was done.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#define SPAN (64 << 20)			/* of the disk that is used */

static int fd, writes;
static size_t size;
static off_t place;

/* No neighbours: they would be merged. */
static off_t next(void)
{
	place = (place + 2 * size) % SPAN;
	return place;
}

static void check(int good, const char *what)
{
	if (good)
		return;
	perror(what);
	exit(1);
}

static uint64_t one_by_one(char *buffer, unsigned int count)
{
	uint64_t begin = __rdtsc();

	while (count--) {
		ssize_t n = writes ? pwrite(fd, buffer, size, next()) : pread(fd, buffer, size, next());

		check(n == (ssize_t)size, "request");
	}
	return __rdtsc() - begin;
}

/* Returns how many were done, at least @count. All others stay under way from batch to batch. */
static unsigned int many(aio_context_t context, struct iocb **ready, struct io_event *events, unsigned int depth,
			 unsigned int count, uint64_t *took)
{
	static unsigned int idle = -1;	/* at first all */
	uint64_t begin = __rdtsc();
	unsigned int done = 0;

	if (idle > depth)
		idle = depth;
	while (done < count) {
		long n;

		for (unsigned int i = 0; i < idle; i++)
			ready[i]->aio_offset = next();
		check(syscall(SYS_io_submit, context, idle, ready) == (long)idle, "io_submit");
		n = syscall(SYS_io_getevents, context, 1, depth, events, NULL);
		check(n > 0, "io_getevents");
		for (idle = 0; idle < n; idle++) {
			check(events[idle].res == (long)size, "request");
			ready[idle] = (struct iocb *)(uintptr_t)events[idle].obj;
		}
		done += n;
	}
	*took = __rdtsc() - begin;
	return done;
}

int main(int argc, char **argv)
{
	unsigned int depth, count, batches;
	struct io_event *events;
	aio_context_t context = 0;
	struct iocb *cb, **ready;
	uint64_t *took;
	unsigned int *done;
	char *buffer;

	if (argc != 7)
		return 2;
	writes = !strcmp(argv[2], "write");
	size = atoi(argv[3]);
	depth = atoi(argv[4]);
	count = atoi(argv[5]);
	batches = atoi(argv[6]);
	fd = open(argv[1], O_RDWR | O_DIRECT);
	check(fd >= 0, argv[1]);
	buffer = aligned_alloc(4096, size * depth);
	took = calloc(batches, sizeof(*took));
	done = calloc(batches, sizeof(*done));
	cb = calloc(depth, sizeof(*cb));
	ready = calloc(depth, sizeof(*ready));
	events = calloc(depth, sizeof(*events));
	check(buffer && took && done && cb && ready && events, "memory");
	memset(buffer, 0, size * depth);
	memset(took, 1, batches * sizeof(*took));	/* so that no page is missing later */
	if (depth > 1)
		check(!syscall(SYS_io_setup, depth, &context), "io_setup");
	for (unsigned int i = 0; i < depth; i++) {
		ready[i] = &cb[i];
		cb[i].aio_lio_opcode = writes ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
		cb[i].aio_fildes = fd;
		cb[i].aio_buf = (uintptr_t)(buffer + size * i);
		cb[i].aio_nbytes = size;
	}
	memset(done, 1, batches * sizeof(*done));
	for (unsigned int i = 0; i < batches; i++) {
		if (depth == 1)
			took[i] = one_by_one(buffer, done[i] = count);
		else
			done[i] = many(context, ready, events, depth, count, &took[i]);
	}
	for (unsigned int i = 0; i < batches; i++)
		printf("%llu %u\n", (unsigned long long)took[i], done[i]);
	return 0;
}
