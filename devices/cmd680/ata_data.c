// SPDX-License-Identifier: MIT
/* Data phases: PIO in DRQ blocks, and DMA together with the engine (section 7.2). */
#include "cmd680_priv.h"

/* The image itself cannot be read or written there; error: -errno. */
static void image_error(struct drive *d, uint64_t pos, bool write, int error)
{
	cmd680_store_failed(&d->store, d->index, write ? "writing" : "reading", pos, error);
	ata_media_error(d, pos / SECTOR, write);
}

static void durable(struct drive *d, int error)
{
	if (!error) {
		ata_ok(d);
		return;
	}
	cmd680_store_failed(&d->store, d->index, "flushing", 0, error);
	ata_fail(d, ATA_DF, ATA_ABRT);
}

/* End the command when everything written before is on the medium. */
void ata_xfer_durable(struct drive *d)
{
	d->x.kind = XFER_NONE;
	if (d->store.fd < 0 || d->store.read_only) {
		ata_ok(d);
		return;
	}
	d->status = ATA_BSY;
	cmd680_worker_defer(d, 0, true, durable);
}

/* All data has moved. */
static void finish(struct drive *d)
{
	struct xfer *x = &d->x;

	x->kind = XFER_NONE;
	if (x->fault) {
		ata_fail(d, ATA_DF, ATA_ABRT);
	} else if (x->crc) {
		d->count->crc_errors++;
		ata_fail(d, 0, ATA_ICRC | ATA_ABRT);
	} else if (x->done) {
		x->done(d);
	} else if (x->media && x->write && (x->fua || !d->write_cache)) {
		ata_xfer_durable(d);
	} else {
		ata_ok(d);
	}
}

/* The first bad sector among the next len bytes: at most so many bytes come before it. */
static struct cmd680_fault *bad_ahead(struct drive *d, uint64_t len, uint64_t *good, uint64_t *lba)
{
	struct xfer *x = &d->x;
	uint64_t first = x->pos / SECTOR;
	struct cmd680_fault *f = NULL;

	*good = len;
	if (!x->media || x->crc || x->fault)
		return NULL;
	f = cmd680_fault_bad_sector(d, first, (x->pos + len + SECTOR - 1) / SECTOR - first, x->write, lba);
	if (f)
		*good = *lba * SECTOR > x->pos ? *lba * SECTOR - x->pos : 0;
	return f;
}

static void block_begin(struct drive *d)
{
	struct xfer *x = &d->x;

	x->have = x->left < x->block ? (uint32_t)x->left : x->block;
	x->at = 0;
	d->status = ATA_READY | ATA_DRQ;
}

/* A block that holds a bad sector fails as a whole, before its DRQ. */
static void pio_in_next(struct drive *d)
{
	struct xfer *x = &d->x;
	struct cmd680_fault *bad;
	uint64_t good, lba;
	size_t done;
	int error;

	block_begin(d);
	bad = bad_ahead(d, x->have, &good, &lba);
	if (bad) {
		faults_hit(&d->ch->m->faults, &bad->base);
		ata_media_error(d, lba, false);
		return;
	}
	error = x->media ? cmd680_store_rw(&d->store, false, d->buf, x->have, x->pos, &done) : 0;
	if (error) {
		image_error(d, x->pos + done, false, error);
		return;
	}
	ata_interrupt(d);
}

static void pio_out_store(struct drive *d)
{
	struct xfer *x = &d->x;
	struct cmd680_fault *bad;
	uint64_t good, lba;
	size_t done;
	int error;

	bad = bad_ahead(d, x->have, &good, &lba);
	if (x->media && !x->fault && good) {
		error = cmd680_store_rw(&d->store, true, d->buf, good, x->pos, &done);
		if (error) {
			image_error(d, x->pos + done, true, error);
			return;
		}
		cmd680_store_written(&d->store, d->index, x->pos, good);
	}
	if (bad) {
		faults_hit(&d->ch->m->faults, &bad->base);
		ata_media_error(d, lba, true);
		return;
	}
	x->pos += x->have;
	x->left -= x->have;
	if (!x->left) {
		finish(d);
		return;
	}
	block_begin(d);
	ata_interrupt(d);
}

/* The host reads the next word of a data phase. */
uint16_t ata_pio_read(struct drive *d)
{
	struct xfer *x = &d->x;
	uint16_t word = (uint16_t)(d->buf[x->at] | d->buf[x->at + 1] << 8);

	x->at += 2;
	if (x->at == x->have) {
		x->pos += x->have;
		x->left -= x->have;
		if (x->left) {
			pio_in_next(d);
		} else {
			x->kind = XFER_NONE;	/* no interrupt after the last block */
			d->status = ATA_READY;
		}
	}
	return word;
}

/* The host writes the next word of one. */
void ata_pio_write(struct drive *d, uint16_t value)
{
	d->buf[d->x.at++] = (uint8_t)value;
	d->buf[d->x.at++] = (uint8_t)(value >> 8);
	if (d->x.at == d->x.have)
		pio_out_store(d);
}

