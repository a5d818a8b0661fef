// SPDX-License-Identifier: GPL-2.0
/*
 * Requests of disks, on blk-mq. A request keeps its slot, which is its tag, from queue_rq() until
 * it is ended:
 *
 *	queue_rq(s)	FREE -> BUSY	data of a write are copied to the slot of the session,
 *					or their addresses are written there (zc_blk.c)
 *			BUSY -> SERVED	in the submission ring
 *			BUSY -> HELD	no server, by the policy it waits; or it waits
 *					for one that must be alone (alone.c)
 *	ENTER		SERVED -> BUSY	a completion names tag and seq; data of a read are copied,
 *					or the device is kept from them again
 *			BUSY -> FREE	ended, at the latest when all that came with it are
 *	death		SERVED -> HELD	to be sent again
 *			SERVED -> BUSY -> FREE	or, by the policy, with EIO; or servers die of it
 *	next server	HELD -> BUSY -> SERVED
 *					or HELD again for a moment: it cannot be mapped now
 *	too late	HELD -> BUSY -> FREE with EIO
 *
 * Nothing is allocated and nothing sleeps on this way.
 */
#include <linux/blk-mq.h>
#include <linux/rcupdate.h>

#include "blk.h"
#include "compat.h"

#define RETRY_MS	10u	/* until a request that was held is mapped again */

static void blk_copy_out(struct usrloop_end *end, const struct request *rq)
{
	void *to = usrloop_data(end, rq->tag);
	struct req_iterator iter;
	struct bio_vec bv;

	rq_for_each_segment(bv, rq, iter) {
		memcpy_from_bvec(to, &bv);
		to += bv.bv_len;
	}
}

static void blk_copy_in(struct usrloop_end *end, const struct request *rq)
{
	const void *from = usrloop_data(end, rq->tag);
	struct req_iterator iter;
	struct bio_vec bv;

	rq_for_each_segment(bv, rq, iter) {
		memcpy_to_bvec(&bv, from);
		from += bv.bv_len;
	}
}

static void blk_describe(const struct request *rq, struct usrloop_sqe *sqe)
{
	*sqe = (struct usrloop_sqe) {
		.tag = rq->tag,
		.len = blk_rq_bytes(rq),
		.sector = blk_rq_pos(rq),
		.flags = rq->cmd_flags & REQ_FUA ? USRLOOP_SQE_FUA : 0,
	};
	switch (req_op(rq)) {
	case REQ_OP_READ:
		sqe->op = USRLOOP_OP_READ;
		break;
	case REQ_OP_WRITE:
		sqe->op = USRLOOP_OP_WRITE;
		break;
	case REQ_OP_FLUSH:
		sqe->op = USRLOOP_OP_FLUSH;
		sqe->sector = 0;
		break;
	case REQ_OP_DISCARD:
		sqe->op = USRLOOP_OP_DISCARD;
		break;
	default:	/* REQ_OP_WRITE_ZEROES: nothing else has a limit above 0 */
		sqe->op = USRLOOP_OP_ZEROES;
		if (rq->cmd_flags & REQ_NOUNMAP)
			sqe->flags |= USRLOOP_SQE_NOUNMAP;
	}
}

/*
 * Send a request whose slot is BUSY to the server, or hold it. Context: process, RCU.
 * Return: BLK_STS_OK; BLK_STS_RESOURCE it must be tried again, and was @held as it is now; or why
 * it must be ended.
 */
