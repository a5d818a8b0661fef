// SPDX-License-Identifier: MIT
/* The device side of a channel: task file, data register, resets (sections 7.1 to 7.3). */
#include <string.h>

#include "cmd680_priv.h"

#define FLOATING	0x7f	/* nobody drives the bus; D7 is pulled down */

/* Device control and the chip's reset and tri-state bits keep the drives off the bus. */
static bool in_reset(const struct channel *ch)
{
	return ch->control & ATA_CTL_SRST || ch->chcfg & CMD680_CHCFG_RESET;
}

/* The drive whose registers answer: device 0 also for an absent device 1. NULL: nobody. */
static struct drive *answering(struct channel *ch)
{
	struct drive *d = &ch->drive[ch->select];

	if (ch->chcfg & CMD680_CHCFG_TRISTATE)
		return NULL;
	if (drive_there(d))
		return d;
	return ch->select && drive_there(&ch->drive[0]) ? &ch->drive[0] : NULL;
}

/* The drive that takes commands and moves data, or NULL. */
static struct drive *selected(struct channel *ch)
{
	struct drive *d = &ch->drive[ch->select];

	return answering(ch) == d ? d : NULL;
}

/* An access to the cable, which belongs to the engine while that runs (section 4.2). False: nobody hears it. */
static bool on_cable(struct channel *ch)
{
	if (!(ch->bm_cmd & CMD680_BM_START))
		return true;
	ch->m->count.tf_while_dma++;
	return !cmd680_strict_refuses(ch, STRICT_TASKFILE);
}

uint8_t ata_read(struct channel *ch, unsigned int reg, bool alternate)
{
	struct drive *d = answering(ch);

	if (!on_cable(ch) || !d)
		return FLOATING;
	switch (reg) {
	case TF_COMMAND:
		if (d->index % 2 != ch->select)
			return 0;	/* device 0 for an absent device 1 */
		if (ata_spin_busy(d))
			return ATA_BSY;
		if (!alternate) {
			uint8_t status = d->status;

			d->irq = false;
			cmd680_irq_update(ch);
			return status;
		}
		return d->status;
	case TF_DEVICE:
		return d->cur[TF_DEVICE];
	case TF_FEATURES:
		return ch->control & ATA_CTL_HOB ? d->prev[TF_FEATURES] : d->error;
	default:
		return ch->control & ATA_CTL_HOB ? d->prev[reg] : d->cur[reg];
	}
}

static void diagnostic(struct channel *ch)
{
	for (unsigned int i = 0; i < 2; i++) {
		if (!drive_there(&ch->drive[i]))
			continue;
		ata_stop(&ch->drive[i]);
		ch->drive[i].count->commands++;
		ata_signature(&ch->drive[i]);
	}
	ch->select = 0;
	if (drive_there(&ch->drive[0]))
		ata_interrupt(&ch->drive[0]);
	cmd680_irq_update(ch);
}

void ata_write(struct channel *ch, unsigned int reg, uint8_t value)
{
	struct drive *d = answering(ch);

	if (!on_cable(ch) || ch->chcfg & CMD680_CHCFG_TRISTATE || in_reset(ch))
		return;
	ch->control &= (uint8_t)~ATA_CTL_HOB;
	if (d && reg != TF_DEVICE && ata_spin_busy(d))
		return;
	if (d && d->status & (ATA_BSY | ATA_DRQ)) {
		ch->m->count.unexpected++;
		return;
	}
	if (reg == TF_COMMAND) {
		if (value == ATA_EXECUTE_DIAGNOSTIC)
			diagnostic(ch);
		else if (selected(ch))
			ata_command(selected(ch), value);
		return;
	}
	for (unsigned int i = 0; i < 2; i++) {
		d = &ch->drive[i];
		d->prev[reg] = d->cur[reg];
		d->cur[reg] = value;
	}
	if (reg == TF_DEVICE) {
		ch->select = value & ATA_DEV_DEV1 ? 1 : 0;
		cmd680_irq_update(ch);
	}
}

/* A drive in its data phase, or NULL: then the access is a driver's mistake. */
static struct drive *data_phase(struct channel *ch, enum xfer_kind kind)
{
	struct drive *d = selected(ch);

	if (!on_cable(ch))
		return NULL;
	if (!d || d->x.kind != kind || !(d->status & ATA_DRQ)) {
		ch->m->count.unexpected++;
		return NULL;
	}
	if (ata_pio_refused(d)) {
		ata_abort(d);
		return NULL;
	}
	return d;
}

uint16_t ata_data_read(struct channel *ch)
{
	struct drive *d = data_phase(ch, XFER_PIO_IN);

	return d ? ata_pio_read(d) : 0xffff;
}

void ata_data_write(struct channel *ch, uint16_t value)
{
	struct drive *d = data_phase(ch, XFER_PIO_OUT);

	if (d)
		ata_pio_write(d, value);
}

/* A reset of either kind is in force. */
static void hold(struct drive *d)
{
	if (d->status & (ATA_BSY | ATA_DRQ))
		d->count->timeouts++;
	d->count->resets++;
	d->status = ATA_BSY;
}

/* What a soft reset brings back unless SET FEATURES 66h was given. */
static void defaults(struct drive *d)
{
	d->multiple = MAX_MULTIPLE;
	d->write_cache = !d->config.no_flush;
	d->look_ahead = true;
	d->apm = 0;
}

void ata_power_on(struct drive *d)
{
	defaults(d);
	d->keep_settings = false;
	d->autosave = true;
	d->smart = true;
	d->pio = DEFAULT_PIO;
	d->mwdma = -1;
	d->udma = -1;
	d->heads = 16;
	d->spt = 63;
	d->power = d->spun ? POWER_ACTIVE : POWER_STANDBY;
	if (!d->max_kept)
		d->max_kept = d->store.size / SECTOR;
	d->sectors = d->max_kept;
	d->native_read = false;
}

static void soft_reset(struct channel *ch, bool held)
{
	ch->select = 0;
	for (unsigned int i = 0; i < 2; i++) {
		struct drive *d = &ch->drive[i];

		if (!d->present || d->unplugged)
			continue;
		ata_stop(d);
		if (held) {
			hold(d);
			continue;
		}
		if (d->unseen)
			ata_power_on(d);
		else if (!d->keep_settings)
			defaults(d);
		d->unseen = false;
		if (d->power == POWER_SLEEP)
			d->power = POWER_STANDBY;
		ata_signature(d);
	}
	cmd680_irq_update(ch);
}

void ata_control(struct channel *ch, uint8_t value)
{
	uint8_t old = ch->control;

	if (!on_cable(ch) || ch->chcfg & (CMD680_CHCFG_TRISTATE | CMD680_CHCFG_RESET))
		return;
	ch->control = value & (ATA_CTL_HOB | ATA_CTL_SRST | ATA_CTL_NIEN);
	if ((old ^ value) & ATA_CTL_SRST)
		soft_reset(ch, value & ATA_CTL_SRST);
	cmd680_irq_update(ch);
}

/* RESET-: while the chip's reset bit is set, and when it is released. */
void ata_hard_reset(struct channel *ch)
{
	bool held = ch->chcfg & CMD680_CHCFG_RESET;

	ch->select = 0;
	ch->control = 0;
	for (unsigned int i = 0; i < 2; i++) {
		struct drive *d = &ch->drive[i];

		if (!d->present || d->unplugged)
			continue;
		ata_stop(d);
		ata_power_on(d);
		d->stuck = 0;
		d->unseen = false;
		if (held)
			hold(d);
		else
			ata_signature(d);
	}
	cmd680_irq_update(ch);
}