/* The drive has DMARQ up and the engine is active in its direction: move until either is through. */
static void move_dma(struct drive *d)
{
	struct channel *ch = d->ch;
	struct xfer *x = &d->x;
	struct cmd680_fault *bad;
	uint64_t good, lba = 0;
	enum bm_result result;
	int error = 0;

	if (cmd680_fault_take(d, CMD680_FAULT_DMA_ABORT, d->cur[TF_COMMAND],
			      x->write ? CMD680_ON_WRITE : CMD680_ON_READ)) {
		cmd680_bm_abort(ch);
		return;
	}
	bad = bad_ahead(d, x->left, &good, &lba);
	result = cmd680_bm_move(d, good, &error);
	switch (result) {
	case BM_SHORT:	/* section 6.3: the device keeps DRQ */
		ch->bm_status &= (uint8_t)~CMD680_BM_ACTIVE;
		return;
	case BM_ABORT:
		cmd680_bm_abort(ch);
		return;
	case BM_MEDIA:
		image_error(d, x->pos, x->write, error);
		return;
	case BM_DONE:
		break;
	}
	if (x->media && x->write && !x->crc && !x->fault)
		cmd680_store_written(&d->store, d->index, x->pos - good, good);
	if (bad) {
		faults_hit(&ch->m->faults, &bad->base);
		ata_media_error(d, lba, x->write);
		return;
	}
	if (cmd680_bm_exact(ch))
		ch->bm_status &= (uint8_t)~CMD680_BM_ACTIVE;
	finish(d);
}

/* Both sides may be ready: the start bit is set and a drive has DMARQ up. */
void ata_xfer_run(struct channel *ch)
{
	for (unsigned int i = 0; i < 2; i++) {
		struct drive *d = &ch->drive[i];

		if (d->x.kind != XFER_DMA || !d->x.ready || !drive_there(d))
			continue;
		if (!(ch->bm_status & CMD680_BM_ACTIVE))
			continue;
		if (!(ch->bm_cmd & CMD680_BM_TO_MEMORY) != d->x.write) {
			ch->m->count.unexpected++;	/* no data moves the wrong way */
			continue;
		}
		move_dma(d);
	}
}

/* The medium has found its place. */
static void begin(struct drive *d, int error)
{
	switch (d->x.kind) {
	case XFER_PIO_IN:
		pio_in_next(d);
		break;
	case XFER_PIO_OUT:
		block_begin(d);		/* the first block has no interrupt */
		break;
	case XFER_DMA:
		d->x.ready = true;
		d->status = ATA_READY | ATA_DRQ;
		ata_xfer_run(d->ch);
		break;
	case XFER_NONE:
		break;
	}
}

/**
 * ata_xfer_media() - start the data phase of a read or write
 * @d: in a command, BSY
 * @plan: kind, write, fua, ext, pos, left and block
 */
void ata_xfer_media(struct drive *d, const struct xfer *plan)
{
	struct xfer *x = &d->x;
	uint8_t op = d->cur[TF_COMMAND];
	unsigned int direction = plan->write ? CMD680_ON_WRITE : CMD680_ON_READ;
	uint64_t delay;

	*x = *plan;
	x->media = true;
	d->power = POWER_ACTIVE;
	if (x->write)
		d->count->writes++;
	else
		d->count->reads++;
	d->count->sectors += x->left / SECTOR;
	d->count->bytes += x->left;
	if (x->write)
		x->fault = cmd680_fault_take(d, CMD680_FAULT_WRITE_FAULT, op, direction);
	if (x->kind == XFER_DMA) {
		d->count->mode_mismatch += ata_mode_mismatch(d);
		x->crc = ata_mode_crc(d);
	}
	if (x->kind == XFER_DMA && ata_mode_refused(d)) {
		ata_abort(d);
		return;
	}
	delay = cmd680_fault_delay(d, x->left, direction) + ata_spin_delay(d);
	if (delay)
		cmd680_worker_defer(d, delay, false, begin);
	else
		begin(d, 0);
}

/* Give the host the sector in buf, by PIO. */
void ata_xfer_buffer_in(struct drive *d)
{
	d->x = (struct xfer){ .kind = XFER_PIO_IN, .left = SECTOR, .block = SECTOR };
	pio_in_next(d);
}

/**
 * ata_xfer_buffer_out() - take len bytes from the host into buf
 * @done: ends the command
 */
void ata_xfer_buffer_out(struct drive *d, enum xfer_kind kind, uint32_t len, void (*done)(struct drive *d))
{
	d->x = (struct xfer){ .kind = kind, .write = true, .left = len, .block = len, .done = done };
	if (kind == XFER_DMA && ata_mode_refused(d))
		ata_abort(d);
	else
		begin(d, 0);
}
