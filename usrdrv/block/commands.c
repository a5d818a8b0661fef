// SPDX-License-Identifier: MIT
/*
 * Commands: how segments become one, and how one ends. Channel lock held.
 *
 *	idle --block_next_command()--> flying --block_end()--> idle
 *	                                 |                       ^
 *	                                 +--block_error()--> failed: the channel is frozen
 */
#include "front.h"

/* Whether a segment extends a command at either side. */
static int extends(const struct block_command *cmd, const struct block_segment *s)
{
	const struct block_segment *first = cmd->segments;

	return s->op == first->op && s->flags == first->flags && s->unit == first->unit && !s->alone &&
	       cmd->pieces + s->pieces <= s->unit->front->can.max_pieces &&
	       cmd->sectors + s->sectors <= s->unit->max_sectors &&
	       (s->sector == cmd->sector + cmd->sectors || s->sector + s->sectors == cmd->sector);
}

static void add(struct block_command *cmd, struct block_segment *s, struct block_segment **last)
{
	if (s->sector < cmd->sector) {
		s->next = cmd->segments;
		cmd->segments = s;
		cmd->sector = s->sector;
	} else {
		s->next = NULL;
		(*last)->next = s;
		*last = s;
	}
	cmd->sectors += s->sectors;
	cmd->count++;
	cmd->pieces += s->pieces;
}

/* Siblings follow each other in the queue: take what follows of the same request. */
static void join_siblings(struct block_channel *ch, struct block_command *cmd, struct block_segment *last)
{
	struct block_segment *s;

	while ((s = ch->queue) && s->request == cmd->segments->request && extends(cmd, s)) {
		ch->queue = s->next;
		add(cmd, s, &last);
	}
	if (!ch->queue)
		ch->queue_tail = &ch->queue;
}

/*
 * Requests that wait at the same time have no order among each other, so a neighbour may be taken from anywhere in the
 * queue.
 */
static void join_all(struct block_channel *ch, struct block_command *cmd, struct block_segment *last)
{
	struct block_segment **link;
	int found;

	do {
		found = 0;
		for (link = &ch->queue; *link;) {
			struct block_segment *s = *link;

			if (!extends(cmd, s)) {
				link = &s->next;
				continue;
			}
			*link = s->next;
			add(cmd, s, &last);
			found = 1;
		}
		ch->queue_tail = link;
	} while (found && ch->queue);
}

/**
 * block_next_command - make the oldest segment and all that join it a command
 * @ch:	channel
 *
 * Return: the command, flying from now on; NULL: the queue is empty, or the channel has as many as it can.
 */
struct block_command *block_next_command(struct block_channel *ch)
{
	struct block_segment *first = ch->queue;
	struct block_command *cmd = ch->idle;

	if (!first || !cmd)
		return NULL;
	ch->queue = first->next;
	if (!ch->queue)
		ch->queue_tail = &ch->queue;
	ch->idle = cmd->next;
	ch->flying++;
	first->next = NULL;
	cmd->flying = 1;
	cmd->finishes = 0;
	cmd->segments = first;
	cmd->count = 1;
	cmd->pieces = first->pieces;
	cmd->sector = first->sector;
	cmd->sectors = first->sectors;
	cmd->unit = first->unit;
	cmd->op = first->op;
	if (!ch->queue || first->alone || (first->op != USRDRV_BLOCK_READ && first->op != USRDRV_BLOCK_WRITE))
		return cmd;
	if (ch->front->can.joins)
		join_all(ch, cmd, first);
	else
		join_siblings(ch, cmd, first);
	ch->count->merged += cmd->count - 1;
	return cmd;
}

/**
 * block_only_command - the command that is all that the channel has to do
 * @ch:	channel
 *
 * Return: the command; NULL: none, or there are others, or something waits for its end.
 */
struct block_command *block_only_command(const struct block_channel *ch)
{
	struct block_command *cmd = ch->command;

	if (ch->flying != 1 || ch->queue || ch->pause)
		return NULL;
	while (!cmd->flying)
		cmd++;
	return cmd;
}

static void set_idle(struct block_channel *ch, struct block_command *cmd)
{
	cmd->segments = NULL;
	cmd->next = ch->idle;
	ch->idle = cmd;
}

static void land(struct block_channel *ch, struct block_command *cmd)
{
	cmd->flying = 0;
	ch->flying--;
}

static void finish_segments(struct block_channel *ch, struct block_command *cmd, int status)
{
	struct block_segment *s = cmd->segments, *next;

	for (; s; s = next) {
		next = s->next;
		block_finish_segment(ch, s, status);
	}
	set_idle(ch, cmd);
}

/**
 * block_end - a command is done: end its segments
 * @ch:		channel
 * @cmd:	flying
 * @status:	0 or -errno for each segment
 */
void block_end(struct block_channel *ch, struct block_command *cmd, int status)
{
	land(ch, cmd);
	finish_segments(ch, cmd, status);
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
	land(ch, cmd);
	cmd->event = kind;
	cmd->next = NULL;
	*ch->failed_tail = cmd;
	ch->failed_tail = &cmd->next;
	if (ch->failed == cmd)
		block_freeze(ch, cmd);
}

/**
 * block_next_failed - take the command that the control plane has decided about
 * @ch:	channel
 *
 * Return: the command; NULL: the channel was frozen without one.
 */
struct block_command *block_next_failed(struct block_channel *ch)
{
	struct block_command *cmd = ch->failed;

	if (!cmd)
		return NULL;
	ch->failed = cmd->next;
	if (!ch->failed)
		ch->failed_tail = &ch->failed;
	return cmd;
}

/**
 * block_end_failed - end the segments of a command that failed
 * @ch:		channel
 * @cmd:	from block_next_failed()
 * @status:	0 or -errno for each segment
 */
void block_end_failed(struct block_channel *ch, struct block_command *cmd, int status)
{
	finish_segments(ch, cmd, status);
}

/**
 * block_requeue - put the segments of a command that failed back in front of the queue
 * @ch:		channel
 * @cmd:	from block_next_failed()
 * @alone:	they must not be joined again
 */
void block_requeue(struct block_channel *ch, struct block_command *cmd, int alone)
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
	set_idle(ch, cmd);
}

/**
 * block_end_all - end all commands, at the chip or failed
 * @ch:		channel
 * @status:	-errno for each
 */
void block_end_all(struct block_channel *ch, int status)
{
	struct block_command *cmd;

	for (unsigned int i = 0; i < ch->depth; i++)
		if (ch->command[i].flying)
			block_end(ch, &ch->command[i], status);
	while ((cmd = block_next_failed(ch)))
		finish_segments(ch, cmd, status);
}

/**
 * block_flush_ms - how long a flush or trim may take
 * @ch:		channel
 * @cmd:	command
 *
 * The last try has all of the limit, those before half of it.
 *
 * Return: milliseconds.
 */
uint32_t block_flush_ms(const struct block_channel *ch, const struct block_command *cmd)
{
	uint32_t all = ch->front->limits.flush_ms;

	return cmd->segments->tries < BLOCK_MAX_TRIES - 1 ? all / 2 : all;
}
