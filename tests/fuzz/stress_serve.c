// SPDX-License-Identifier: MIT
/*
 * A drive of the in-process model served to usrloop, without Python and without the kernel's module, so that it can run
 * under ASan/UBSan or TSan. The module is played by played_ioctl() (-Dioctl=played_ioctl), in the dispatcher's own ENTER:
 * it takes completions, compares what was read with a copy of its own, and submits anew. Rings lie in a memory file.
 *
 * Each tag has an area of the disk, so that no two requests under way touch the same sectors. Some requests are wrong in
 * ways that must be refused. Channels are paused meanwhile.
 *
 * usage: stress_serve SECONDS SEED stop|revoke|first slots|bounce|signal|tables|steps|early DRIVES
 *	stop: at the end all requests are done, and one more comes with it, which must be left alone; revoke: the disk is
 *	taken away from under those that are at the chip; first: the first one is, and then the others go on for a while
 *	slots: the device reaches them; bounce: it does not; signal: each interrupt is the dispatcher's; tables: slots tell
 *	where the data are (zero copy); steps: likewise, and the interrupt's handler may end a request; early: likewise, as
 *	soon as the driver has serviced the interrupt before, and the request's tag is another one's at once
 * DRIVES: how many are served at once; several do not go with steps or early
 * Ends with 0 and a line of counts (requests; those that the interrupt's handler ended; for each further drive likewise),
 * or with 1 at the first difference.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "ide.h"
#include "stress_rig.h"
#include "usrdrv/loop.h"

#define DRIVES		4u
#define DEPTH		16u
#define SLOT		(256u << 10)
#define AREA		1024u		/* sectors */
#define SECTORS		(DEPTH * AREA)
#define SQ		sizeof(struct usrloop_ring)
#define CQ		(SQ + DEPTH * sizeof(struct usrloop_sqe))
#define DATA		65536u

int played_ioctl(int fd, unsigned long request, ...);

/* One for each disk; its threads see theirs as `kernel`. */
struct side {
	int fd;				/* of the rings */
	struct usrloop_ring *ring;
	struct usrloop_sqe *sq;
	struct usrloop_cqe *cq;
	uint8_t *data;			/* SLOT bytes for each tag */
	struct usrloop_segment *table;	/* tables: IDE_PRDS for each tag */
	uint64_t bus;			/* tables: of the data */
	struct usrdrv_dma pages;	/* likewise */
	uint32_t sq_tail, cq_head;
	struct usrloop_eventfd event[USRLOOP_EVENTFDS];
	unsigned int reported;		/* eventfds that ENTER told of, to be acknowledged */
	struct usrdrv_dev *dev;
	const struct usrdrv_dev_ops *model;	/* dev's own operations */
	struct usrloop_finish finish;	/* tables: how dev tells that it is done */
	struct usrloop_sqe sent[DEPTH];	/* by tag */
	int busy[DEPTH], want[DEPTH];	/* want: the result */
	uint32_t seq, flying;
	uint64_t random;
	atomic_ulong done;
	unsigned long finished;
	int calm;
	atomic_int stop, ended;
	uint8_t shadow[SECTORS * USRDRV_SECTOR], known[SECTORS];
};

static struct side side[DRIVES];
static _Thread_local struct side *kernel = side;
static unsigned int drives;
static atomic_int failed;
static int revoking;

static uint64_t next(void)
{
	kernel->random ^= kernel->random << 13;
	kernel->random ^= kernel->random >> 7;
	kernel->random ^= kernel->random << 17;
	return kernel->random;
}

static void stop_all(void)
{
	for (unsigned int d = 0; d < drives; d++)
		atomic_store(&side[d].stop, 1);
}

static void complain(const char *what, uint32_t tag, int result)
{
	const struct usrloop_sqe *sqe = &kernel->sent[tag % DEPTH];

	fprintf(stderr, "tag %u, op %u, sector %llu, %u bytes: %s (%d)\n", tag, sqe->op,
		(unsigned long long)sqe->sector, sqe->len, what, result);
	atomic_store(&failed, 1);
	stop_all();
}

