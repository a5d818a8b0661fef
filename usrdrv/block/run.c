// SPDX-License-Identifier: MIT
/*
 * Who runs a channel. A thread that submits starts the command itself if the channel has room; all else is the main
 * dispatcher's (docs/design/submission.md).
 */
#include <errno.h>
#include <time.h>

#include "front.h"

#define SERVICE_ROUNDS	64	/* commands a submitter completes for others before it leaves */

static void hold(struct block_front *front)
{
	if (front->dev->ops->irq_hold)
		front->dev->ops->irq_hold(front->dev);
}

static int release(struct block_front *front)
{
	return front->dev->ops->irq_release ? front->dev->ops->irq_release(front->dev) : 0;
}

static int is_main(const struct block_front *front)
{
	return pthread_equal(pthread_self(), front->dispatcher->thread);
}

static void count(struct block_channel *ch, const struct block_command *cmd)
{
	ch->count->commands++;
	switch (cmd->op) {
	case USRDRV_BLOCK_READ:
		ch->count->reads += cmd->count;
		ch->count->sectors_read += cmd->sectors;
		break;
	case USRDRV_BLOCK_WRITE:
		ch->count->writes += cmd->count;
		ch->count->sectors_written += cmd->sectors;
		break;
	case USRDRV_BLOCK_FLUSH:
		ch->count->flushes++;
		break;
	case USRDRV_BLOCK_TRIM:
		ch->count->trims++;
		break;
	}
}

/* Whether a command ends without the chip, and how. */
static int ends_here(const struct block_command *cmd, int *status)
{
	const struct block_unit *u = cmd->unit;

	*status = u->offline;
	if (u->offline)
		return 1;
	/* nothing is cached; or a hint that only the chip's engine could pass on, which may be dropped */
	if ((cmd->op == USRDRV_BLOCK_FLUSH && !u->block.can_flush) || (cmd->op == USRDRV_BLOCK_TRIM && u->by_cpu))
		return 1;
	/* the control plane keeps a unit with zero copy from this: the CPU has no address of the data */
	if (u->by_cpu && cmd->segments->table) {
		*status = -EIO;
		return 1;
	}
	return 0;
}

/* Set a command off; the kernel may end it from then on, if it is the dispatcher that does so. */
static void set_off(struct block_channel *ch, struct block_command *cmd, struct block_list *l,
		    const struct usrdrv_write *go)
{
	struct block_orders *o = atomic_load(&ch->front->dispatcher->orders);

	if (o && o->channel == ch && is_main(ch->front) && o->finishes)
		block_arm_before(o, ch, cmd, l);
	block_put(ch, l, go->region, go->offset, go->width, go->value);
}

/**
 * block_start_commands - start as many commands as the channel can take and has
 * @ch:	channel, locked
 * @l:	gathers the writes; the caller hands them to the device
 */
void block_start_commands(struct block_channel *ch, struct block_list *l)
{
	struct block_front *front = ch->front;
	struct block_command *cmd;

	if (ch->pause && ch->state == BLOCK_OPEN) {
		if (!ch->flying && !block_flush_list(ch, l))
			block_freeze_idle(ch);
		return;
	}
	while (ch->state == BLOCK_OPEN && (cmd = block_next_command(ch))) {
		struct usrdrv_write go = { .width = 0 };
		int status;

		if (ends_here(cmd, &status)) {
			block_end(ch, cmd, status);
			continue;
		}
		cmd->started = block_now_ms();
		cmd->deadline = cmd->started + (cmd->op == USRDRV_BLOCK_READ || cmd->op == USRDRV_BLOCK_WRITE ?
						front->limits.rw_ms : block_flush_ms(ch, cmd));
		atomic_fetch_add_explicit(&front->activity, 1, memory_order_relaxed);
		count(ch, cmd);
		front->ops->start(ch, cmd, l, &go);
		if (go.width)
			set_off(ch, cmd, l, &go);
	}
}

/**
 * block_service - service interrupts until there is none left
 * @front:	front end, no channel locked
 *
 * The caller has an interrupt that is masked until this is done.
 */
