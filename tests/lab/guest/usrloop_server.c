// SPDX-License-Identifier: MIT
/*
 * A server of block devices for tests, and the calls of a supervisor, over usrdrv/loop.
 *
 *	usrloop_server serve [option=value ...]
 *		size, block, max_io, queues, depth, policy, recovery_ms, timeout_ms, poll_us, features, persist, label
 *		id=N		number to make it with; attach=N: serve that one instead of making one
 *		file=PATH	holds the data, else memory of ours does
 *		delay_us=N	before each completion; error_every=N: each Nth request fails with EIO
 *		die_after=N	requests that were taken: SIGKILL, before the Nth is completed
 *		die_at=N	sector: SIGKILL when a READ of it is taken
 *		hold_writes=1	no WRITE is completed
 *		stop_at_write=1	SIGSTOP when a WRITE is taken, before it is completed
 *		io_flusher=1	PR_SET_IO_FLUSHER: we are needed to get memory free
 *	usrloop_server delete|stop|detach|start|state blk|net N [force]
 *
 * serve says "usrblkN generation G" when it serves. Exit: 0 the device was stopped, 3 it was taken from us.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "usrdrv/loop.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

static struct {
	unsigned long size, block, max_io, queues, depth, policy, recovery_ms, timeout_ms, poll_us, features, persist;
	unsigned long id, attach, delay_us, error_every, die_after, die_at, hold_writes, stop_at_write, io_flusher;
	const char *file, *label;
} opt = {
	.size = 64 << 20, .block = 512, .max_io = 128 << 10, .queues = 1, .depth = 32, .policy = USRLOOP_DEATH_REISSUE,
	.recovery_ms = 3600000, .id = USRLOOP_ANY, .attach = USRLOOP_ANY, .label = "test", .die_at = -1UL,
	.features = USRLOOP_BLK_CACHE | USRLOOP_BLK_FUA | USRLOOP_BLK_DISCARD | USRLOOP_BLK_ZEROES,
};

static const struct {
	const char *name;
	unsigned long *value;
} numbers[] = {
	{ "size", &opt.size }, { "block", &opt.block }, { "max_io", &opt.max_io }, { "queues", &opt.queues },
	{ "depth", &opt.depth }, { "policy", &opt.policy }, { "recovery_ms", &opt.recovery_ms },
	{ "timeout_ms", &opt.timeout_ms }, { "poll_us", &opt.poll_us }, { "features", &opt.features },
	{ "persist", &opt.persist }, { "id", &opt.id }, { "attach", &opt.attach }, { "delay_us", &opt.delay_us },
	{ "error_every", &opt.error_every }, { "die_after", &opt.die_after }, { "die_at", &opt.die_at },
	{ "hold_writes", &opt.hold_writes }, { "stop_at_write", &opt.stop_at_write }, { "io_flusher", &opt.io_flusher },
};

static uint8_t *memory;
static int image = -1;
static atomic_ulong taken;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static int transfer(const struct usrloop_sqe *sqe, uint8_t *data)
{
	off_t at = (off_t)sqe->sector * 512;
	ssize_t done;

	switch (sqe->op) {
	case USRLOOP_OP_READ:
		if (image < 0) {
			memcpy(data, memory + at, sqe->len);
			return 0;
		}
		done = pread(image, data, sqe->len, at);
		return done == (ssize_t)sqe->len ? 0 : -EIO;
	case USRLOOP_OP_WRITE:
		if (image < 0) {
			memcpy(memory + at, data, sqe->len);
			return 0;
		}
		done = pwrite(image, data, sqe->len, at);
		return done == (ssize_t)sqe->len ? 0 : -EIO;
	case USRLOOP_OP_FLUSH:
		return 0;	/* no machine fails here, only processes */
	case USRLOOP_OP_DISCARD:
	case USRLOOP_OP_ZEROES:
		if (image < 0) {
			memset(memory + at, 0, sqe->len);
			return 0;
		}
		return fallocate(image, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, sqe->len) ? -errno : 0;
	}
	return -EOPNOTSUPP;
}

static void *serve_queue(void *argument)
{
	struct loop_queue *q = argument;
	const struct usrloop_sqe *sqe;
	int ret;

	for (;;) {
		ret = loop_enter(q, 0, 0);
		if (ret == -EINTR)
			continue;
		if (ret < 0 || ret & USRLOOP_READY_STOP)
			exit(ret == -ESTALE ? 3 : ret < 0 ? 1 : 0);
		while ((sqe = loop_next(q))) {
			unsigned long n = atomic_fetch_add(&taken, 1) + 1;
			int result;

			if (n == opt.die_after || (sqe->op == USRLOOP_OP_READ && opt.die_at >= sqe->sector &&
						   opt.die_at - sqe->sector < sqe->len / 512))
				kill(getpid(), SIGKILL);
			if (opt.hold_writes && sqe->op == USRLOOP_OP_WRITE)
				continue;
			/* Of this thread, which goes no further; a signal to the process may begin with another one. */
			if (opt.stop_at_write && sqe->op == USRLOOP_OP_WRITE)
				raise(SIGSTOP);
			if (opt.delay_us)
				usleep(opt.delay_us);
			result = opt.error_every && !(n % opt.error_every) ? -EIO :
				 transfer(sqe, loop_slot(q, sqe->tag));
			loop_complete(q, sqe->tag, sqe->seq, result);
			/* One at a time: so a death has some done and some not. */
			if (opt.delay_us) {
				ret = loop_enter(q, USRLOOP_ENTER_NOWAIT, 0);
				if (ret == -ESTALE)
					exit(3);
			}
		}
	}
}