static void compare(uint32_t tag)
{
	const struct usrloop_sqe *sqe = &kernel->sent[tag];
	const uint8_t *got = kernel->data + (size_t)tag * SLOT;

	for (uint32_t i = 0; i < sqe->len / USRDRV_SECTOR; i++) {
		uint64_t sector = sqe->sector + i;

		if (kernel->known[sector] && memcmp(got + i * USRDRV_SECTOR, kernel->shadow + sector * USRDRV_SECTOR, USRDRV_SECTOR))
			return complain("wrong data", tag, 0);
	}
}

static void end_request(const struct usrloop_cqe *cqe)
{
	if (cqe->tag >= DEPTH || !kernel->busy[cqe->tag] || cqe->seq != kernel->sent[cqe->tag].seq || cqe->reserved)
		return complain("no such request", cqe->tag, cqe->result);
	if (cqe->result != kernel->want[cqe->tag])
		complain("unexpected result", cqe->tag, cqe->result);
	else if (!cqe->result && kernel->sent[cqe->tag].op == USRLOOP_OP_READ)
		compare(cqe->tag);
	kernel->busy[cqe->tag] = 0;
	kernel->flying--;
	kernel->done++;
}

static void collect(void)
{
	uint32_t tail = __atomic_load_n(&kernel->ring->cq_tail, __ATOMIC_ACQUIRE);

	for (; kernel->cq_head != tail; kernel->cq_head++) {
		struct usrloop_cqe cqe = kernel->cq[kernel->cq_head % DEPTH];

		end_request(&cqe);
	}
}

/* The server's steps. Return: whether all that it expects is there. */
static int take_steps(void)
{
	uint32_t first = 0, value;
	int any = 0;

	for (unsigned int i = 0; i < kernel->finish.steps; i++) {
		const struct usrloop_step *step = &kernel->finish.step[i];

		if (step->op == USRLOOP_STEP_WRITE) {
			usrdrv_write(kernel->dev, step->bar, step->offset, step->width,
				     (first >> step->shift & step->mask) | step->value);
			continue;
		}
		if (usrdrv_read(kernel->dev, step->bar, step->offset, step->width, &value))
			return 0;
		if (!any++)
			first = value;
		if ((value & step->mask) != step->value)
			return 0;
	}
	return kernel->finish.steps > 0;
}

/* Signal an eventfd's other one, and do what it stands for. */
static void acknowledge(unsigned int index)
{
	int fd = kernel->event[index].ack_fd;

	kernel->reported &= ~(1u << index);
	if (fd < 0)
		return;
	eventfd_write(fd, 1);
	if (fd == kernel->dev->unmask_fd)
		kernel->model->irq_unmask(kernel->dev, NULL, 0);
}

/* The handler of the device's interrupt. Return: whether it has ended a request, and has let the next interrupt through. */
static int finish(void)
{
	struct usrloop_cqe cqe;
	uint32_t armed = USRLOOP_FINISH_ARMED;

	if (!__atomic_compare_exchange_n(&kernel->ring->finish, &armed, USRLOOP_FINISH_TAKING, 0, __ATOMIC_ACQ_REL,
					 __ATOMIC_ACQUIRE))
		return 0;
	cqe = (struct usrloop_cqe){ .tag = kernel->ring->finish_tag, .seq = kernel->ring->finish_seq };
	if (!take_steps()) {
		__atomic_store_n(&kernel->ring->finish, USRLOOP_FINISH_ARMED, __ATOMIC_RELEASE);
		return 0;
	}
	end_request(&cqe);
	__atomic_store_n(&kernel->ring->finish, USRLOOP_FINISH_DONE, __ATOMIC_RELEASE);
	if (kernel->dev->unmask_fd >= 0)
		eventfd_write(kernel->dev->unmask_fd, 1);
	kernel->model->irq_unmask(kernel->dev, NULL, 0);
	kernel->finished++;
	return 1;
}