static blk_status_t blk_dispatch(struct usrloop_queue *q, struct request *rq, bool last, bool held)
{
	struct usrloop_slot *slot = &q->slot[rq->tag];
	struct usrloop_end *end, *copied = NULL;
	struct usrloop_sqe sqe;
	int mapped = 0;
	u32 seq;

	blk_describe(rq, &sqe);
	slot->request = rq;
	for (;;) {
		end = rcu_dereference(q->end);
		if (end && end != copied && sqe.op == USRLOOP_OP_WRITE && !end->zc)
			blk_copy_out(end, rq);
		copied = end;
		spin_lock(&q->lock);
		if (likely(rcu_access_pointer(q->end) == end))
			break;
		spin_unlock(&q->lock);	/* another server, or none: look again */
	}
	seq = usrloop_slot_seq(atomic_read(&slot->word)) + 1;
	sqe.seq = usrloop_slot_seq(usrloop_slot_word(seq, 0));
	if (unlikely(end && usrloop_alone_waits(q, slot))) {
		atomic_set_release(&slot->word, usrloop_slot_word(seq, SLOT_HELD));
		spin_unlock(&q->lock);
		return BLK_STS_OK;
	}
	if (end && end->zc)
		mapped = usrloop_zc_map(end, rq, &sqe);
	if (unlikely(mapped == -ENOMEM)) {
		atomic_set_release(&slot->word,
				   usrloop_slot_word(seq, held ? SLOT_HELD : SLOT_FREE));
		spin_unlock(&q->lock);
		return BLK_STS_RESOURCE;
	}
	if (end) {
		WRITE_ONCE(slot->pushed, !mapped);
		atomic_set_release(&slot->word, usrloop_slot_word(seq, SLOT_SERVED));
		/* Whose claim is going will go, too: it is not asked any more. */
		if (likely(!mapped))
			usrloop_push(end, &sqe);
		spin_unlock(&q->lock);
		if (last)
			usrloop_wake(end);
		return BLK_STS_OK;
	}
	if (q->mode == MODE_HOLD) {
		atomic_set_release(&slot->word, usrloop_slot_word(seq, SLOT_HELD));
		spin_unlock(&q->lock);
		return BLK_STS_OK;
	}
	atomic_set_release(&slot->word, usrloop_slot_word(seq, SLOT_FREE));
	spin_unlock(&q->lock);
	return BLK_STS_IOERR;
}

/* What comes before blk_dispatch() when a request is new. */
static void blk_begin(struct usrloop_queue *q, struct request *rq)
{
	WRITE_ONCE(q->slot[rq->tag].since, usrloop_clock());
	WRITE_ONCE(q->slot[rq->tag].points, 0);
	usrloop_start_request(rq);
}

static blk_status_t blk_queue_rq(struct blk_mq_hw_ctx *hctx, const struct blk_mq_queue_data *bd)
{
	struct usrloop_queue *q = hctx->driver_data;
	struct request *rq = bd->rq;
	blk_status_t status;

	blk_begin(q, rq);
	rcu_read_lock();
	status = blk_dispatch(q, rq, bd->last, false);
	rcu_read_unlock();
	return status;
}

/* Let a queue's server know. Context: any, RCU. */
static void blk_wake(struct usrloop_queue *q)
{
	struct usrloop_end *end = rcu_dereference(q->end);

	if (end)
		usrloop_wake(end);
}

/* The last requests of a batch did not come after all. */
static void blk_commit_rqs(struct blk_mq_hw_ctx *hctx)
{
	rcu_read_lock();
	blk_wake(hctx->driver_data);
	rcu_read_unlock();
}

/* All that a task has gathered, when there is no scheduler. */
static void blk_queue_rqs(USRLOOP_RQ_LIST *list)
{
	struct usrloop_queue *q = NULL;
	struct request *rq;

	rcu_read_lock();
	while ((rq = rq_list_pop(list))) {
		struct usrloop_queue *of = rq->mq_hctx->driver_data;
		blk_status_t status;

		/* Seldom: the task came to another processor meanwhile. */
		if (q && q != of)
			blk_wake(q);
		q = of;
		blk_begin(q, rq);
		status = blk_dispatch(q, rq, false, false);
		if (status == BLK_STS_RESOURCE)
			blk_mq_requeue_request(rq, true);
		else if (status)
			blk_mq_end_request(rq, status);
	}
	if (q)
		blk_wake(q);
	rcu_read_unlock();
}

/*
 * The block layer counts from the first time that a request was sent, we from when this server
 * got it.
 */
static enum blk_eh_timer_return blk_timed_out(struct request *rq)
{
	struct usrloop_queue *q = rq->mq_hctx->driver_data;
	unsigned long limit = msecs_to_jiffies(q->dev->info.timeout_ms);
	struct usrloop_slot *slot = &q->slot[rq->tag];
	u32 word = atomic_read_acquire(&slot->word);
	struct usrloop_end *end;
	u32 generation = 0;

	/* A request that waits for a server is the recovery time's to end. */
	if (!limit || usrloop_slot_state(word) != SLOT_SERVED ||
	    time_before(usrloop_clock(), READ_ONCE(slot->since) + limit))
		return BLK_EH_RESET_TIMER;
	rcu_read_lock();
	end = rcu_dereference(q->end);
	if (end)
		generation = end->session->generation;
	rcu_read_unlock();
	/* The server is that which has the request, if it still has. */
	smp_rmb();
	if (generation && atomic_read(&slot->word) == word)
		usrloop_dev_overdue(q->dev, generation);
	return BLK_EH_RESET_TIMER;
}