static void announce(const struct usrloop_attach *attach)
{
	printf("usrblk%u generation %u\n", attach->id, attach->generation);
	fflush(stdout);
}

static _Noreturn void serve(void)
{
	struct usrloop_attach attach = {
		.argsz = sizeof(attach), .type = USRLOOP_BLOCK, .id = opt.attach, .version = USRLOOP_VERSION,
	};
	struct usrloop_target target = { .argsz = sizeof(target), .id = USRLOOP_ANY };
	int fd = open("/dev/usrloop", O_RDWR | O_CLOEXEC);
	struct loop_queue *queues;
	pthread_t thread;
	unsigned int i;
	void *map;

	if (fd < 0)
		die("/dev/usrloop");
	if (opt.io_flusher && prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0))
		die("PR_SET_IO_FLUSHER");
	if (opt.attach == USRLOOP_ANY) {
		struct usrloop_info info = {
			.argsz = sizeof(info), .type = USRLOOP_BLOCK, .id = opt.id, .features = opt.features,
			.flags = opt.persist ? USRLOOP_PERSIST : 0, .policy = opt.policy,
			.recovery_ms = opt.recovery_ms, .timeout_ms = opt.timeout_ms, .queues = opt.queues, .depth = opt.depth,
			.poll_us = opt.poll_us,
			.blk = {
				.size = opt.size, .logical_block = opt.block, .physical_block = opt.block,
				.max_io = opt.max_io,
			},
		};
		snprintf(info.label, sizeof(info.label), "%s", opt.label);
		if (ioctl(fd, USRLOOP_IOC_CREATE, &info))
			die("create");
	}
	if (opt.file) {
		image = open(opt.file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		if (image < 0 || (opt.attach == USRLOOP_ANY && ftruncate(image, opt.size)))
			die(opt.file);
	} else {
		memory = mmap(NULL, opt.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (memory == MAP_FAILED)
			die("memory");
	}
	if (ioctl(fd, USRLOOP_IOC_ATTACH, &attach))
		die("attach");
	if (loop_map(fd, &attach, &map))
		die("mmap");
	/* A disk that exists is served from here on, and a thread with die_after may end this before its next line. */
	if (opt.attach != USRLOOP_ANY)
		announce(&attach);
	queues = calloc(attach.queues, sizeof(*queues));
	for (i = 0; i < attach.queues; i++) {
		loop_queue_init(&queues[i], fd, &attach, map, i);
		if (pthread_create(&thread, NULL, serve_queue, &queues[i]))
			die("thread");
	}
	if (ioctl(fd, USRLOOP_IOC_START, &target) && errno != EALREADY)
		die("start");
	if (opt.attach == USRLOOP_ANY)
		announce(&attach);
	for (;;)
		pause();
}

static int call(int argc, char **argv)
{
	static const struct {
		const char *name;
		unsigned long request;
	} calls[] = {
		{ "delete", USRLOOP_IOC_DELETE }, { "stop", USRLOOP_IOC_STOP }, { "start", USRLOOP_IOC_START },
		{ "detach", USRLOOP_IOC_DETACH },
	};
	unsigned int type = !strcmp(argv[2], "net") ? USRLOOP_NET : USRLOOP_BLOCK, id = strtoul(argv[3], NULL, 0), i;
	struct usrloop_target target = { .argsz = sizeof(target), .type = type, .id = id, .arg = argc > 4 };
	int fd = open("/dev/usrloop", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		die("/dev/usrloop");
	if (!strcmp(argv[1], "state")) {
		struct usrloop_info info = { .argsz = sizeof(info), .type = type, .id = id };

		if (ioctl(fd, USRLOOP_IOC_QUERY, &info))
			die(argv[1]);
		printf("{\"state\": %u, \"generation\": %u, \"pid\": %u, \"refused\": %llu, \"queues\": %u}\n", info.state,
		       info.generation, info.server_pid, (unsigned long long)info.refused, info.queues);
		return 0;
	}
	for (i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		if (strcmp(argv[1], calls[i].name))
			continue;
		if (ioctl(fd, calls[i].request, &target))
			die(argv[1]);
		return 0;
	}
	return 2;
}

int main(int argc, char **argv)
{
	size_t i;
	int arg;

	if (argc > 3 && strcmp(argv[1], "serve"))
		return call(argc, argv);
	if (argc < 2 || strcmp(argv[1], "serve"))
		return 2;
	for (arg = 2; arg < argc; arg++) {
		char *value = strchr(argv[arg], '=');

		if (!value)
			return 2;
		*value++ = 0;
		if (!strcmp(argv[arg], "file")) {
			opt.file = value;
			continue;
		}
		if (!strcmp(argv[arg], "label")) {
			opt.label = value;
			continue;
		}
		for (i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
			if (!strcmp(argv[arg], numbers[i].name))
				break;
		if (i == sizeof(numbers) / sizeof(numbers[0])) {
			fprintf(stderr, "no option %s\n", argv[arg]);
			return 2;
		}
		*numbers[i].value = strtoul(value, NULL, 0);
	}
	serve();
}