/* Make a request one that the driver must refuse. */
static int spoil(struct usrloop_sqe *sqe)
{
	switch (next() % 4) {
	case 0:
		sqe->sector = SECTORS - sqe->len / USRDRV_SECTOR + 1 + next() % 9;
		break;
	case 1:
		sqe->sector = UINT64_MAX / USRDRV_SECTOR - next() % 9;
		break;
	case 2:
		sqe->len -= 1 + next() % (USRDRV_SECTOR - 1);
		break;
	case 3:
		if (sqe->op == USRLOOP_OP_DISCARD)
			return 0;
		sqe->sector = 0;
		if (kernel->table && next() % 2)
			sqe->segments = next() % 2 ? 0 : IDE_PRDS + 1;
		else
			sqe->len = kernel->table || next() % 2 ? 0 : SLOT + USRDRV_SECTOR;
	}
	return -EINVAL;
}

/* Tell where the data of a request are, in pieces that the chip can do (section 6.1). Return: how many. */
static uint16_t name_pages(uint32_t tag, uint32_t len)
{
	struct usrloop_segment *table = kernel->table + (size_t)tag * IDE_PRDS;
	uint64_t at = kernel->bus + (uint64_t)tag * SLOT;
	uint32_t piece;
	uint16_t n = 0;

	for (; len; at += piece, len -= piece) {
		piece = BLOCK_SEGMENT_BYTES - at % BLOCK_SEGMENT_BYTES;
		if (n < IDE_PRDS / 2 && next() % 2)
			piece = 2 + next() % 2048 * 2;
		if (piece > BLOCK_SEGMENT_BYTES - at % BLOCK_SEGMENT_BYTES)
			piece = BLOCK_SEGMENT_BYTES - at % BLOCK_SEGMENT_BYTES;
		piece = piece < len ? piece : len;
		table[n++] = (struct usrloop_segment){ .addr = at, .len = piece };
	}
	return n;
}

static void submit(uint32_t tag)
{
	static const uint8_t ops[] = { USRLOOP_OP_READ, USRLOOP_OP_WRITE, USRLOOP_OP_READ, USRLOOP_OP_WRITE,
				       USRLOOP_OP_DISCARD, USRLOOP_OP_FLUSH };
	struct usrloop_sqe *sqe = &kernel->sent[tag];
	uint32_t start = next() % AREA, count = 1 + next() % (next() % 4 ? 16 : SLOT / USRDRV_SECTOR);
	uint8_t *data = kernel->data + (size_t)tag * SLOT;

	if (count > AREA - start)
		count = AREA - start;
	start += tag * AREA;
	*sqe = (struct usrloop_sqe){
		.tag = tag, .seq = ++kernel->seq, .op = ops[next() % sizeof(ops)], .len = count * USRDRV_SECTOR,
		.sector = start, .flags = next() % 8 ? 0 : USRLOOP_SQE_FUA,
	};
	if (kernel->table && sqe->op <= USRLOOP_OP_WRITE)
		sqe->segments = name_pages(tag, sqe->len);
	kernel->want[tag] = 0;
	if (sqe->op == USRLOOP_OP_FLUSH)
		sqe->sector = sqe->len = 0;
	else if (!(next() % 50))
		kernel->want[tag] = spoil(sqe);
	if (!kernel->want[tag] && sqe->op == USRLOOP_OP_WRITE) {
		for (uint32_t i = 0; i < sqe->len; i += 8)
			memcpy(data + i, &(uint64_t){ next() }, 8);
		memcpy(kernel->shadow + (size_t)start * USRDRV_SECTOR, data, sqe->len);
		memset(kernel->known + start, 1, count);
	}
	if (!kernel->want[tag] && sqe->op == USRLOOP_OP_DISCARD)
		memset(kernel->known + start, 0, count);
	kernel->busy[tag] = 1;
	kernel->flying++;
	kernel->sq[kernel->sq_tail++ % DEPTH] = *sqe;
	__atomic_store_n(&kernel->ring->sq_tail, kernel->sq_tail, __ATOMIC_RELEASE);
}

