// SPDX-License-Identifier: MIT
/*
 * Commands that usrloop ends for us in the interrupt's handler: it knows how the chip says that one is done. We
 * learn of it with the next request, and have no register to look at. Every function wants the channel lock held.
 */
#include <string.h>

#include "ide.h"
#include "usrdrv/ata.h"
#include "usrdrv/cmd680_regs.h"

#define STATUS	(8 * CMD680_BM_STATUS)	/* bits from the command to the status, in one double word */

/**
 * ide_finish_steps - say how the chip tells that a DMA command ended well
 * @ch:		channel
 * @finish:	steps of it are filled in
 *
 * What ide_interrupt() does then, in the same order; what is not as it should be is left to that.
 */
void ide_finish_steps(const struct ide_channel *ch, struct usrloop_finish *finish)
{
	const struct ide_ports *p = &ch->ports;
	const struct usrloop_step steps[] = {
		/* command, scratch, status: section 4.2 */
		{ .op = USRLOOP_STEP_EXPECT, .bar = p->bm_region, .offset = p->bm, .width = 4,
		  .mask = CMD680_BM_START | (CMD680_BM_INT | CMD680_BM_ERROR | CMD680_BM_ACTIVE) << STATUS,
		  .value = CMD680_BM_START | CMD680_BM_INT << STATUS },
		{ .op = USRLOOP_STEP_WRITE, .bar = p->bm_region, .offset = p->bm + CMD680_BM_CMD, .width = 1,
		  .mask = CMD680_BM_TO_MEMORY },
		{ .op = USRLOOP_STEP_EXPECT, .bar = p->tf_region, .width = 1,
		  .offset = p->tf + CMD680_TF_STATUS - CMD680_TF_DATA,
		  .mask = ATA_BSY | ATA_DRDY | ATA_DF | ATA_DRQ | ATA_ERR, .value = ATA_DRDY },
		{ .op = USRLOOP_STEP_WRITE, .bar = p->bm_region, .offset = p->bm + CMD680_BM_STATUS, .width = 1,
		  .shift = STATUS, .mask = CMD680_BM_INT | CMD680_BM_ERROR | CMD680_BM_DEV0_DMA | CMD680_BM_DEV1_DMA },
	};

	finish->steps = sizeof(steps) / sizeof(steps[0]);
	memcpy(finish->step, steps, sizeof(steps));
}

/**
 * ide_only_request - the request whose DMA command is all that the channel has to do
 * @ch:	channel
 *
 * Return: the request, complete once that command is; or NULL.
 */
struct ide_request *ide_only_request(const struct ide_channel *ch)
{
	const struct ide_command *cmd = &ch->cmd;
	struct ide_request *request;

	if (ch->state != IDE_DMA_DATA || ch->queue || cmd->then_flush || cmd->segments->next)
		return NULL;
	request = cmd->segments->request;
	return request->left == 1 && !request->status ? request : NULL;
}

/**
 * ide_finished - the steps were taken: the command has ended
 * @ch:	channel, as it was when ide_only_request() told of it
 */
void ide_finished(struct ide_channel *ch)
{
	ch->count.interrupts++;
	ch->bm_cmd &= CMD680_BM_TO_MEMORY;
	ide_finish_segments(ch, 0);
	ch->state = IDE_IDLE;
}
