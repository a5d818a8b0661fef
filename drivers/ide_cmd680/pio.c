// SPDX-License-Identifier: MIT
/*
 * Data through the data register, a sector at a time (section 9.3). Slow, and
 * only for drives or cables on which DMA does not work. Channel lock held.
 */
#include <errno.h>
#include <time.h>

#include "ide.h"
#include "usrdrv/ata.h"
#include "usrdrv/cmd680_regs.h"

/* The chip takes a 32-bit access as two words, low word first (section 3). */
#define DWORDS (USRDRV_SECTOR / 4)

static uint8_t *next_sector(struct ide_channel *ch)
{
	uint8_t *p = ch->cursor->page + ch->cursor_sector * USRDRV_SECTOR;

	ch->sectors_left--;
	if (++ch->cursor_sector == ch->cursor->sectors) {
		ch->cursor = ch->cursor->next;
		ch->cursor_sector = 0;
	}
	return p;
}

/**
 * ide_pio_read_sector - take the sector that DRQ announces
 * @ch:	channel
 */
void ide_pio_read_sector(struct ide_channel *ch)
{
	struct usrdrv_dev *dev = ch->block.front->dev;
	int err;

	ch->block.count->register_reads += DWORDS;
	err = dev->ops->read_rep(dev, ch->ports.tf_region, ch->ports.tf, 4, next_sector(ch), DWORDS);
	if (err)
		block_lost(ch->block.front, err);
}

/**
 * ide_pio_write_sector - give the sector that DRQ asks for
 * @ch:	channel
 */
void ide_pio_write_sector(struct ide_channel *ch)
{
	struct usrdrv_dev *dev = ch->block.front->dev;
	int err;

	ch->block.count->register_writes += DWORDS;
	err = dev->ops->write_rep(dev, ch->ports.tf_region, ch->ports.tf, 4, next_sector(ch), DWORDS);
	if (err)
		block_lost(ch->block.front, err);
}

static int get_alt_status(struct ide_channel *ch, uint32_t *value)
{
	struct usrdrv_dev *dev = ch->block.front->dev;
	int err;

	ch->block.count->register_reads++;
	err = usrdrv_read(dev, ch->ports.ctl_region, ch->ports.ctl, 1, value);
	if (err)
		block_lost(ch->block.front, err);
	return err;
}

/**
 * ide_pio_first_drq - wait for the first DRQ of a PIO write
 * @ch:		channel
 * @status:	alternate status seen last
 *
 * Drives answer within microseconds; one that takes longer than 100 ms is
 * treated as hung, so that the channel lock is not kept any longer.
 *
 * Return: 0, -EIO if the drive ended the command, -ETIMEDOUT or -ENODEV.
 */
int ide_pio_first_drq(struct ide_channel *ch, uint32_t *status)
{
	const struct timespec pause = { .tv_nsec = 50000 };
	uint64_t deadline = block_now_ms() + 100;

	do {
		if (get_alt_status(ch, status))
			return -ENODEV;
		if (!(*status & ATA_BSY)) {
			if (*status & (ATA_ERR | ATA_DF))
				return -EIO;
			if (*status & ATA_DRQ)
				return 0;
		}
		nanosleep(&pause, NULL);
	} while (block_now_ms() < deadline);
	return -ETIMEDOUT;
}