/* Wait for the eventfds, and take their counts. */
static int events(int timeout)
{
	struct pollfd p[USRLOOP_EVENTFDS];
	uint64_t count;
	int bits = 0;

	for (unsigned int i = 0; i < USRLOOP_EVENTFDS; i++)
		p[i] = (struct pollfd){ .fd = kernel->event[i].fd, .events = POLLIN };
	if (poll(p, USRLOOP_EVENTFDS, timeout) < 0)
		return -errno;
	for (unsigned int i = 0; i < USRLOOP_EVENTFDS; i++)
		if (p[i].revents & POLLIN && read(p[i].fd, &count, sizeof(count)) == sizeof(count))
			bits |= USRLOOP_READY_EVENT << i;
	kernel->reported |= (unsigned int)bits / USRLOOP_READY_EVENT;
	return bits;
}

/* Submit up to so many requests. Return: whether there are some that the server has not seen. */
static int submit_some(uint32_t left)
{
	for (uint32_t tag = 0; tag < DEPTH && left; tag++)
		if (!kernel->busy[tag]) {
			submit(tag);
			left--;
		}
	return kernel->ring->sq_head != kernel->sq_tail ? USRLOOP_READY_WORK : 0;
}

/* How many to submit: for a while, whatever fits; for another, one after the other. */
static uint32_t some(void)
{
	kernel->calm ^= !(next() % 256);
	return kernel->calm ? !kernel->flying : next() % (DEPTH + 1);
}

/* With the end, a request more. It is a wrong one: who takes it answers at once. */
static int submit_late(void)
{
	kernel->cq[kernel->cq_head % DEPTH].tag = DEPTH;
	kernel->sq[kernel->sq_tail % DEPTH] = (struct usrloop_sqe){ .op = USRLOOP_OP_FLUSH, .len = USRDRV_SECTOR };
	__atomic_store_n(&kernel->ring->sq_tail, ++kernel->sq_tail, __ATOMIC_RELEASE);
	return USRLOOP_READY_STOP | USRLOOP_READY_WORK;
}

/* Nobody took it: no ENTER would have told its client of the answer. */
static void check_late(void)
{
	if (!revoking && kernel->cq[kernel->cq_head % DEPTH].tag != DEPTH)
		complain("taken with the port's end", 0, 0);
}

static int enter(unsigned long arg)
{
	int bits, told;
	uint32_t left;

	collect();
	left = some();
	for (unsigned int i = 0; i < USRLOOP_EVENTFDS && arg & USRLOOP_ENTER_ACK; i++)
		if (kernel->reported & 1u << i)
			acknowledge(i);
	if (!(next() % 64))
		return -EINTR;
	if (atomic_load(&kernel->stop)) {
		if (revoking || !kernel->flying) {
			atomic_store(&kernel->ended, 1);
			return kernel->flying ? -ESTALE : submit_late();
		}
		left = 0;
	}
	bits = submit_some(left);
	told = events(bits || !kernel->flying ? 0 : (int)kernel->ring->timeout_ms ?: -1);
	for (unsigned int i = 0; i < USRLOOP_EVENTFDS; i++)
		if (told > 0 && told & USRLOOP_READY_EVENT << i && kernel->event[i].fd == kernel->dev->irq_fd && finish()) {
			kernel->reported &= ~(1u << i);
			told &= ~(USRLOOP_READY_EVENT << i);
			bits |= submit_some(1);
		}
	return told < 0 ? told : bits | told;
}

int played_ioctl(int fd, unsigned long request, ...)
{
	va_list list;
	void *arg;
	int ret = 0;

	va_start(list, request);
	arg = va_arg(list, void *);
	va_end(list);
	for (kernel = side; kernel->fd != fd; kernel++)
		;
	if (request == USRLOOP_IOC_EVENTFD)
		kernel->event[((struct usrloop_eventfd *)arg)->index] = *(struct usrloop_eventfd *)arg;
	else if (request == USRLOOP_IOC_FINISH)
		kernel->finish = *(struct usrloop_finish *)arg;
	else
		ret = enter((unsigned long)arg);
	if (ret >= 0)
		return ret;
	errno = -ret;
	return -1;
}

/*
 * Early: the driver lets the interrupt through, and its handler runs before the driver goes on. It ends the request that
 * was started just now, and the kernel's next request has its tag.
 */
