// SPDX-License-Identifier: MIT
/*
 * Between the data path and the error policy: a channel that met an error is frozen and described by an event; the control
 * plane takes the event, does what it sees fit with the registers, and resumes the channel with a verdict
 * (docs/design/errors.md).
 */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>

#include "front.h"

/**
 * block_kick - wake the main dispatcher
 * @front:	front end
 */
void block_kick(struct block_front *front)
{
	eventfd_write(front->dispatcher->kick_fd, 1);
}

/**
 * block_lost - note that there is no way on with the device
 * @front:	front end
 * @err:	of the access that failed: -ENODEV it is gone; else it was refused, which is the driver's own fault
 *
 * From any context; the main dispatcher ends all requests.
 */
void block_lost(struct block_front *front, int err)
{
	int none = 0;

	if (atomic_compare_exchange_strong(&front->gone, &none, -err))
		block_kick(front);
}

static void freeze(struct block_channel *ch, const struct block_event *event)
{
	struct block_front *front = ch->front;

	ch->state = BLOCK_FROZEN;
	pthread_mutex_lock(&front->event_lock);
	ch->event = *event;
	ch->event_pending = 1;
	pthread_cond_signal(&front->event_cond);
	pthread_mutex_unlock(&front->event_lock);
}

/**
 * block_freeze - start no command any more, and tell the control plane why
 * @ch:		channel, locked
 * @cmd:	the command that failed
 */
void block_freeze(struct block_channel *ch, const struct block_command *cmd)
{
	const struct block_event event = {
		.kind = cmd->event, .unit = cmd->unit->number, .tries = cmd->segments->tries, .segments = cmd->count,
		.sector = cmd->sector, .sectors = cmd->sectors,
	};

	freeze(ch, &event);
}

/**
 * block_error - a command failed: freeze the channel until the control plane has decided
 * @ch:		channel; with depth 1 the chip uses no register of it after this, until it is resumed. Other commands of a
 *		deeper one are still looked at
 * @cmd:	flying
 * @kind:	why
 */
void block_error(struct block_channel *ch, struct block_command *cmd, enum block_event_kind kind)
{
	if (kind == BLOCK_EVENT_TIMEOUT)
		ch->count->timeouts++;
	else
		ch->count->errors++;
	cmd->flying = 0;
	ch->flying--;
	cmd->event = kind;
	cmd->next = NULL;
	*ch->failed_tail = cmd;
	ch->failed_tail = &cmd->next;
	if (ch->failed == cmd)
		block_freeze(ch, cmd);
}

/**
 * block_freeze_idle - do what block_pause() asked for
 * @ch:	channel, locked, no command at the chip, no writes outstanding
 */
void block_freeze_idle(struct block_channel *ch)
{
	const struct block_event event = { .kind = BLOCK_EVENT_PAUSED };

	ch->pause = 0;
	freeze(ch, &event);
}

/**
 * block_post_gone - tell the control plane that the device vanished, or refuses what it is told
 * @front:	front end
 */
void block_post_gone(struct block_front *front)
{
	pthread_mutex_lock(&front->event_lock);
	front->event_gone = 1;
	pthread_cond_signal(&front->event_cond);
	pthread_mutex_unlock(&front->event_lock);
}

/**
 * block_post_unserved - tell the control plane that a unit's port has ended
 * @front:	front end
 * @unit:	its number
 */
void block_post_unserved(struct block_front *front, unsigned int unit)
{
	pthread_mutex_lock(&front->event_lock);
	front->event_unserved |= 1u << unit;
	pthread_cond_signal(&front->event_cond);
	pthread_mutex_unlock(&front->event_lock);
}

/*
 * What is about the device rather than a channel. event_lock held. Returns whether there is something.
 * Losing the disk may mean losing the device too; then that is the event.
 */
static int take_device_event(struct block_front *front, struct block_event *event)
{
	if (!front->event_unserved && !front->event_gone)
		return 0;
	memset(event, 0, sizeof(*event));
	event->error = atomic_load(&front->gone);
	if (front->event_unserved) {
		event->kind = BLOCK_EVENT_UNSERVED;
		event->unit = (unsigned int)__builtin_ctz(front->event_unserved);
		front->event_unserved &= front->event_unserved - 1;
	} else {
		event->kind = BLOCK_EVENT_GONE;
		front->event_gone = 0;
	}
	return 1;
}

static int take_channel_event(struct block_front *front, unsigned int *channel, struct block_event *event)
{
	for (unsigned int i = 0; i < front->channels; i++) {
		struct block_channel *ch = front->channel[i];

		if (!ch->event_pending)
			continue;
		ch->event_pending = 0;
		*channel = i;
		*event = ch->event;
		return 1;
	}
	return 0;
}

/**
 * block_wait_event - sleep until a channel needs a decision
 * @front:	front end
 * @channel:	which one
 * @event:	why
 *
 * For one thread of the control plane, which calls block_resume() for each event but BLOCK_EVENT_GONE and
 * BLOCK_EVENT_UNSERVED.
 *
 * Return: 0; -ESHUTDOWN after block_stop().
 */
int block_wait_event(struct block_front *front, unsigned int *channel, struct block_event *event)
{
	int ret = 0;

	*channel = 0;
	pthread_mutex_lock(&front->event_lock);
	while (!atomic_load(&front->stop)) {
		if (take_device_event(front, event) || take_channel_event(front, channel, event))
			goto out;
		pthread_cond_wait(&front->event_cond, &front->event_lock);
	}
	ret = -ESHUTDOWN;
out:
	pthread_mutex_unlock(&front->event_lock);
	return ret;
}
