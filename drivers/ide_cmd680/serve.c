// SPDX-License-Identifier: MIT
/*
 * A drive served to usrloop: its requests come out of the kernel's ring, in the dispatcher's own sleep,
 * and the chip moves data straight to and from the ring's slots, or to and from the pages that the slots
 * name (zero copy). One system call waits for both the interrupt and new requests, hands over what is
 * complete and unmasks the interrupt. With zero copy the kernel ends the only request at the chip by itself, and
 * the call returns with the next one: one for each.
 *
 * Everything here is the dispatcher's, but for completions that the control plane's thread brings about
 * (an error's verdict, the end): those wait in a list.
 */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "ide.h"

#define BELOW_4G	0xffffffffu
#define PIECES		16u	/* of memory that the device reaches instead of slots: a large one may not be had */
#define LOOK_MS		1000	/* how often to look whether a device that has no eventfd for it is gone */

enum { ON_IRQ, ON_KICK, ON_HANGUP };

/* A request of the kernel's; its place is its tag. */
struct served {
	struct ide_request request;	/* first */
	struct ide_serve *serve;
	struct served *next;		/* in the list of completions of other threads */
	uint32_t seq;
	uint32_t len;			/* bytes */
	enum usrdrv_block_op op;
	int ended;			/* by the kernel itself */
};

struct ide_serve {
	struct ide *ide;
	struct ide_drive *drive;
	struct loop_queue q;
	void *map;
	size_t map_size;
	struct usrdrv_dma data[PIECES];	/* the slots, or what stands for them */
	unsigned int per_piece;		/* slots */
	size_t stride;			/* of slots in data */
	int tables;			/* slots name the data's pages; data is memory of ours for TRIM */
	int bounce;			/* data is memory of ours: the device cannot reach the slots */
	int joined;			/* ENTER knows our eventfds; the dispatcher's */
	int look;			/* the device's hang-up is no eventfd */
	int finishes;			/* the kernel knows how the chip says that a DMA command is done */
	struct served *armed;		/* which it may end by itself, or NULL; channel lock */
	unsigned int per_slot;		/* segments */
	struct served *request;
	struct ide_segment *segment;
	pthread_mutex_t lock;
	struct served *done;
};

static void hand_over(struct ide_serve *s, struct served *r)
{
	uint32_t tag = (uint32_t)(r - s->request);
	int status = r->request.status;

	/*
	 * At the end of the device, or ours, the request is left as it is: whoever is started next gets it
	 * again, or the kernel fails it when nobody is. What the kernel has ended is not told to it.
	 */
	if (status == -ENODEV || r->ended)
		return;
	if (!status && s->bounce && r->op == USRDRV_BLOCK_READ)
		memcpy(loop_slot(&s->q, tag), s->segment[tag * s->per_slot].page, r->len);
	loop_complete(&s->q, tag, r->seq, status);
}

static void complete(struct ide_request *request)
{
	struct served *r = (struct served *)request;
	struct ide_serve *s = r->serve;

	if (pthread_equal(pthread_self(), s->ide->dispatcher)) {
		hand_over(s, r);
		return;
	}
	pthread_mutex_lock(&s->lock);
	r->next = s->done;
	s->done = r;
	pthread_mutex_unlock(&s->lock);
	ide_kick(s->ide);
}

static void drain(struct ide_serve *s)
{
	struct served *r;

	pthread_mutex_lock(&s->lock);
	r = s->done;
	s->done = NULL;
	pthread_mutex_unlock(&s->lock);
	for (; r; r = r->next)
		hand_over(s, r);
}

static int gone(const struct usrdrv_dev *dev)
{
	struct pollfd p = { .fd = dev->hangup_fd, .events = (short)dev->hangup_events };

	return dev->hangup_fd >= 0 && poll(&p, 1, 0) > 0;
}

static int set_event(struct ide_serve *s, unsigned int index, int fd, int ack_fd)
{
	struct usrloop_eventfd event = {
		.argsz = sizeof(event), .queue = s->q.index, .index = index, .fd = fd, .ack_fd = ack_fd,
	};

	return ioctl(s->q.fd, USRLOOP_IOC_EVENTFD, &event) ? -errno : 0;
}

/*
 * Have ENTER wait for what epoll waited for. Only the dispatcher may do so: a signal that ENTER knows of
 * does not end a wait in epoll any more.
 */
static int join(struct ide_serve *s)
{
	struct usrdrv_dev *dev = s->ide->dev;
	int ret = set_event(s, ON_IRQ, dev->irq_fd, dev->unmask_fd);

	if (!ret)
		ret = set_event(s, ON_KICK, s->ide->kick_fd, -1);
	if (!ret && dev->hangup_fd >= 0)
		s->look = set_event(s, ON_HANGUP, dev->hangup_fd, -1) != 0;
	if (!ret && s->tables) {
		struct usrloop_finish finish = { .argsz = sizeof(finish), .queue = s->q.index };

		ide_finish_steps(s->drive->channel, &finish);
		s->finishes = !ioctl(s->q.fd, USRLOOP_IOC_FINISH, &finish);
	}
	s->joined = !ret;
	return ret;
}