static int blk_init_hctx(struct blk_mq_hw_ctx *hctx, void *data, unsigned int index)
{
	struct usrloop_dev *dev = data;

	hctx->driver_data = &dev->queue[index];
	return 0;
}

const struct blk_mq_ops usrloop_blk_ops = {
	.queue_rq	= blk_queue_rq,
	.queue_rqs	= blk_queue_rqs,
	.commit_rqs	= blk_commit_rqs,
	.timeout	= blk_timed_out,
	.init_hctx	= blk_init_hctx,
};

/*
 * Give up a slot that we made BUSY. Return: its request, to be ended, which frees the tag for
 * the next one.
 */
static struct request *blk_free_slot(struct usrloop_slot *slot, u32 seq)
{
	struct request *rq = slot->request;

	atomic_set_release(&slot->word, usrloop_slot_word(seq, SLOT_FREE));
	return rq;
}

/*
 * Claim a slot for a completion: SERVED by this session becomes BUSY. A session that is detached
 * completes nothing: clearing queue->end waits for the RCU readers here.
 */
static bool blk_take_served(const struct usrloop_end *end, struct usrloop_slot *slot, u32 seq)
{
	bool taken;

	rcu_read_lock();
	taken = rcu_access_pointer(end->queue->end) == end &&
		usrloop_slot_move(slot, seq, SLOT_SERVED, SLOT_BUSY);
	rcu_read_unlock();
	return taken;
}

/*
 * What the server says of one request; it is ended, or put into @batch. @entered: its claim is, by
 * the caller. Return: whether it was one in flight.
 */
static bool blk_take_completion(struct usrloop_end *end, const struct usrloop_cqe *cqe,
				struct io_comp_batch *batch, bool entered)
{
	struct usrloop_queue *q = end->queue;
	struct usrloop_slot *slot;
	struct request *rq;
	int result = cqe->result;
	bool good = !cqe->reserved && result <= 0 && result >= -MAX_ERRNO, was_alone;

	if (cqe->tag > end->mask)
		return false;
	slot = &q->slot[cqe->tag];
	if (!blk_take_served(end, slot, cqe->seq))
		return false;
	if (!good)
		result = -EIO;
	if (entered)
		usrloop_zc_unmap_entered(end, cqe->tag);
	else if (end->zc)
		usrloop_zc_unmap(end, cqe->tag);
	else if (!result && req_op(slot->request) == REQ_OP_READ)
		blk_copy_in(end, slot->request);
	was_alone = usrloop_alone_ended(q, slot);
	rq = blk_free_slot(slot, cqe->seq);
	if (was_alone)
		usrloop_dev_resend(q->dev, 0);
	if (result || !blk_mq_add_to_batch(rq, batch, 0, blk_mq_end_request_batch))
		blk_mq_end_request(rq, errno_to_blk_status(result));
	return good;
}

/* Have batched requests ended. Return: what ENTER says of those that were refused. */
static unsigned int blk_end_batch(struct usrloop_end *end, struct io_comp_batch *batch,
				  unsigned int refused)
{
	if (batch->complete)
		batch->complete(batch);
	if (likely(!refused))
		return 0;
	atomic64_add(refused, &end->queue->dev->refused);
	return USRLOOP_READY_REFUSED;
}

bool usrloop_blk_finish(struct usrloop_end *end, u32 tag, u32 seq)
{
	const struct usrloop_cqe cqe = { .tag = tag, .seq = seq };
	DEFINE_IO_COMP_BATCH(batch);

	return !blk_end_batch(end, &batch, !blk_take_completion(end, &cqe, &batch, true));
}

unsigned int usrloop_blk_collect(struct usrloop_end *end)
{
	/* Pairs with the server's release: what it wrote before is there. */
	u32 tail = smp_load_acquire(&end->ring->cq_tail);
	DEFINE_IO_COMP_BATCH(batch);
	unsigned int refused = 0;

	if (end->cq_head == tail)
		return 0;
	if (unlikely(tail - end->cq_head > end->mask + 1)) {
		/* More than the ring can hold: nonsense. What it holds may be read all the same. */
		refused = 1;
		end->cq_head = tail - (end->mask + 1);
	}
	while (end->cq_head != tail) {
		/* Read once: the server can write to the entry at any time. */
		struct usrloop_cqe cqe = {
			.tag = READ_ONCE(end->cq[end->cq_head & end->mask].tag),
			.seq = READ_ONCE(end->cq[end->cq_head & end->mask].seq),
			.result = READ_ONCE(end->cq[end->cq_head & end->mask].result),
			.reserved = READ_ONCE(end->cq[end->cq_head & end->mask].reserved),
		};

		end->cq_head++;
		refused += !blk_take_completion(end, &cqe, &batch, false);
	}
	return blk_end_batch(end, &batch, refused);
}

