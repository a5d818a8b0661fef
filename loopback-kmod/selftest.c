// SPDX-License-Identifier: GPL-2.0
/*
 * Arithmetic that no test from outside gets to the limits of, and hibernation, which few kernels
 * of guests have. Built with USRLOOP_SELFTEST; runs when the module is loaded.
 */
#include <linux/delay.h>
#include <linux/mm.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/suspend.h>

#include "usrloop.h"

#define CHECK(condition)	selftest_expect(condition, #condition, __func__, __LINE__)

static unsigned int failed;

static void selftest_expect(bool is_so, const char *what, const char *function, int line)
{
	if (is_so)
		return;
	pr_err("selftest: %s: line %d: not so: %s\n", function, line, what);
	failed++;
}

/* Each part lies within the session, whole, and behind the one before it. */
static int selftest_one_layout(const struct usrloop_info *info)
{
	bool net = info->type == USRLOOP_NET;
	u64 slots = info->depth * (net ? 2ull : 1ull);
	struct usrloop_layout l;
	int ret = usrloop_layout(info, &l);
	u64 ring_end = net ? l.rx + info->depth * sizeof(struct usrloop_rxe) :
			     l.cq + info->depth * sizeof(struct usrloop_cqe);

	CHECK(l.sq == sizeof(struct usrloop_ring));
	CHECK(l.cq == l.sq + info->depth * sizeof(struct usrloop_sqe));
	CHECK(net ? l.rx == l.cq + info->depth * sizeof(struct usrloop_cqe) : !l.rx);
	CHECK(l.ring_stride >= ring_end && !(l.ring_stride % PAGE_SIZE));
	CHECK(l.data >= (u64)info->queues * l.ring_stride && !(l.data % SZ_64K));
	CHECK(l.slot_size >= (net ? USRLOOP_PACKET_MAX : info->blk.max_io) &&
	      !(l.slot_size % PAGE_SIZE));
	CHECK(l.data_stride == slots * l.slot_size);
	CHECK(l.size >= l.data + info->queues * l.data_stride && !(l.size % PAGE_SIZE));
	CHECK(ret == (l.size > USRLOOP_MAX_SESSION ? -E2BIG : 0));
	return 0;
}

static int selftest_layout(void)
{
	static const u32 queues[] = { 1, 2, 3, USRLOOP_MAX_QUEUES };
	struct usrloop_info *info = kzalloc(sizeof(*info), GFP_KERNEL);
	unsigned int i;
	int ret = 0;

	if (!info)
		return -ENOMEM;
	for (i = 0; i < ARRAY_SIZE(queues) && !ret; i++) {
		info->queues = queues[i];
		for (info->depth = 1; info->depth <= USRLOOP_MAX_DEPTH && !ret; info->depth *= 2) {
			info->type = USRLOOP_NET;
			ret = selftest_one_layout(info);
			info->type = USRLOOP_BLOCK;
			for (info->blk.max_io = SZ_4K; info->blk.max_io <= USRLOOP_MAX_IO && !ret;
			     info->blk.max_io *= 2)
				ret = selftest_one_layout(info);
		}
	}
	kfree(info);
	return ret;
}

/*
 * The largest of all is refused, not cut off to something that fits; what just fits is not
 * refused.
 */
static int selftest_limits(void)
{
	struct usrloop_info *info = kzalloc(sizeof(*info), GFP_KERNEL);
	struct usrloop_layout most, fits;
	int too_big, all_right;

	if (!info)
		return -ENOMEM;
	info->type = USRLOOP_BLOCK;
	info->queues = USRLOOP_MAX_QUEUES;
	info->depth = USRLOOP_MAX_DEPTH;
	info->blk.max_io = USRLOOP_MAX_IO;
	too_big = usrloop_layout(info, &most);
	info->queues = 1;
	info->depth = 128;
	all_right = usrloop_layout(info, &fits);
	kfree(info);
	CHECK(too_big == -E2BIG);
	CHECK(most.size > 1ull << 38);
	CHECK(!all_right);
	CHECK(fits.size < USRLOOP_MAX_SESSION && fits.size > USRLOOP_MAX_SESSION / 2);
	return 0;
}