/* Let the kernel end the request of the command, if that is the only one, and nothing is left to do after it. */
static void arm(struct ide_serve *s, struct ide_request *request)
{
	s->armed = (struct served *)request;
	s->q.ring->finish_tag = (uint32_t)(s->armed - s->request);
	s->q.ring->finish_seq = s->armed->seq;
	__atomic_store_n(&s->q.ring->finish, USRLOOP_FINISH_ARMED, __ATOMIC_RELEASE);
}

/* The request that the kernel may end by itself from now on, or NULL; channel locked. */
static struct ide_request *to_arm(const struct ide_serve *s)
{
	struct ide_request *request;

	/* Who looks at the chip all the time does so himself. */
	if (!s->finishes || s->armed || s->ide->limits.poll_us)
		return NULL;
	request = ide_only_request(s->drive->channel);
	return request && request->complete == complete ? request : NULL;
}

/**
 * ide_serve_arm - let the kernel end the request of the command that is about to be started
 * @ch:	channel, locked
 * @l:	all of its writes but the engine's start
 *
 * Those are made before: until START is set, which is the first that the steps expect, no interrupt is this
 * command's. Only the dispatcher arms, who disarms before he looks at the chip or queues more.
 */
void ide_serve_arm(struct ide_channel *ch, struct ide_list *l)
{
	struct ide_serve *s = atomic_load(&ch->ide->serve);
	struct ide_request *request;

	if (!s || ch != s->drive->channel || !pthread_equal(pthread_self(), ch->ide->dispatcher))
		return;
	request = to_arm(s);
	if (request && !ide_flush_list(ch, l))
		arm(s, request);
}

/* Whose the interrupt was, the word says. Return: whether the kernel has ended the request. */
static int was_ended(uint32_t *word)
{
	uint32_t is = USRLOOP_FINISH_ARMED;

	/* Its handler is on another processor, and takes no longer than a few registers do. */
	while (!__atomic_compare_exchange_n(word, &is, USRLOOP_FINISH_OFF, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE) &&
	       is == USRLOOP_FINISH_TAKING)
		is = USRLOOP_FINISH_ARMED;
	return is == USRLOOP_FINISH_DONE;
}

/* See to the chip ourselves from here on; hear whether the kernel has. Return: whether it has. */
static int take_back(struct ide_serve *s)
{
	int ended = s->armed && was_ended(&s->q.ring->finish);

	if (ended) {
		s->armed->ended = 1;
		ide_finished(s->drive->channel);
	}
	s->armed = NULL;
	return ended;
}

/**
 * ide_serve_disarm - see to the chip ourselves until a command is armed again
 * @s:	served drive, or NULL; its channel is not locked
 */
void ide_serve_disarm(struct ide_serve *s)
{
	int ended;

	if (!s || !s->armed)
		return;
	pthread_mutex_lock(&s->drive->channel->lock);
	ended = take_back(s);
	ide_unlock(s->drive->channel);
	if (ended)
		ide_run_channel(s->drive->channel);
}

/* One that was taken back may be at the chip still, and nothing be queued. */
static void rearm(struct ide_serve *s)
{
	struct ide_request *request;

	pthread_mutex_lock(&s->drive->channel->lock);
	request = to_arm(s);
	if (request)
		arm(s, request);
	ide_unlock(s->drive->channel);
}

/**
 * ide_serve_leave - go back to waiting without usrloop; commands may still be at the chip
 * @s:	served drive
 */
void ide_serve_leave(struct ide_serve *s)
{
	for (unsigned int i = ON_IRQ; i <= ON_HANGUP; i++)
		set_event(s, i, -1, -1);
	s->joined = 0;
	ide_serve_disarm(s);
	s->ide->dev->ops->irq_unmask(s->ide->dev, NULL, 0);
}

/**
 * ide_serve_unmasks - whether an ENTER lets the interrupt through that is being serviced
 * @s:	served drive, or NULL
 *
 * Return: 1 or 0.
 */
int ide_serve_unmasks(const struct ide_serve *s)
{
	return s && s->joined && s->ide->dev->unmask_fd >= 0;
}

/**
 * ide_serve_wait - hand over completions, sleep until there is something to do
 * @s:		served drive
 * @timeout:	ms, -1: none
 * @how:	USRLOOP_ENTER_*: ACK lets the interrupt through that was serviced last
 *
 * Return: IDE_ON_* bits; IDE_ON_END: the disk is not ours any more.
 */
