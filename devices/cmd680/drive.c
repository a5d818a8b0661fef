// SPDX-License-Identifier: MIT
/* How a drive ends a command, and what it shows then (sections 7.1 to 7.3). */
#include <string.h>

#include "cmd680_priv.h"

/* Drop the command in hand, its data phase and its interrupt. */
void ata_stop(struct drive *d)
{
	if (d->ch->job.drive == d)
		cmd680_worker_cancel(d->ch);
	d->x = (struct xfer){ .kind = XFER_NONE };
	d->irq = false;
	d->mute = false;
}

void ata_signature(struct drive *d)
{
	memset(d->cur, 0, sizeof(d->cur));
	memset(d->prev, 0, sizeof(d->prev));
	d->cur[TF_NSECT] = 1;
	d->cur[TF_LBAL] = 1;
	d->error = 1;
	d->status = d->stuck ? ATA_BSY : ATA_READY;
}

void ata_interrupt(struct drive *d)
{
	d->irq = !d->mute;
	cmd680_irq_update(d->ch);
}

void ata_ok(struct drive *d)
{
	d->x.kind = XFER_NONE;
	d->status = ATA_READY;
	ata_interrupt(d);
}

/* End a command with ERR; status adds DF. */
void ata_fail(struct drive *d, uint8_t status, uint8_t error)
{
	d->x.kind = XFER_NONE;
	d->error = error;
	d->status = ATA_READY | ATA_ERR | status;
	d->count->errors++;
	ata_interrupt(d);
}

void ata_abort(struct drive *d)
{
	ata_fail(d, 0, ATA_ABRT);
}

void ata_set_lba(struct drive *d, uint64_t lba, bool ext)
{
	uint64_t cylinder;

	if (ext) {
		d->prev[TF_LBAL] = (uint8_t)(lba >> 24);
		d->prev[TF_LBAM] = (uint8_t)(lba >> 32);
		d->prev[TF_LBAH] = (uint8_t)(lba >> 40);
	} else if (d->cur[TF_DEVICE] & ATA_DEV_LBA) {
		d->cur[TF_DEVICE] = (uint8_t)((d->cur[TF_DEVICE] & 0xf0) | (lba >> 24 & 0x0f));
	} else {
		cylinder = lba / d->spt / d->heads;
		d->cur[TF_DEVICE] = (uint8_t)((d->cur[TF_DEVICE] & 0xf0) | lba / d->spt % d->heads);
		d->cur[TF_LBAL] = (uint8_t)(lba % d->spt + 1);
		d->cur[TF_LBAM] = (uint8_t)cylinder;
		d->cur[TF_LBAH] = (uint8_t)(cylinder >> 8);
		return;
	}
	d->cur[TF_LBAL] = (uint8_t)lba;
	d->cur[TF_LBAM] = (uint8_t)(lba >> 8);
	d->cur[TF_LBAH] = (uint8_t)(lba >> 16);
}

/* End with what a drive says about a sector it cannot read or write. */
void ata_media_error(struct drive *d, uint64_t lba, bool write)
{
	ata_set_lba(d, lba, d->x.ext);
	if (write)
		ata_fail(d, ATA_DF, ATA_ABRT);
	else
		ata_fail(d, 0, ATA_UNC);
}
