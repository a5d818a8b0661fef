// SPDX-License-Identifier: MIT
/*
 * usrloop without a back end: each request is done at once, data are left alone. A thread for each queue, on that
 * queue's processor if there are as many queues.
 * usrloop_null BYTES QUEUES DEPTH; prints the disk's name, serves until it is killed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "usrdrv/loop.h"

#define QUEUES 64

static void check(int result, const char *what)
{
	if (result >= 0)
		return;
	fprintf(stderr, "usrloop_null: %s: ", what);
	perror(NULL);
	exit(1);
}

static void *serve(void *arg)
{
	struct loop_queue *q = arg;
	const struct usrloop_sqe *sqe;
	cpu_set_t cpus;
	int ready;

	CPU_ZERO(&cpus);
	CPU_SET(q->index, &cpus);
	sched_setaffinity(0, sizeof(cpus), &cpus);
	do {
		while ((sqe = loop_next(q)))
			loop_complete(q, sqe->tag, sqe->seq, 0);
		ready = loop_enter(q, 0, 0);
	} while (ready == -EINTR || (ready >= 0 && !(ready & USRLOOP_READY_STOP)));
	return NULL;
}

int main(int argc, char **argv)
{
	static struct loop_queue queue[QUEUES];
	struct usrloop_target self = { .argsz = sizeof(self), .id = USRLOOP_ANY };
	struct usrloop_attach attach = {
		.argsz = sizeof(attach), .id = USRLOOP_ANY, .version = USRLOOP_VERSION,
	};
	struct usrloop_info info = {
		.argsz = sizeof(info),
		.type = USRLOOP_BLOCK,
		.id = USRLOOP_ANY,
		.blk = { .logical_block = 512, .physical_block = 512, .max_io = 256 << 10 },
	};
	pthread_t thread;
	void *map;
	int fd;

	if (argc != 4)
		return 2;
	info.blk.size = strtoull(argv[1], NULL, 0);
	info.queues = atoi(argv[2]);
	info.depth = atoi(argv[3]);
	fd = open("/dev/usrloop", O_RDWR | O_CLOEXEC);
	check(fd, "/dev/usrloop");
	check(ioctl(fd, USRLOOP_IOC_CREATE, &info), "create");
	check(ioctl(fd, USRLOOP_IOC_ATTACH, &attach), "attach");
	errno = -loop_map(fd, &attach, &map);
	check(-errno, "map");
	for (unsigned int i = 0; i < attach.queues && i < QUEUES; i++)
		loop_queue_init(&queue[i], fd, &attach, map, i);
	check(ioctl(fd, USRLOOP_IOC_START, &self), "start");
	for (unsigned int i = 1; i < attach.queues && i < QUEUES; i++) {
		errno = pthread_create(&thread, NULL, serve, &queue[i]);
		check(-errno, "thread");
	}
	printf("/dev/usrblk%u\n", info.id);
	fflush(stdout);
	serve(&queue[0]);
	return 1;
}
