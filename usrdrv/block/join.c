// SPDX-License-Identifier: MIT
/* What waits in the queue joins a command that is about to start, where its sectors are adjacent. Channel lock held. */
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
 * block_join - have what waits in the queue join a command
 * @ch:		channel
 * @cmd:	a read or write of one segment, about to start
 */
void block_join(struct block_channel *ch, struct block_command *cmd)
{
	if (ch->front->can.joins)
		join_all(ch, cmd, cmd->segments);
	else
		join_siblings(ch, cmd, cmd->segments);
	ch->count->merged += cmd->count - 1;
}
