// SPDX-License-Identifier: GPL-2.0
/*
 * A request is ended in the handler of the interrupt that its device raises for it, without waking
 * its server. The server has described, as a list of steps, how the device reports the end of a
 * request and how the interrupt is acknowledged.
 *
 * The steps are for registers of the function that the server has claimed, which it reaches anyway.
 * A word in the ring says where an interrupt goes: armed, to the handler here, once, for the
 * request that is named beside it; else to the server.
 */
#include <linux/pci.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "compat.h"
#include "usrloop.h"

#if IS_ENABLED(CONFIG_USRDRV)
#include "zerocopy.h"

/* A step, and where its register is. */
struct finish_step {
	struct usrloop_step is;
	void __iomem *at;
};

struct usrloop_finish_steps {
	struct usrdrv_irq_filter filter;
	struct usrloop_end *end;
	struct pci_dev *pdev;		/* of the session's claim */
	u32 tag, seq;			/* the handler's */
	unsigned int n;
	struct finish_step step[USRLOOP_STEPS];
};

static u32 finish_get(const struct finish_step *step)
{
	switch (step->is.width) {
	case 1:
		return ioread8(step->at);
	case 2:
		return ioread16(step->at);
	}
	return ioread32(step->at);
}

static void finish_put(const struct finish_step *step, u32 value)
{
	switch (step->is.width) {
	case 1:
		iowrite8(value, step->at);
		break;
	case 2:
		iowrite16(value, step->at);
		break;
	default:
		iowrite32(value, step->at);
	}
}

/* Take the steps, up to the first that finds something else than it expects. */
static enum usrdrv_irq_verdict finish_run(const struct usrloop_finish_steps *f)
{
	u32 first = finish_get(&f->step[0]);
	unsigned int i;

	/* It has only been looked at: the interrupt may be another device's. */
	if ((first & f->step[0].is.mask) != f->step[0].is.value)
		return USRDRV_IRQ_LEFT;
	for (i = 1; i < f->n; i++) {
		const struct usrloop_step *is = &f->step[i].is;

		if (is->op == USRLOOP_STEP_WRITE)
			finish_put(&f->step[i], (first >> is->shift & is->mask) | is->value);
		else if ((finish_get(&f->step[i]) & is->mask) != is->value)
			return USRDRV_IRQ_PASSED;
	}
	return USRDRV_IRQ_TAKEN;
}

static enum usrdrv_irq_verdict finish_take(struct usrdrv_irq_filter *filter)
{
	struct usrloop_finish_steps *f = container_of(filter, struct usrloop_finish_steps, filter);
	struct usrloop_ring *ring = f->end->ring;
	enum usrdrv_irq_verdict verdict;

	/* The device has another server now, and the interrupt is that one's. */
	if (rcu_access_pointer(f->end->queue->end) != f->end)
		return USRDRV_IRQ_LEFT;
	/* A barrier: what the server named before is there. */
	if (cmpxchg(&ring->finish, USRLOOP_FINISH_ARMED, USRLOOP_FINISH_TAKING) !=
	    USRLOOP_FINISH_ARMED)
		return USRDRV_IRQ_LEFT;
	f->tag = READ_ONCE(ring->finish_tag);
	f->seq = READ_ONCE(ring->finish_seq);
	verdict = finish_run(f);
	if (verdict != USRDRV_IRQ_TAKEN) {
		/* Another device's; or for the server, which disarms before it looks. */
		smp_store_release(&ring->finish, USRLOOP_FINISH_ARMED);
	}
	return verdict;
}

static bool finish_taken(struct usrdrv_irq_filter *filter)
{
	struct usrloop_finish_steps *f = container_of(filter, struct usrloop_finish_steps, filter);
	struct usrloop_end *end = f->end;
	bool ended = end->queue->dev->kind->finish(end, f->tag, f->seq);

	/* The server reads it with acquire: by then the request is ended, if there was one. */
	smp_store_release(&end->ring->finish, USRLOOP_FINISH_DONE);
	return ended;
}