/* Submissions go round the ring, also where their count wraps. */
static int selftest_ring(void)
{
	const u32 depth = 8, begin = -(depth + 3);
	struct usrloop_ring *ring =
		kzalloc(sizeof(*ring) + depth * sizeof(struct usrloop_sqe), GFP_KERNEL);
	struct usrloop_end *end = kzalloc(sizeof(*end), GFP_KERNEL);
	struct usrloop_sqe *sq = (void *)(ring + 1);
	u32 i, wrong = 0, tail = 0;

	if (ring && end) {
		end->ring = ring;
		end->sq = sq;
		end->mask = depth - 1;
		end->sq_tail = begin;
		for (i = 0; i < 3 * depth; i++) {
			usrloop_push(end, &(struct usrloop_sqe) { .tag = i, .sector = ~(u64)i });
			wrong += ring->sq_tail != (u32)(begin + i + 1);
			wrong += sq[(begin + i) % depth].tag != i ||
				 sq[(begin + i) % depth].sector != ~(u64)i;
			/* The one before it is still there. */
			wrong += i && sq[(begin + i - 1) % depth].tag != i - 1;
		}
		tail = ring->sq_tail;
	}
	kfree(end);
	kfree(ring);
	CHECK(ring && end);
	CHECK(!wrong);
	CHECK(tail == 2 * depth - 3);
	return 0;
}

static int selftest_words(void)
{
	const u32 last = U32_MAX >> SLOT_SEQ_SHIFT;
	static const u32 seqs[] = { 0, 1, 2, U32_MAX >> (SLOT_SEQ_SHIFT + 1),
				    U32_MAX >> SLOT_SEQ_SHIFT };
	u32 i, state;

	for (i = 0; i < ARRAY_SIZE(seqs); i++) {
		for (state = SLOT_FREE; state <= SLOT_BUSY; state++) {
			u32 word = usrloop_slot_word(seqs[i], state);

			CHECK(usrloop_slot_seq(word) == seqs[i]);
			CHECK(usrloop_slot_state(word) == state);
		}
	}
	/* The use after the last is the first again, and the state is not touched by it. */
	CHECK(usrloop_slot_word(last + 1, SLOT_SERVED) == usrloop_slot_word(0, SLOT_SERVED));
	CHECK(usrloop_slot_seq(usrloop_slot_word(last + 1, SLOT_BUSY)) == 0);
	return 0;
}

static int selftest_moves(void)
{
	const u32 last = U32_MAX >> SLOT_SEQ_SHIFT;
	struct usrloop_slot slot = { .word = ATOMIC_INIT(0) };

	atomic_set(&slot.word, usrloop_slot_word(last, SLOT_SERVED));
	CHECK(!usrloop_slot_move(&slot, last, SLOT_HELD, SLOT_BUSY));
	CHECK(!usrloop_slot_move(&slot, last - 1, SLOT_SERVED, SLOT_BUSY));
	CHECK(!usrloop_slot_move(&slot, 0, SLOT_SERVED, SLOT_BUSY));
	CHECK(usrloop_slot_move(&slot, last, SLOT_SERVED, SLOT_BUSY));
	CHECK(!usrloop_slot_move(&slot, last, SLOT_SERVED, SLOT_BUSY));
	CHECK(usrloop_slot_seq(atomic_read(&slot.word)) == last);
	/* Used once more: what the last server may say of it is of another use. */
	atomic_set(&slot.word,
		   usrloop_slot_word(usrloop_slot_seq(atomic_read(&slot.word)) + 1, SLOT_SERVED));
	CHECK(!usrloop_slot_move(&slot, last, SLOT_SERVED, SLOT_BUSY));
	CHECK(usrloop_slot_move(&slot, 0, SLOT_SERVED, SLOT_BUSY));
	return 0;
}

/* Hibernation writes out dirty pages after PREPARE: a disk without a server has to fail then. */
static int selftest_clock(void)
{
	unsigned long then;

	/* This one was prepared before the module was loaded. */
	usrloop_clock_sleep(PM_POST_RESTORE);
	usrloop_clock_sleep(PM_HIBERNATION_PREPARE);
	usrloop_clock_sleep(PM_SUSPEND_PREPARE);
	then = usrloop_clock();
	msleep(20);
	CHECK(usrloop_clock() != then);
	CHECK(!usrloop_clock_stopped());
	usrloop_clock_sleep(PM_POST_SUSPEND);
	usrloop_clock_sleep(PM_POST_HIBERNATION);
	return 0;
}

/**
 * usrloop_selftest() - check what the module stands on
 *
 * Return: 0; -EINVAL, and the log says what is wrong; -ENOMEM.
 */
int __init usrloop_selftest(void)
{
	static int (*const tests[])(void) = { selftest_layout, selftest_limits,
					      selftest_ring, selftest_words, selftest_moves,
					      selftest_clock };
	unsigned int i;
	int ret = 0;

	for (i = 0; i < ARRAY_SIZE(tests) && !ret; i++)
		ret = tests[i]();
	if (!ret && failed)
		ret = -EINVAL;
	if (!ret)
		pr_info("selftest: %zu passed\n", ARRAY_SIZE(tests));
	return ret;
}
