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
 * command is about to be set off, or when one is at the chip still. Disarming: the first thing that it does with the chip or
 * the queue after that. Other threads do neither: one that queues more kicks the dispatcher. The channel's lock is held.
 *
 * With a second port nobody arms: its thread starts commands of its own.
 */
#include "front.h"

/* The command that is all that the channel has to do; NULL: none, or there are others, or something waits for its end. */
static struct block_command *only_command(const struct block_channel *ch)
{
	struct block_command *cmd = ch->command;

	if (ch->flying != 1 || ch->queue || ch->pause)
		return NULL;
	while (!cmd->flying)
		cmd++;
	return cmd;
}

/**
 * block_may_arm - whether the kernel may end a command
 * @o:		orders of the calling dispatcher; the kernel can end such
 * @cmd:	the command; NULL: none
 *
 * Return: 1 if it completes one order of @o, and there is nothing else to do; else 0.
 */
int block_may_arm(const struct block_orders *o, const struct block_command *cmd)
{
	const struct block_order_request *r;

	/* Polling mode: the dispatcher ends commands itself, so nothing is armed. */
	if (o->armed || o->by->front->limits.poll_us || atomic_load(&o->by->front->ports) > 1)
		return 0;
	if (!cmd || cmd != only_command(o->channel) || !cmd->finishes || cmd->segments->next ||
	    !cmd->segments->request->complete)
		return 0;
	r = (const struct block_order_request *)cmd->segments->request;
	return r->orders == o && r->request.left == 1 && !r->request.status;
}

/**
 * block_arm - let the kernel end a command
 * @o:		orders of the calling dispatcher
 * @cmd:	the command; block_may_arm() says so
 */
void block_arm(struct block_orders *o, struct block_command *cmd)
{
	const struct block_order_request *r = (const struct block_order_request *)cmd->segments->request;

	o->armed = cmd;
	o->port->ops->arm(o->port, (uint32_t)(r - o->request), r->seq);
}

/**
 * block_arm_again - before a sleep: a command that was taken back may be at the chip still, and nothing be queued
 * @o:	orders of the calling dispatcher
 */
void block_arm_again(struct block_orders *o)
{
	struct block_command *cmd = only_command(o->channel);

	if (block_may_arm(o, cmd))
		block_arm(o, cmd);
}

/**
 * block_disarm - see to the chip ourselves from here on; hear whether the kernel has
 * @o:	orders of the calling dispatcher, with a command that is armed
 *
 * Return: the command if the kernel has completed its order: it is to be ended. Else NULL.
 */
struct block_command *block_disarm(struct block_orders *o)
{
	struct block_command *cmd = o->armed;

	o->armed = NULL;
	if (!o->port->ops->disarm(o->port))
		return NULL;
	((struct block_order_request *)cmd->segments->request)->ended = 1;
	o->channel->count->interrupts++;
	return cmd;
}