static int unmask_early(struct usrdrv_dev *dev, const struct usrdrv_write *w, unsigned int n)
{
	struct pollfd raised = { .fd = dev->irq_fd, .events = POLLIN };
	uint32_t tag = kernel->ring->finish_tag;
	uint64_t count;
	int ret = kernel->model->irq_unmask(dev, w, n);

	if (poll(&raised, 1, 0) > 0 && finish() && read(dev->irq_fd, &count, sizeof(count)) > 0 && !atomic_load(&kernel->stop))
		submit(tag);
	return ret;
}

static int make_rings(struct usrloop_attach *attach)
{
	int fd = memfd_create("rings", MFD_CLOEXEC);
	uint8_t *map;

	*attach = (struct usrloop_attach){
		.queues = 1, .depth = DEPTH, .ring_stride = DATA, .sq = SQ, .cq = CQ, .slot_size = SLOT, .data = DATA,
		.data_stride = DEPTH * SLOT, .size = DATA + DEPTH * SLOT, .claim_fd = -1,
	};
	if (fd < 0 || ftruncate(fd, (off_t)attach->size))
		return -1;
	kernel->fd = fd;
	map = mmap(NULL, attach->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	kernel->ring = (struct usrloop_ring *)map;
	kernel->sq = (struct usrloop_sqe *)(map + SQ);
	kernel->cq = (struct usrloop_cqe *)(map + CQ);
	kernel->data = map + DATA;
	for (unsigned int i = 0; i < USRLOOP_EVENTFDS; i++)
		kernel->event[i].fd = kernel->event[i].ack_fd = -1;
	return map == MAP_FAILED ? -1 : fd;
}

/* Let slots be tables; the data lie where the device reaches them. */
static int make_tables(struct usrdrv_dev *dev, struct usrloop_attach *attach)
{
	struct usrdrv_dma *pages = &kernel->pages;

	attach->claim_fd = 0;
	attach->slot_size = IDE_PRDS * sizeof(struct usrloop_segment);
	kernel->table = (struct usrloop_segment *)kernel->data;
	if (dev->ops->dma_alloc(dev, (size_t)DEPTH * SLOT, BLOCK_SEGMENT_BYTES, UINT32_MAX, pages))
		return -1;
	kernel->data = pages->cpu;
	kernel->bus = pages->bus;
	return 0;
}

static int make_disk(unsigned int drive, struct usrdrv_dev *dev, const char *seed, int tables,
		     struct usrloop_attach *attach)
{
	kernel = &side[drive];
	kernel->random = (strtoull(seed, NULL, 0) + drive) * 0x9e3779b97f4a7c15ull + 1;
	kernel->dev = dev;
	kernel->model = dev->ops;
	return make_rings(attach) < 0 || (tables && make_tables(dev, attach));
}

static atomic_uint paused;

/* Has the registers when the channel is paused, and gives them back. */
static void *control_plane(void *arg)
{
	struct ide *ide = arg;
	struct block_event event;
	unsigned int channel;

	while (!block_wait_event(ide_front(ide), &channel, &event))
		if (event.kind == BLOCK_EVENT_PAUSED) {
			block_resume(ide_front(ide), channel, BLOCK_DONE, 0);
			atomic_fetch_add(&paused, 1);
		}
	return NULL;
}

/* Pause both channels under load, again and again for 100 ms; each time they come to a stop, or the rig hangs. */
static void pause_channels(struct ide *ide)
{
	struct timespec ms = { .tv_nsec = 1000000 };

	for (unsigned int t = 0; t < 100 && !atomic_load(&failed); t++) {
		unsigned int before = atomic_load(&paused);

		if (!(t % 10) && !block_pause(ide_front(ide), t / 10 % IDE_CHANNELS))
			for (unsigned int n = 0; atomic_load(&paused) == before; n++) {
				if (n == 60000) {
					fprintf(stderr, "a channel does not pause\n");
					exit(1);
				}
				nanosleep(&ms, NULL);
			}
		nanosleep(&ms, NULL);
	}
}

static void sleep_100ms(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 100000000 }, NULL);
}