unsigned int ide_serve_wait(struct ide_serve *s, int timeout, unsigned int how)
{
	unsigned int on = 0;
	int ready;

	if (!s->joined && join(s))
		return IDE_ON_END;
	drain(s);
	if (s->look && (timeout < 0 || timeout > LOOK_MS))
		timeout = LOOK_MS;
	rearm(s);
	ready = loop_enter(&s->q, how, timeout < 0 ? 0 : (unsigned int)timeout);
	ide_serve_disarm(s);
	if (ready == -EINTR)
		return 0;
	if (ready < 0 || ready & USRLOOP_READY_STOP)
		return IDE_ON_END;
	if (ready & USRLOOP_READY_EVENT << ON_IRQ)
		on |= IDE_ON_IRQ;
	if (ready & USRLOOP_READY_EVENT << ON_KICK)
		on |= IDE_ON_KICK;
	/* It is looked at when nothing happened for a while. */
	if (ready & USRLOOP_READY_EVENT << ON_HANGUP ||
	    (s->look && !ready && !(how & USRLOOP_ENTER_NOWAIT) && gone(s->ide->dev)))
		on |= IDE_ON_HANGUP;
	if (ready & USRLOOP_READY_WORK)
		on |= IDE_ON_WORK;
	return on;
}

static enum usrdrv_block_op op_of(const struct usrloop_sqe *sqe)
{
	switch (sqe->op) {
	case USRLOOP_OP_READ:
		return USRDRV_BLOCK_READ;
	case USRLOOP_OP_WRITE:
		return USRDRV_BLOCK_WRITE;
	case USRLOOP_OP_DISCARD:
		return USRDRV_BLOCK_TRIM;
	default:	/* ZEROES was not offered */
		return USRDRV_BLOCK_FLUSH;
	}
}

/* Whether the slot has a table of where a request's data are, not the data. */
static int has_table(const struct ide_serve *s, const struct served *r)
{
	return s->tables && (r->op == USRDRV_BLOCK_READ || r->op == USRDRV_BLOCK_WRITE);
}

/* Whether the drive can do a request and its data, or their table, fit the slot. Return: 0 or -errno. */
static int check(const struct ide_serve *s, const struct served *r, const struct usrloop_sqe *sqe)
{
	if (r->op == USRDRV_BLOCK_FLUSH)
		return r->len ? -EINVAL : 0;
	if (!r->len)
		return -EINVAL;
	if (has_table(s, r)) {
		if (!sqe->segments || sqe->segments > s->q.slot_size / sizeof(struct usrloop_segment))
			return -EINVAL;
	} else if (r->op != USRDRV_BLOCK_TRIM && r->len > s->q.slot_size) {
		return -EINVAL;
	}
	return ide_check(&s->drive->block, r->op, sqe->sector * USRDRV_SECTOR, r->len);
}

/*
 * Make segments of a request and put them into the queue; channel locked. The kernel keeps a request whose
 * pages are named to what one command can do.
 */
static void start(struct ide_serve *s, const struct usrloop_sqe *sqe)
{
	struct served *r = &s->request[sqe->tag];
	struct ide_segment *first = &s->segment[sqe->tag * s->per_slot], *segment = first;
	uint64_t offset = sqe->sector * USRDRV_SECTOR, left = sqe->len;
	unsigned int flags = sqe->flags & USRLOOP_SQE_FUA ? USRDRV_BLOCK_FUA : 0;

	/* One that waits to be told of its end may be this tag's last one. */
	assert(!s->drive->channel->done);
	r->seq = sqe->seq;
	r->len = sqe->len;
	r->op = op_of(sqe);
	r->ended = 0;
	r->request.left = 0;
	r->request.status = check(s, r, sqe);
	if (!r->request.status && s->drive->channel->state == IDE_DEAD)
		r->request.status = -ENODEV;
	if (r->request.status) {
		hand_over(s, r);
		return;
	}
	if (s->bounce && r->op == USRDRV_BLOCK_WRITE)
		memcpy(first->page, loop_slot(&s->q, sqe->tag), sqe->len);
	do {
		uint64_t n = has_table(s, r) ? left : ide_share(r->op, left);

		segment->alone = segment->tries = 0;
		ide_fill(segment, s->drive, &r->request, r->op, offset, n, flags);
		offset += n;
		left -= n;
		segment->sibling = left ? segment + 1 : NULL;
		if (has_table(s, r)) {
			segment->table = (const struct usrloop_segment *)loop_slot(&s->q, sqe->tag);
			segment->prds = sqe->segments;
		}
	} while (segment++, left);
	ide_enqueue(s->drive->channel, first);
}

/**
 * ide_serve_pump - take all requests that there are, and start what can be started
 * @s:	served drive
 */
