// SPDX-License-Identifier: MIT
/*
 * Between the data path and the error policy: a channel that met an error is
 * frozen and described by an event; the control plane takes the event, does
 * what it sees fit with the registers, and resumes the channel with a verdict.
 */
#include <errno.h>
#include <string.h>

#include "ide.h"

/**
 * ide_freeze - stop using a channel and tell the control plane why
 * @ch:		channel, locked
 * @event:	copied
 */
void ide_freeze(struct ide_channel *ch, const struct ide_event *event)
{
	struct ide *ide = ch->ide;

	ch->state = IDE_FROZEN;
	pthread_mutex_lock(&ide->event_lock);
	ch->event = *event;
	ch->event_pending = 1;
	pthread_cond_signal(&ide->event_cond);
	pthread_mutex_unlock(&ide->event_lock);
}

/**
 * ide_post_gone - tell the control plane that the device vanished, or refuses what it is told
 * @ide:	controller
 */
void ide_post_gone(struct ide *ide)
{
	pthread_mutex_lock(&ide->event_lock);
	ide->event_gone = 1;
	pthread_cond_signal(&ide->event_cond);
	pthread_mutex_unlock(&ide->event_lock);
}

/**
 * ide_post_unserved - tell the control plane that usrloop wants nothing of us any more
 * @ide:	controller
 */
void ide_post_unserved(struct ide *ide)
{
	pthread_mutex_lock(&ide->event_lock);
	ide->event_unserved = 1;
	pthread_cond_signal(&ide->event_cond);
	pthread_mutex_unlock(&ide->event_lock);
}

/*
 * What is about the device rather than a channel. event_lock held. Returns whether there is something.
 * Who takes the disk from us may take the device as well, and then that is all there is to it.
 */
static int take_device_event(struct ide *ide, struct ide_event *event)
{
	int *pending = ide->event_unserved ? &ide->event_unserved : &ide->event_gone;

	if (!*pending)
		return 0;
	memset(event, 0, sizeof(*event));
	event->kind = pending == &ide->event_gone ? IDE_EVENT_GONE : IDE_EVENT_UNSERVED;
	event->error = (uint8_t)atomic_load(&ide->gone);
	*pending = 0;
	return 1;
}

/**
 * ide_wait_event - sleep until a channel needs a decision
 * @ide:	controller
 * @channel:	which one
 * @event:	why
 *
 * For one thread of the control plane, which calls ide_resume() for each
 * event but IDE_EVENT_GONE and IDE_EVENT_UNSERVED.
 *
 * Return: 0; -ESHUTDOWN after ide_stop().
 */
int ide_wait_event(struct ide *ide, unsigned int *channel, struct ide_event *event)
{
	int ret = -EAGAIN;

	pthread_mutex_lock(&ide->event_lock);
	while (ret == -EAGAIN) {
		if (atomic_load(&ide->stop)) {
			ret = -ESHUTDOWN;
			break;
		}
		if (take_device_event(ide, event)) {
			*channel = 0;
			ret = 0;
			break;
		}
		for (unsigned int i = 0; i < IDE_CHANNELS && ret; i++) {
			if (!ide->channel[i].event_pending)
				continue;
			ide->channel[i].event_pending = 0;
			*channel = i;
			*event = ide->channel[i].event;
			ret = 0;
		}
		if (ret)
			pthread_cond_wait(&ide->event_cond, &ide->event_lock);
	}
	pthread_mutex_unlock(&ide->event_lock);
	return ret;
}

/**
 * ide_resume - let a frozen channel go on
 * @ide:	controller
 * @channel:	0 or 1
 * @verdict:	enum ide_verdict, for the command that froze it
 * @err:	-errno, for IDE_FAIL
 *
 * Return: 0, -EINVAL if the channel is not frozen, -ENODEV.
 */
int ide_resume(struct ide *ide, unsigned int channel, int verdict, int err)
{
	struct ide_channel *ch = &ide->channel[channel];

	pthread_mutex_lock(&ch->lock);
	if (ch->state != IDE_FROZEN) {
		int ret = ch->state == IDE_DEAD ? -ENODEV : -EINVAL;

		ide_unlock(ch);
		return ret;
	}
	if (ch->cmd.segments) {
		switch (verdict) {
		case IDE_RETRY:
		case IDE_SPLIT:
			ch->count.retries++;
			ide_requeue(ch, verdict == IDE_SPLIT);
			break;
		case IDE_FAIL:
			ide_finish_segments(ch, err ? err : -EIO);
			break;
		default:
			ide_finish_segments(ch, 0);
		}
	}
	/* the control plane wrote registers of its own */
	ch->device_reg = -1;
	ch->features_reg = -1;
	ch->bm_cmd = -1;
	ch->state = IDE_IDLE;
	ide_unlock(ch);
	ide_run_channel(ch);
	return 0;
}
