// SPDX-License-Identifier: MIT
/*
 * Who ends a command: the driver's dispatcher, or the kernel in the handler of the device's interrupt (usrloop's FINISH,
 * docs/design/finish.md). A port that can do so is told which order the only command at the chip completes, and asked
 * before the driver touches the chip again. The word in the port's ring, where both meet, has these states:
 *
 *	             arm                   interrupt: the handler takes the steps
 *	  OFF ---------------> ARMED ------------------------------> TAKING
 *	   ^                   |   ^                                  |  |
 *	   |      disarm       |   |   not what the steps expect      |  |  completed
 *	   +-------------------+   +----------------------------------+  v
 *	   +---------------------------------------------------------- DONE
 *	          disarm finds it: the command has ended, its order is completed
 *
 * Arming: only by the dispatcher whose port it is, only one command, and only as the last thing before it sleeps: when a
 * command is about to be set off (block_arm_before), or when one is at the chip still (block_arm). Disarming: the first
 * thing that it does with the chip or the queue after that (block_disarm, or block_take_back under the channel's lock).
 * Other threads do neither: one that queues more kicks the dispatcher.
 *
 * With a second port nobody arms: its thread starts commands of its own.
 */
#include "front.h"

/* Channel locked. Return: the order that a command completes if it may be armed, else NULL. */
static struct block_order_request *may_arm(struct block_orders *o, const struct block_command *cmd)
{
	struct block_order_request *r;

	/* Polling mode: the dispatcher ends commands itself, so nothing is armed. */
	if (!o->finishes || o->armed || o->by->front->limits.poll_us || atomic_load(&o->by->front->ports) > 1)
		return NULL;
	if (!cmd || !cmd->finishes || cmd->segments->next || !cmd->segments->request->complete)
		return NULL;
	r = (struct block_order_request *)cmd->segments->request;
	return r->orders == o && r->request.left == 1 && !r->request.status ? r : NULL;
}

static void arm(struct block_orders *o, struct block_command *cmd, const struct block_order_request *r)
{
	o->armed = cmd;
	o->port->ops->arm(o->port, (uint32_t)(r - o->request), r->seq);
}

/**
 * block_arm_before - let the kernel end the command that is about to be set off
 * @o:		orders of the calling dispatcher
 * @ch:		channel, locked
 * @cmd:	the command
 * @l:		all of its writes but the one that sets it off
 *
 * Those are made before: until the command is set off, which the steps expect first, no interrupt is this command's.
 */
void block_arm_before(struct block_orders *o, struct block_channel *ch, struct block_command *cmd, struct block_list *l)
{
	struct block_order_request *r = block_only_command(ch) == cmd ? may_arm(o, cmd) : NULL;

	if (r && !block_flush_list(ch, l))
		arm(o, cmd, r);
}

/**
 * block_arm - before a sleep: one that was taken back may be at the chip still, and nothing be queued
 * @o:	orders of the calling dispatcher; its channel is not locked
 */
void block_arm(struct block_orders *o)
{
	struct block_order_request *r;
	struct block_command *cmd;

	if (!o->finishes)
		return;
	pthread_mutex_lock(&o->channel->lock);
	cmd = block_only_command(o->channel);
	r = may_arm(o, cmd);
	if (r)
		arm(o, cmd, r);
	block_unlock(o->channel);
}

/**
 * block_take_back - see to the chip ourselves from here on; hear whether the kernel has
 * @o:	orders of the calling dispatcher; its channel is locked
 *
 * Return: whether the kernel has ended the command.
 */
int block_take_back(struct block_orders *o)
{
	struct block_command *cmd = o->armed;

	if (!cmd)
		return 0;
	o->armed = NULL;
	if (!o->port->ops->disarm(o->port))
		return 0;
	((struct block_order_request *)cmd->segments->request)->ended = 1;
	o->channel->count->interrupts++;
	o->by->front->ops->finished(o->channel, cmd);
	block_end(o->channel, cmd, 0);
	return 1;
}

/**
 * block_disarm - the same without the lock
 * @o:	orders of the calling dispatcher, or NULL; its channel is not locked
 *
 * Return: whether the kernel has ended the command.
 */
int block_disarm(struct block_orders *o)
{
	int ended;

	if (!o || !o->armed)
		return 0;
	pthread_mutex_lock(&o->channel->lock);
	ended = block_take_back(o);
	block_unlock(o->channel);
	return ended;
}
