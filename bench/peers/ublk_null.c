// SPDX-License-Identifier: MIT
/*
 * ublk without a back end, as usrloop_null.c: io_uring by its system calls, a ring and a thread for each queue.
 * ublk_null BYTES QUEUES DEPTH; prints the disk's name, serves until it is killed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/ublk_cmd.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_IO (256 << 10)
#define CONTROL(cmd) _IOWR('u', cmd, struct ublksrv_ctrl_cmd)
#define IO(cmd) _IOWR('u', cmd, struct ublksrv_io_cmd)

struct ring {
	int fd;
	uint32_t to_submit;
	uint32_t tail;			/* of the submissions: ours alone */
	uint32_t sq_mask, cq_mask;
	uint32_t *sq_tail, *cq_head, *cq_tail;
	size_t sqe_size;
	uint8_t *sqes;
	struct io_uring_cqe *cqes;
};

struct queue {
	struct ring ring;
	int fd;				/* /dev/ublkcN */
	uint16_t id, depth;
	const struct ublksrv_io_desc *desc;
	uint8_t *data;
	pthread_barrier_t *up;
};

static void check(int result, const char *what)
{
	if (result >= 0)
		return;
	fprintf(stderr, "ublk_null: %s: ", what);
	perror(NULL);
	exit(1);
}

static void *map(int fd, size_t size, off_t offset, int protection)
{
	void *p = mmap(NULL, size, protection, MAP_SHARED | MAP_POPULATE, fd, offset);

	check(p == MAP_FAILED ? -1 : 0, "mmap");
	return p;
}

static void ring_init(struct ring *r, unsigned int entries, unsigned int flags)
{
	struct io_uring_params p = { .flags = flags };
	uint32_t *array;
	uint8_t *rings;

	r->fd = syscall(SYS_io_uring_setup, entries, &p);
	check(r->fd, "io_uring_setup");
	r->sqe_size = flags & IORING_SETUP_SQE128 ? 128 : 64;
	/* Both rings in one mapping (IORING_FEAT_SINGLE_MMAP, Linux 5.4). */
	rings = map(r->fd, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), IORING_OFF_SQ_RING,
		    PROT_READ | PROT_WRITE);
	r->sqes = map(r->fd, p.sq_entries * r->sqe_size, IORING_OFF_SQES, PROT_READ | PROT_WRITE);
	r->sq_tail = (uint32_t *)(rings + p.sq_off.tail);
	r->cq_head = (uint32_t *)(rings + p.cq_off.head);
	r->cq_tail = (uint32_t *)(rings + p.cq_off.tail);
	r->cqes = (struct io_uring_cqe *)(rings + p.cq_off.cqes);
	r->sq_mask = p.sq_entries - 1;
	r->cq_mask = p.cq_entries - 1;
	array = (uint32_t *)(rings + p.sq_off.array);
	for (uint32_t i = 0; i < p.sq_entries; i++)
		array[i] = i;
}

/* There is always room: no more commands than entries are ever under way. */
static struct io_uring_sqe *ring_next(struct ring *r)
{
	struct io_uring_sqe *sqe = (void *)(r->sqes + (r->tail++ & r->sq_mask) * r->sqe_size);

	memset(sqe, 0, 64);
	r->to_submit++;
	return sqe;
}

static int ring_enter(struct ring *r)
{
	uint32_t count = r->to_submit;

	__atomic_store_n(r->sq_tail, r->tail, __ATOMIC_RELEASE);
	r->to_submit = 0;
	return syscall(SYS_io_uring_enter, r->fd, count, 1, IORING_ENTER_GETEVENTS, NULL, 0);
}

static void control(struct ring *r, int fd, unsigned int cmd, const struct ublksrv_ctrl_cmd *arg, const char *what)
{
	struct io_uring_sqe *sqe = ring_next(r);
	uint32_t head = *r->cq_head;

	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = fd;
	sqe->cmd_op = CONTROL(cmd);
	memcpy(sqe->cmd, arg, sizeof(*arg));
	check(ring_enter(r), what);
	errno = -r->cqes[head & r->cq_mask].res;
	check(errno > 0 ? -1 : 0, what);
	__atomic_store_n(r->cq_head, head + 1, __ATOMIC_RELEASE);
}

static void fetch(struct queue *q, unsigned int cmd, uint16_t tag, int result)
{
	struct io_uring_sqe *sqe = ring_next(&q->ring);
	struct ublksrv_io_cmd *io = (void *)sqe->cmd;

	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = 0;			/* registered */
	sqe->flags = IOSQE_FIXED_FILE;
	sqe->cmd_op = IO(cmd);
	sqe->user_data = tag;
	io->q_id = q->id;
	io->tag = tag;
	io->result = result;
	io->addr = (uintptr_t)(q->data + (size_t)tag * MAX_IO);
}

