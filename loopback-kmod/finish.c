// SPDX-License-Identifier: GPL-2.0
/*
 * A request that is done is ended in its server's ENTER, which does not have to return for that:
 * the server has said beforehand, as a list of steps, how its device tells that it is done, and how
 * it is told that this was heard.
 *
 * The steps are for registers of the function that the server has claimed, which it reaches anyway.
 */
#include <linux/pci.h>
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
	struct pci_dev *pdev;		/* of the session's claim */
	unsigned int index;		/* of the eventfd */
	unsigned int n;
	struct finish_step step[USRLOOP_STEPS];
};

static u32 get(const struct finish_step *step)
{
	switch (step->is.width) {
	case 1:
		return ioread8(step->at);
	case 2:
		return ioread16(step->at);
	}
	return ioread32(step->at);
}

static void put(const struct finish_step *step, u32 value)
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

/* Return: whether each expectation was met; else nothing was done after the first that was not. */
static bool run(const struct usrloop_finish_steps *f)
{
	bool any = false;
	unsigned int i;
	u32 first = 0;

	for (i = 0; i < f->n; i++) {
		const struct usrloop_step *is = &f->step[i].is;

		if (is->op == USRLOOP_STEP_EXPECT) {
			u32 value = get(&f->step[i]);

			if (!any)
				first = value;
			any = true;
			if ((value & is->mask) != is->value)
				return false;
		} else {
			put(&f->step[i], (first >> is->shift & is->mask) | is->value);
		}
	}
	return true;
}

/**
 * usrloop_finish() - end a request whose device says that it is done with it
 * @end:	of the thread in ENTER, which is the caller
 * @tag:	what the server says of the request
 * @seq:	likewise
 *
 * Context: process, no locks.
 * Return: 0, or USRLOOP_READY_REFUSED: no such request is in flight; -EAGAIN the device says
 * nothing of the kind: it is the server's to look at.
 */
int usrloop_finish(struct usrloop_end *end, u32 tag, u32 seq)
{
	const struct usrloop_finish_steps *f = end->finish;
	struct eventfd_ctx *ack = end->event[f->index].ack;
	int index, ret;
	bool done;

	if (READ_ONCE(end->events) != BIT(f->index))
		return -EAGAIN;
	index = usrloop_zc_enter(end->zc);
	if (index < 0)
		return -EAGAIN;
	/* Before the device is told: the next one may be there at once. */
	clear_bit(f->index, &end->events);
	done = run(f);
	if (!done)
		set_bit(f->index, &end->events);
	usrloop_zc_exit(end->zc, index);
	if (!done)
		return -EAGAIN;
	ret = end->queue->dev->kind->finish(end, tag, seq);
	if (ack)
		usrloop_signal(ack);
	return ret;
}

static int check_step(struct pci_dev *pdev, const struct usrloop_step *is)
{
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

static void free_steps(struct usrloop_finish_steps *f)
{
	unsigned int i;

	for (i = 0; i < f->n; i++)
		pci_iounmap(f->pdev, f->step[i].at);
	kfree(f);
}

/* The claim was entered. */
static struct usrloop_finish_steps *make_steps(struct pci_dev *pdev,
					       const struct usrloop_finish *want)
{
	struct usrloop_finish_steps *f;
	int ret = 0;

	f = kzalloc(sizeof(*f), GFP_KERNEL_ACCOUNT);
	if (!f)
		return ERR_PTR(-ENOMEM);
	f->pdev = pdev;
	f->index = want->index;
	while (f->n < want->steps && !ret) {
		struct finish_step *step = &f->step[f->n];

		step->is = want->step[f->n];
		ret = check_step(pdev, &step->is);
		if (ret)
			break;
		step->at = pci_iomap_range(pdev, step->is.bar, step->is.offset, step->is.width);
		if (step->at)
			f->n++;
		else
			ret = -ENOMEM;
	}
	if (!ret)
		return f;
	free_steps(f);
	return ERR_PTR(ret);
}

/* Forget the steps of a queue. Nobody is in ENTER. */
void usrloop_finish_clear(struct usrloop_end *end)
{
	if (end->finish)
		free_steps(end->finish);
	end->finish = NULL;
}

static int set_steps(struct usrloop_end *end, const struct usrloop_finish *want)
{
	struct usrloop_finish_steps *f;
	int index;

	usrloop_finish_clear(end);
	if (!want->steps)
		return 0;
	index = usrloop_zc_enter(end->zc);
	if (index < 0)
		return index;
	f = make_steps(usrdrv_claim_pci_dev(end->zc->claim), want);
	usrloop_zc_exit(end->zc, index);
	if (IS_ERR(f))
		return PTR_ERR(f);
	end->finish = f;
	return 0;
}

/**
 * usrloop_finish_set() - learn how a queue's device tells that a request is done, or forget it
 * @session:	of the server's file
 * @want:	replaces what there was
 *
 * Context: process.
 * Return: 0; -EOPNOTSUPP the device is none of a claimed function's, or an interface; -EBUSY
 * somebody is in ENTER for that queue; -ENODEV the claim has ended; -EINVAL, -ENOMEM.
 */
int usrloop_finish_set(struct usrloop_session *session, const struct usrloop_finish *want)
{
	struct usrloop_end *end;
	int ret;

	if (!session->zc || !session->dev->kind->finish)
		return -EOPNOTSUPP;
	if (want->queue >= session->dev->info.queues || want->index >= USRLOOP_EVENTFDS ||
	    want->steps > USRLOOP_STEPS || want->reserved)
		return -EINVAL;
	end = &session->end[want->queue];
	if (test_and_set_bit_lock(0, &end->entered))
		return -EBUSY;
	ret = set_steps(end, want);
	clear_bit_unlock(0, &end->entered);
	return ret;
}
#endif