/* Do to each request that is in state @from what the caller wants. */
static void blk_move_slots(struct usrloop_queue *q, enum usrloop_slot_state from,
			   enum usrloop_slot_state to)
{
	u32 i;

	for (i = 0; i < q->dev->info.depth; i++) {
		struct usrloop_slot *slot = &q->slot[i];
		u32 word = atomic_read(&slot->word), seq = usrloop_slot_seq(word);

		if (usrloop_slot_state(word) != from ||
		    !usrloop_slot_move(slot, seq, from, to == SLOT_FREE ? SLOT_BUSY : to))
			continue;
		if (to == SLOT_FREE)
			blk_mq_end_request(blk_free_slot(slot, seq), BLK_STS_IOERR);
	}
}

/* Of what a server died with, end that of which others died before. */
static void blk_fail_guilty(struct usrloop_queue *q)
{
	u32 i;

	for (i = 0; i < q->dev->info.depth; i++) {
		struct usrloop_slot *slot = &q->slot[i];
		u32 word = atomic_read(&slot->word), seq = usrloop_slot_seq(word);

		if (usrloop_slot_state(word) == SLOT_SERVED && usrloop_alone_blame(q, slot) &&
		    usrloop_slot_move(slot, seq, SLOT_SERVED, SLOT_BUSY))
			blk_mq_end_request(blk_free_slot(slot, seq), BLK_STS_IOERR);
	}
}

void usrloop_blk_detached(struct usrloop_queue *q, bool fail_lost, bool fail_held)
{
	if (!fail_lost)
		blk_fail_guilty(q);
	usrloop_alone_forget(q);
	blk_move_slots(q, SLOT_SERVED, fail_lost ? SLOT_FREE : SLOT_HELD);
	if (fail_held)
		blk_move_slots(q, SLOT_HELD, SLOT_FREE);
}

/*
 * Send a request that was held, if it is one. One that cannot be mapped now stays, and keeps its
 * points: the block layer could give it another slot. It is tried again later. dev->lock held; the
 * queue has a server. Return: false: it was held and is ended.
 */
static bool blk_send_again(struct usrloop_queue *q, u32 tag)
{
	struct usrloop_slot *slot = &q->slot[tag];
	u32 word = atomic_read(&slot->word), seq = usrloop_slot_seq(word);
	blk_status_t status;
	struct request *rq;

	if (usrloop_slot_state(word) != SLOT_HELD ||
	    !usrloop_slot_move(slot, seq, SLOT_HELD, SLOT_BUSY))
		return true;
	rq = slot->request;
	WRITE_ONCE(slot->since, usrloop_clock());
	rcu_read_lock();
	status = blk_dispatch(q, rq, true, true);
	rcu_read_unlock();
	if (status == BLK_STS_RESOURCE) {
		usrloop_dev_resend(q->dev, msecs_to_jiffies(RETRY_MS));
		return true;
	}
	if (status)
		blk_mq_end_request(rq, status);
	return !status;
}

static void blk_send_held(struct usrloop_queue *q)
{
	u32 i;

	for (i = 0; i < q->dev->info.depth; i++)
		blk_send_again(q, i);
}

/*
 * Send the next request that has to be alone, or all when there is none left. dev->lock held; all
 * queues have a server.
 */
static void blk_send_alone(struct usrloop_dev *dev)
{
	struct usrloop_queue *q;
	unsigned int i;
	u32 tag;

	do {
		if (usrloop_alone_next(dev, &q, &tag))
			return;
	} while (q && !blk_send_again(q, tag));
	if (q)
		return;
	WRITE_ONCE(dev->alone, false);
	for (i = 0; i < dev->info.queues; i++) {
		q = &dev->queue[i];
		/* A request that saw the old value has been noted by then as one that waits. */
		spin_lock(&q->lock);
		spin_unlock(&q->lock);
		blk_send_held(q);
	}
}

void usrloop_blk_attached(struct usrloop_queue *q)
{
	if (!q->dev->alone)
		blk_send_held(q);
	else if (q->index == q->dev->info.queues - 1)
		blk_send_alone(q->dev);
}