void block_service(struct block_front *front)
{
	const struct block_chip_ops *ops = front->ops;
	struct usrdrv_dev *dev = front->dev;
	unsigned int rounds = 0;
	int again;

	do {
		struct block_list l = { .n = 0 };
		int mine = 0, err;

		hold(front);
		for (unsigned int i = 0; i < front->channels; i++) {
			struct block_channel *ch = front->channel[i];

			pthread_mutex_lock(&ch->lock);
			if (block_busy(ch)) {
				mine |= ops->interrupt(ch, &l);
				block_start_commands(ch, &l);
				/*
				 * Nobody else may find the channel with writes outstanding: once it is free, a late
				 * acknowledgement would hit another command's interrupt; and a dispatcher that looks
				 * after a busy one would take the last command's interrupt for that of the next. Where
				 * submitters service interrupts (irq_release) one of them may be here as well.
				 */
				if (!block_busy(ch) || ch->idle || !is_main(front) || dev->ops->irq_release)
					block_flush_list(ch, &l);
			}
			block_unlock(ch);
		}
		for (unsigned int i = 0; i < front->channels && !mine; i++) {
			struct block_channel *ch = front->channel[i];

			pthread_mutex_lock(&ch->lock);
			if (ch->state != BLOCK_DEAD && !block_busy(ch))
				ops->idle_interrupt(ch, &l);
			block_flush_list(ch, &l);
			block_unlock(ch);
		}
		err = atomic_load(&front->unmasks) ? dev->ops->write_list(dev, l.w, l.n) :
						     dev->ops->irq_unmask(dev, l.w, l.n);
		if (err)
			block_lost(front, err);
		again = release(front);
	} while (again && ++rounds < SERVICE_ROUNDS && !atomic_load(&front->gone));
	if (again) {
		atomic_store(&front->service, 1);
		block_kick(front);
	}
}

/**
 * block_run_channel - start what a channel can take
 * @ch:	channel, not locked
 *
 * If the device completes it before this returns, as the in-process model
 * does, the completion is serviced right here: no thread is switched to.
 */
void block_run_channel(struct block_channel *ch)
{
	struct block_front *front = ch->front;
	struct block_list l = { .n = 0 };
	int interrupted, watched;

	pthread_mutex_lock(&ch->lock);
	if (ch->state != BLOCK_OPEN || !ch->idle || !(ch->queue || ch->pause)) {
		block_unlock(ch);
		return;
	}
	hold(front);
	block_start_commands(ch, &l);
	block_flush_list(ch, &l);
	interrupted = release(front);
	block_unlock(ch);
	if (interrupted)
		block_service(front);
	if (atomic_load(&front->asleep)) {
		pthread_mutex_lock(&ch->lock);
		watched = !block_busy(ch);
		block_unlock(ch);
		/* a command stays under way and the dispatcher has no time-out: it must have one now */
		if (!watched)
			block_kick(front);
	}
}

/**
 * block_watch - look at all busy channels once in a while
 * @front:	front end, no channel locked
 *
 * Return: whether there were any.
 */
int block_watch(struct block_front *front)
{
	uint64_t now = block_now_ms();
	int any = 0, interrupted;

	hold(front);
	for (unsigned int i = 0; i < front->channels; i++) {
		struct block_channel *ch = front->channel[i];
		struct block_list l = { .n = 0 };

		pthread_mutex_lock(&ch->lock);
		if (block_busy(ch)) {
			any = 1;
			front->ops->watch(ch, &l, now);
			block_start_commands(ch, &l);
			block_flush_list(ch, &l);
		}
		block_unlock(ch);
	}
	interrupted = release(front);
	if (interrupted)
		block_service(front);
	return any;
}

/**
 * block_any_busy - whether a command is at the chip
 * @front:	front end, no channel locked
 *
 * Return: 1 or 0.
 */
int block_any_busy(struct block_front *front)
{
	int any = 0;

	for (unsigned int i = 0; i < front->channels; i++) {
		pthread_mutex_lock(&front->channel[i]->lock);
		any |= block_busy(front->channel[i]);
		block_unlock(front->channel[i]);
	}
	return any;
}

/**
 * block_poll_chip - end what is done, without an interrupt
 * @front:	front end, no channel locked
 *
 * Return: whether something was.
 */
