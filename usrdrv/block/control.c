// SPDX-License-Identifier: MIT
/*
 * What the control plane tells channels: to go on after an error, and how; to pause; that a disk is out of service. And the
 * end of all. From any thread, no channel locked.
 */
#include <errno.h>

#include "front.h"

/* End what waits in the queue: of this unit; NULL: all. */
static void fail_queue(struct block_channel *ch, const struct block_unit *unit, int err)
{
	struct block_segment **link = &ch->queue;

	while (*link) {
		struct block_segment *s = *link;

		if (!unit || s->unit == unit) {
			*link = s->next;
			block_end_segment(ch, s, err);
		} else {
			link = &s->next;
		}
	}
	ch->queue_tail = link;
}

/* Take the command that the control plane has decided about; NULL: the channel was frozen without one. */
static struct block_command *next_failed(struct block_channel *ch)
{
	struct block_command *cmd = ch->failed;

	if (!cmd)
		return NULL;
	ch->failed = cmd->next;
	if (!ch->failed)
		ch->failed_tail = &ch->failed;
	return cmd;
}

/* End all commands, at the chip or failed. */
static void end_all(struct block_channel *ch, int status)
{
	struct block_command *cmd;

	for (unsigned int i = 0; i < ch->depth; i++)
		if (ch->command[i].flying)
			block_end(ch, &ch->command[i], status);
	while ((cmd = next_failed(ch)))
		block_end_segments(ch, cmd, status);
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
		end_all(ch, -ENODEV);
		fail_queue(ch, NULL, -ENODEV);
		block_unlock(ch);
	}
	block_post_gone(front);
}

/* Put the segments of a command that failed back in front of the queue. alone: they must not be joined again. */
static void requeue(struct block_channel *ch, struct block_command *cmd, int alone)
{
	struct block_segment *s, **link = &cmd->segments;

	for (s = cmd->segments; s; s = s->next) {
		s->alone |= (uint8_t)alone;
		if (s->tries < UINT8_MAX)
			s->tries++;
		link = &s->next;
	}
	*link = ch->queue;
	if (!ch->queue)
		ch->queue_tail = link;
	ch->queue = cmd->segments;
	cmd->segments = NULL;
	cmd->next = ch->idle;
	ch->idle = cmd;
}

static void carry_out(struct block_channel *ch, struct block_command *cmd, int verdict, int err)
{
	switch (verdict) {
	case BLOCK_RETRY:
	case BLOCK_SPLIT:
		ch->count->retries++;
		requeue(ch, cmd, verdict == BLOCK_SPLIT);
		break;
	case BLOCK_FAIL:
		block_end_segments(ch, cmd, err ? err : -EIO);
		break;
	default:
		block_end_segments(ch, cmd, 0);
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
	cmd = next_failed(ch);
	if (cmd)
		carry_out(ch, cmd, verdict, err);
	if (ch->failed) {
		block_freeze(ch, ch->failed);
	} else {
		front->ops->resumed(ch);
		ch->state = BLOCK_OPEN;
	}
	block_run(ch);
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
	block_run(ch);
	if (dead)
		return -ENODEV;
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
		fail_queue(ch, u, err);
		block_unlock(ch);
	}
	return 0;
}