/* Wait until a server has left: with nothing under way, or because its disk was revoked. */
static void await_end(struct ide *ide, unsigned int drive)
{
	for (int t = 0; t < 600 && !atomic_load(&side[drive].ended); t++) {
		block_kick(ide_front(ide));
		sleep_100ms();
	}
	if (atomic_load(&side[drive].ended))
		return;
	fprintf(stderr, "drive %u: %u requests are left alone\n", drive, side[drive].flying);
	exit(1);
}

/* Take the first disk away, and see the others go on. */
static void lose_first(struct ide *ide)
{
	unsigned long before;

	atomic_store(&side[0].stop, 1);
	await_end(ide, 0);
	for (unsigned int d = 1; d < drives; d++) {
		before = atomic_load(&side[d].done);
		for (int t = 0; t < 600 && atomic_load(&side[d].done) == before; t++)
			sleep_100ms();
		if (atomic_load(&side[d].done) == before) {
			fprintf(stderr, "drive %u: stands still without drive 0\n", d);
			exit(1);
		}
	}
}

int main(int argc, char **argv)
{
	const struct ide_drive_conf conf = {
		.sectors = SECTORS, .physical_block = 512, .lba48 = 1, .fua = 1, .trim = 1, .flush = 1, .dma = 1,
	};
	struct usrloop_attach attach[DRIVES];
	struct block_port *port;
	struct usrdrv_dev_ops ops;
	pthread_t control;
	const char *way;
	struct usrdrv_dev *dev;
	struct ide *ide;
	int seconds, ret = 0, steps, early, first;

	if (argc != 6)
		return 2;
	seconds = atoi(argv[1]);
	first = !strcmp(argv[3], "first");
	revoking = first || !strcmp(argv[3], "revoke");
	way = argv[4];
	drives = (unsigned int)atoi(argv[5]);
	early = !strcmp(way, "early");
	steps = early || !strcmp(way, "steps");
	dev = drives && drives <= DRIVES ? stress_open(drives, SECTORS) : NULL;
	if (!dev)
		return 2;
	for (unsigned int d = 0; d < drives && !ret; d++)
		ret = make_disk(d, dev, argv[2], steps || !strcmp(way, "tables"), &attach[d]);
	if (ret)
		return 2;
	kernel = side;
	ops = *dev->ops;
	if (!strcmp(way, "bounce"))
		ops.dma_map = NULL;
	if (steps || !strcmp(way, "signal")) {
		ops.irq_hold = NULL;
		ops.irq_release = NULL;
	}
	if (early)
		ops.irq_unmask = unmask_early;
	else if (steps)
		dev->unmask_fd = eventfd(0, EFD_NONBLOCK);
	dev->ops = &ops;
	ret = ide_create(dev, 1, &ide);
	for (unsigned int d = 0; d < drives && !ret; d++)
		ret = ide_configure(ide, d, &conf);
	ret = ret ?: block_start(ide_front(ide));
	for (unsigned int d = 0; d < drives && !ret; d++)
		ret = loop_block_port(side[d].fd, &attach[d], 0, &port) ?: block_serve(ide_front(ide), d, &port, 1);
	ret = ret ?: -pthread_create(&control, NULL, control_plane, ide);
	if (ret) {
		fprintf(stderr, "start: %s\n", strerror(-ret));
		return 2;
	}
	for (int t = 0; t < seconds * 10 && !atomic_load(&failed); t++)
		pause_channels(ide);
	if (first)
		lose_first(ide);
	stop_all();
	for (unsigned int d = 0; d < drives; d++)
		await_end(ide, d);
	block_stop(ide_front(ide));
	pthread_join(control, NULL);
	ide_destroy(ide);
	for (unsigned int d = 0; d < drives; d++) {
		kernel = &side[d];
		check_late();
		if (side[d].pages.cpu)
			dev->ops->dma_free(dev, &side[d].pages);
		printf("%lu %lu ", atomic_load(&side[d].done), side[d].finished);
	}
	printf("\n");
	stress_close(dev);
	return atomic_load(&failed);
}