int block_poll_chip(struct block_front *front)
{
	int mine = 0;

	for (unsigned int i = 0; i < front->channels; i++) {
		struct block_channel *ch = front->channel[i];
		struct block_list l = { .n = 0 };

		pthread_mutex_lock(&ch->lock);
		if (block_busy(ch)) {
			mine |= front->ops->interrupt(ch, &l);
			block_start_commands(ch, &l);
			block_flush_list(ch, &l);
		}
		block_unlock(ch);
	}
	return mine;
}

/**
 * block_fail_everything - the device's end: end all requests with -ENODEV
 * @front:	front end, no channel locked
 */
void block_fail_everything(struct block_front *front)
{
	for (unsigned int i = 0; i < front->channels; i++) {
		struct block_channel *ch = front->channel[i];

		pthread_mutex_lock(&ch->lock);
		ch->state = BLOCK_DEAD;
		block_end_all(ch, -ENODEV);
		block_fail_queue(ch, NULL, -ENODEV);
		block_unlock(ch);
	}
	block_post_gone(front);
}

static void carry_out(struct block_channel *ch, struct block_command *cmd, int verdict, int err)
{
	switch (verdict) {
	case BLOCK_RETRY:
	case BLOCK_SPLIT:
		ch->count->retries++;
		block_requeue(ch, cmd, verdict == BLOCK_SPLIT);
		break;
	case BLOCK_FAIL:
		block_end_failed(ch, cmd, err ? err : -EIO);
		break;
	default:
		block_end_failed(ch, cmd, 0);
	}
}

/**
 * block_resume - let a frozen channel go on, or hear of the next command that failed
 * @front:	front end
 * @channel:	its number
 * @verdict:	enum block_verdict, for the command of the last event
 * @err:	-errno, for BLOCK_FAIL
 *
 * Return: 0, -EINVAL if the channel is not frozen, -ENODEV.
 */
int block_resume(struct block_front *front, unsigned int channel, int verdict, int err)
{
	struct block_channel *ch = front->channel[channel];
	struct block_command *cmd;

	pthread_mutex_lock(&ch->lock);
	if (ch->state != BLOCK_FROZEN) {
		int ret = ch->state == BLOCK_DEAD ? -ENODEV : -EINVAL;

		block_unlock(ch);
		return ret;
	}
	cmd = block_next_failed(ch);
	if (cmd)
		carry_out(ch, cmd, verdict, err);
	if (ch->failed) {
		block_freeze(ch, ch->failed);
	} else {
		front->ops->resumed(ch);
		ch->state = BLOCK_OPEN;
	}
	block_unlock(ch);
	block_run_channel(ch);
	return 0;
}

/**
 * block_pause - freeze a channel when no command is at the chip
 * @front:	front end
 * @channel:	its number
 *
 * For the control plane, which gets BLOCK_EVENT_PAUSED, has the registers then, and resumes the channel. From any thread.
 *
 * Return: 0, -ENODEV.
 */
int block_pause(struct block_front *front, unsigned int channel)
{
	struct block_channel *ch = front->channel[channel];
	int dead;

	pthread_mutex_lock(&ch->lock);
	dead = ch->state == BLOCK_DEAD;
	ch->pause = !dead;
	block_unlock(ch);
	if (dead)
		return -ENODEV;
	block_run_channel(ch);
	block_kick(front);	/* the command that is at the chip may end without anybody being woken */
	return 0;
}

/**
 * block_offline - fail every request of a unit from now on
 * @front:	front end
 * @unit:	its number; its channels are frozen
 * @err:	-errno for each; 0: the unit is back
 *
 * Return: 0, -EINVAL for a bad number.
 */
int block_offline(struct block_front *front, unsigned int unit, int err)
{
	struct block_unit *u = unit < BLOCK_MAX_UNITS ? &front->unit[unit] : NULL;

	if (!u || !u->front)
		return -EINVAL;
	u->offline = err;
	for (unsigned int i = 0; i < u->channels && err; i++) {
		struct block_channel *ch = u->channel[i];

		pthread_mutex_lock(&ch->lock);
		block_fail_queue(ch, u, err);
		block_unlock(ch);
	}
	return 0;
}
