// SPDX-License-Identifier: MIT
/* How the kernel learns, in the interrupt's handler, that a DMA command is done, so that nobody need be woken for it. */
#include <string.h>

#include "ide.h"
#include "usrdrv/ata.h"
#include "usrdrv/cmd680_regs.h"

#define STATUS	(8 * CMD680_BM_STATUS)	/* bits from the command to the status, in one double word */

/**
 * ide_finish_steps - say how the chip tells that a DMA command ended well
 * @ch:		channel
 * @steps:	filled in
 *
 * What interrupt() in command.c does then, in the same order; what is not as it should be is left to that.
 *
 * Return: how many.
 */
unsigned int ide_finish_steps(const struct block_channel *ch, struct block_step *steps)
{
	const struct ide_ports *p = &((const struct ide_channel *)ch)->ports;
	const struct block_step those[] = {
		/* command, scratch, status: section 4.2 */
		{ .op = BLOCK_STEP_EXPECT, .bar = p->bm_region, .offset = p->bm, .width = 4,
		  .mask = CMD680_BM_START | (CMD680_BM_INT | CMD680_BM_ERROR | CMD680_BM_ACTIVE) << STATUS,
		  .value = CMD680_BM_START | CMD680_BM_INT << STATUS },
		{ .op = BLOCK_STEP_WRITE, .bar = p->bm_region, .offset = p->bm + CMD680_BM_CMD, .width = 1,
		  .mask = CMD680_BM_TO_MEMORY },
		{ .op = BLOCK_STEP_EXPECT, .bar = p->tf_region, .width = 1,
		  .offset = p->tf + CMD680_TF_STATUS - CMD680_TF_DATA,
		  .mask = ATA_BSY | ATA_DRDY | ATA_DF | ATA_DRQ | ATA_ERR, .value = ATA_DRDY },
		{ .op = BLOCK_STEP_WRITE, .bar = p->bm_region, .offset = p->bm + CMD680_BM_STATUS, .width = 1,
		  .shift = STATUS, .mask = CMD680_BM_INT | CMD680_BM_ERROR | CMD680_BM_DEV0_DMA | CMD680_BM_DEV1_DMA },
	};

	memcpy(steps, those, sizeof(those));
	return sizeof(those) / sizeof(those[0]);
}

/**
 * ide_finished - the steps were taken: the command has ended
 * @ch:		channel
 * @cmd:	the command
 */
void ide_finished(struct block_channel *ch, struct block_command *cmd)
{
	(void)cmd;
	((struct ide_channel *)ch)->bm_cmd &= CMD680_BM_TO_MEMORY;
}