static int finish_check_step(struct pci_dev *pdev, const struct usrloop_step *is, bool first)
{
	/* What comes without a look at the device may be another's interrupt. */
	if (first && (is->op != USRLOOP_STEP_EXPECT || !is->mask))
		return -EINVAL;
	if (is->op != USRLOOP_STEP_EXPECT && is->op != USRLOOP_STEP_WRITE)
		return -EINVAL;
	if (is->bar >= PCI_STD_NUM_BARS || is->shift > 31 ||
	    (is->op == USRLOOP_STEP_EXPECT && is->shift))
		return -EINVAL;
	if ((is->width != 1 && is->width != 2 && is->width != 4) || is->offset % is->width ||
	    (u64)is->offset + is->width > pci_resource_len(pdev, is->bar))
		return -EINVAL;
	return 0;
}

static void finish_free_steps(struct usrloop_finish_steps *f)
{
	unsigned int i;

	for (i = 0; i < f->n; i++)
		pci_iounmap(f->pdev, f->step[i].at);
	kfree(f);
}

/* The claim was entered. */
static struct usrloop_finish_steps *finish_make_steps(struct pci_dev *pdev,
						      const struct usrloop_finish *want)
{
	struct usrloop_finish_steps *f;
	int ret;

	f = kzalloc(sizeof(*f), GFP_KERNEL_ACCOUNT);
	if (!f)
		return ERR_PTR(-ENOMEM);
	f->filter.take = finish_take;
	f->filter.taken = finish_taken;
	f->pdev = pdev;
	for (; f->n < want->steps; f->n++) {
		struct finish_step *step = &f->step[f->n];

		step->is = want->step[f->n];
		ret = finish_check_step(pdev, &step->is, !f->n);
		if (ret)
			goto err_free;
		ret = -ENOMEM;
		step->at = pci_iomap_range(pdev, step->is.bar, step->is.offset, step->is.width);
		if (!step->at)
			goto err_free;
	}
	return f;

err_free:
	finish_free_steps(f);
	return ERR_PTR(ret);
}

/* Forget the steps of a queue. Nobody is in ENTER. */
void usrloop_finish_clear(struct usrloop_end *end)
{
	if (end->finish) {
		usrdrv_claim_irq_unfilter(end->zc->claim, &end->finish->filter);
		finish_free_steps(end->finish);
	}
	end->finish = NULL;
}

static int finish_set_steps(struct usrloop_end *end, const struct usrloop_finish *want)
{
	struct usrdrv_claim *claim = end->zc->claim;
	struct usrloop_finish_steps *f;
	unsigned int flags;
	int index, ret;

	usrloop_finish_clear(end);
	if (!want->steps)
		return 0;
	index = usrloop_zc_enter(end->zc);
	if (index < 0)
		return index;
	/* Memory must not be had by waiting for this disk, whose end waits for the claim. */
	flags = memalloc_noio_save();
	f = finish_make_steps(usrdrv_claim_pci_dev(claim), want);
	memalloc_noio_restore(flags);
	usrloop_zc_exit(end->zc, index);
	if (IS_ERR(f))
		return PTR_ERR(f);
	f->end = end;
	ret = usrdrv_claim_irq_filter(claim, &f->filter);
	if (ret) {
		finish_free_steps(f);
		return ret;
	}
	end->finish = f;
	return 0;
}

/**
 * usrloop_finish_set() - learn how a queue's device tells that a request is done, or forget it
 * @session:	of the server's file
 * @want:	replaces what there was, which is forgotten even if this fails
 *
 * Context: process.
 * Return: 0; -EOPNOTSUPP the device is none of a claimed function's, or an interface; -EBUSY
 * a thread is in ENTER for that queue, or another queue has steps for that function; -ENODEV the
 * claim has ended; -EINVAL, -ENOMEM.
 */
int usrloop_finish_set(struct usrloop_session *session, const struct usrloop_finish *want)
{
	struct usrloop_end *end;
	int ret;

	if (!session->zc || !session->dev->kind->finish)
		return -EOPNOTSUPP;
	if (want->queue >= session->dev->info.queues || want->steps > USRLOOP_STEPS ||
	    memchr_inv(&want->step[want->steps], 0,
		       sizeof(want->step) - want->steps * sizeof(want->step[0])))
		return -EINVAL;
	end = &session->end[want->queue];
	if (test_and_set_bit_lock(0, &end->entered))
		return -EBUSY;
	ret = finish_set_steps(end, want);
	clear_bit_unlock(0, &end->entered);
	return ret;
}
#endif