static void *serve(void *arg)
{
	struct queue *q = arg;
	struct ring *r = &q->ring;
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(q->id, &cpus);
	sched_setaffinity(0, sizeof(cpus), &cpus);
	ring_init(r, q->depth, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
	check(syscall(SYS_io_uring_register, r->fd, IORING_REGISTER_FILES, &q->fd, 1), "register");
	for (uint16_t tag = 0; tag < q->depth; tag++)
		fetch(q, UBLK_IO_FETCH_REQ, tag, 0);
	__atomic_store_n(r->sq_tail, r->tail, __ATOMIC_RELEASE);
	check(syscall(SYS_io_uring_enter, r->fd, r->to_submit, 0, 0, NULL, 0), "fetch");
	r->to_submit = 0;
	pthread_barrier_wait(q->up);
	for (;;) {
		uint32_t head = *r->cq_head, tail;

		if (ring_enter(r) < 0 && errno != EINTR)
			return NULL;
		tail = __atomic_load_n(r->cq_tail, __ATOMIC_ACQUIRE);
		for (; head != tail; head++) {
			const struct io_uring_cqe *cqe = &r->cqes[head & r->cq_mask];

			if (cqe->res == UBLK_IO_RES_ABORT)
				return NULL;
			fetch(q, UBLK_IO_COMMIT_AND_FETCH_REQ, cqe->user_data,
			      q->desc[cqe->user_data].nr_sectors << 9);
		}
		__atomic_store_n(r->cq_head, head, __ATOMIC_RELEASE);
	}
}

int main(int argc, char **argv)
{
	struct ublksrv_ctrl_dev_info info = {
		.dev_id = -1,
		.max_io_buf_bytes = MAX_IO,
		.ublksrv_pid = getpid(),
	};
	struct ublk_params params = {
		.len = sizeof(params),
		.types = UBLK_PARAM_TYPE_BASIC,
		.basic = {
			.logical_bs_shift = 9, .physical_bs_shift = 9, .io_min_shift = 9, .io_opt_shift = 9,
			.max_sectors = MAX_IO >> 9,
		},
	};
	struct ublksrv_ctrl_cmd cmd = { .dev_id = -1, .queue_id = -1 };
	pthread_barrier_t up;
	struct queue *queue;
	struct ring ring;
	char name[32];
	int fd, data;
	pthread_t thread;

	if (argc != 4)
		return 2;
	params.basic.dev_sectors = strtoull(argv[1], NULL, 0) >> 9;
	info.nr_hw_queues = atoi(argv[2]);
	info.queue_depth = atoi(argv[3]);
	fd = open("/dev/ublk-control", O_RDWR | O_CLOEXEC);
	check(fd, "/dev/ublk-control");
	ring_init(&ring, 4, IORING_SETUP_SQE128);
	cmd.addr = (uintptr_t)&info;
	cmd.len = sizeof(info);
	control(&ring, fd, UBLK_CMD_ADD_DEV, &cmd, "add");
	cmd.dev_id = info.dev_id;
	cmd.addr = (uintptr_t)&params;
	cmd.len = sizeof(params);
	control(&ring, fd, UBLK_CMD_SET_PARAMS, &cmd, "set parameters");

	snprintf(name, sizeof(name), "/dev/ublkc%u", info.dev_id);
	data = open(name, O_RDWR | O_CLOEXEC);
	check(data, name);
	pthread_barrier_init(&up, NULL, info.nr_hw_queues + 1);
	queue = calloc(info.nr_hw_queues, sizeof(*queue));
	for (unsigned int i = 0; queue && i < info.nr_hw_queues; i++) {
		struct queue *q = &queue[i];
		size_t descriptors = UBLK_MAX_QUEUE_DEPTH * sizeof(struct ublksrv_io_desc);

		*q = (struct queue){ .fd = data, .id = i, .depth = info.queue_depth, .up = &up };
		q->desc = map(data, q->depth * sizeof(struct ublksrv_io_desc), UBLKSRV_CMD_BUF_OFFSET + i * descriptors,
			      PROT_READ);
		q->data = mmap(NULL, (size_t)q->depth * MAX_IO, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
		check(q->data == MAP_FAILED ? -1 : 0, "memory");
		errno = pthread_create(&thread, NULL, serve, q);
		check(-errno, "thread");
	}
	pthread_barrier_wait(&up);
	cmd.addr = 0;
	cmd.len = 0;
	cmd.data[0] = getpid();
	control(&ring, fd, UBLK_CMD_START_DEV, &cmd, "start");
	printf("/dev/ublkb%u\n", info.dev_id);
	fflush(stdout);
	pthread_join(thread, NULL);
	return 1;
}