void ide_serve_pump(struct ide_serve *s)
{
	struct ide_channel *ch = s->drive->channel;
	const struct usrloop_sqe *sqe;

	pthread_mutex_lock(&ch->lock);
	if (take_back(s)) {
		/* The kernel may have given its tag to the next request already: be done with it before that is read. */
		ide_unlock(ch);
		pthread_mutex_lock(&ch->lock);
	}
	while ((sqe = loop_next(&s->q)))
		start(s, sqe);
	ide_unlock(ch);
	ide_run_channel(ch);
}

/* Give each slot its segments, which lie where its data do. */
static int make_segments(struct ide_serve *s, unsigned int depth)
{
	s->per_slot = (unsigned int)((s->stride + IDE_SEGMENT_BYTES - 1) / IDE_SEGMENT_BYTES);
	s->request = calloc(depth, sizeof(*s->request));
	s->segment = calloc((size_t)depth * s->per_slot, sizeof(*s->segment));
	if (!s->request || !s->segment)
		return -ENOMEM;
	for (unsigned int i = 0; i < depth; i++) {
		s->request[i].serve = s;
		s->request[i].request.complete = complete;
		for (unsigned int j = 0; j < s->per_slot; j++) {
			struct ide_segment *segment = &s->segment[i * s->per_slot + j];
			const struct usrdrv_dma *data = &s->data[i / s->per_piece];
			size_t at = i % s->per_piece * s->stride + (size_t)j * IDE_SEGMENT_BYTES;

			segment->page = (uint8_t *)data->cpu + at;
			segment->bus = (uint32_t)(data->bus + at);
		}
	}
	return 0;
}

static int make_data(struct ide_serve *s, unsigned int depth)
{
	struct usrdrv_dev *dev = s->ide->dev;
	const struct usrdrv_dev_ops *ops = dev->ops;
	int ret = -EOPNOTSUPP;

	/* A slot of less than 64 KiB is a power of two: neither crosses a multiple of 64 KiB, section 6.1. */
	s->per_piece = depth;
	s->stride = s->tables ? USRDRV_SECTOR : s->q.slot_size;
	if (ops->dma_map && !s->tables)
		ret = ops->dma_map(dev, s->q.data, depth * s->stride, IDE_SEGMENT_BYTES, BELOW_4G, &s->data[0]);
	if (!ret)
		return 0;
	if (!s->tables) {
		s->bounce = 1;
		s->per_piece = (depth + PIECES - 1) / PIECES;
	}
	ret = 0;
	for (unsigned int i = 0; i * s->per_piece < depth && !ret; i++)
		ret = ops->dma_alloc(dev, s->per_piece * s->stride, IDE_SEGMENT_BYTES, BELOW_4G, &s->data[i]);
	return ret;
}

/**
 * ide_serve - take requests for a drive from usrloop from now on
 * @ide:	controller, started; no other drive of it is served
 * @drive:	0 to 3
 * @fd:		of /dev/usrloop, attached to a block device of one queue; kept by the caller until ide_stop()
 * @attach:	what ATTACH returned
 *
 * Return: 0; -EINVAL no such drive; -EBUSY one is or was served; -errno.
 */
int ide_serve(struct ide *ide, unsigned int drive, int fd, const struct usrloop_attach *attach)
{
	struct ide_serve *s;
	int ret;

	if (!ide_block(ide, drive))
		return -EINVAL;
	if (atomic_load(&ide->serve) || ide->left)
		return -EBUSY;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->ide = ide;
	s->drive = &ide->channel[drive / 2].drive[drive % 2];
	s->map_size = attach->size;
	s->tables = attach->claim_fd >= 0;
	pthread_mutex_init(&s->lock, NULL);
	ret = loop_map(fd, attach, &s->map);
	if (ret) {
		s->map = NULL;
	} else {
		loop_queue_init(&s->q, fd, attach, s->map, 0);
		ret = make_data(s, attach->depth);
	}
	if (!ret)
		ret = make_segments(s, attach->depth);
	if (ret) {
		ide_serve_free(s);
		return ret;
	}
	atomic_store(&ide->serve, s);
	ide_kick(ide);
	return 0;
}

/**
 * ide_served_calls - how often usrloop was called
 * @ide:	controller
 *
 * Return: system calls of the data path since ide_serve(); 0 if no drive is served.
 */
uint64_t ide_served_calls(struct ide *ide)
{
	struct ide_serve *s = atomic_load(&ide->serve);

	return s ? s->q.enters : 0;
}

/* Give it back. No command of it is at the chip. */
void ide_serve_free(struct ide_serve *s)
{
	for (unsigned int i = 0; i < PIECES; i++)
		if (s->data[i].cpu)
			s->ide->dev->ops->dma_free(s->ide->dev, &s->data[i]);
	if (s->map)
		munmap(s->map, s->map_size);
	free(s->request);
	free(s->segment);
	pthread_mutex_destroy(&s->lock);
	free(s);
}
