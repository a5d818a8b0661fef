// SPDX-License-Identifier: MIT
/* SMART: the state of the drive from its own counters (section 7.5, end). Logs are not claimed. */
#include <string.h>

#include "cmd680_priv.h"

struct attribute {
	uint8_t id;
	uint8_t threshold;
	uint16_t flags;
};

enum { ATTR_PENDING, ATTR_TIMEOUT, ATTR_CRC, ATTRIBUTES };

static const struct attribute attributes[ATTRIBUTES] = {
	[ATTR_PENDING] = { 197, 0, 0x0032 },	/* sectors that cannot be read now */
	[ATTR_TIMEOUT] = { 188, 0, 0x0032 },	/* commands that a reset ended */
	[ATTR_CRC] = { 199, 0, 0x003e },	/* interface CRC errors */
};

static uint64_t raw_value(struct drive *d, unsigned int which)
{
	struct model *m = d->ch->m;
	uint64_t n = 0;

	switch (which) {
	case ATTR_PENDING:
		for (unsigned int i = 0; i < m->faults.n; i++) {
			const struct cmd680_fault *f = &m->fault[i];

			if (f->base.kind == CMD680_FAULT_BAD_SECTOR && f->base.hits &&
			    (f->drive < 0 || f->drive == (int32_t)d->index))
				n += f->sectors;
		}
		return n;
	case ATTR_TIMEOUT:
		return d->count->timeouts;
	default:
		return d->count->crc_errors;
	}
}

static void checksum(uint8_t *buf)
{
	uint8_t sum = 0;

	for (unsigned int i = 0; i < 511; i++)
		sum = (uint8_t)(sum + buf[i]);
	buf[511] = (uint8_t)-sum;
}

static void read_data(struct drive *d)
{
	memset(d->buf, 0, SECTOR);
	d->buf[0] = 0x10;
	for (unsigned int i = 0; i < ATTRIBUTES; i++) {
		uint8_t *at = d->buf + 2 + i * 12;
		uint64_t raw = raw_value(d, i);

		at[0] = attributes[i].id;
		at[1] = (uint8_t)attributes[i].flags;
		at[2] = (uint8_t)(attributes[i].flags >> 8);
		at[3] = 100;
		at[4] = 100;
		for (unsigned int k = 0; k < 6; k++)
			at[5 + k] = (uint8_t)(raw >> (k * 8));
	}
	d->buf[368] = 0x03;	/* attributes survive power modes and are saved on command */
	checksum(d->buf);
	ata_xfer_buffer_in(d);
}

static void read_thresholds(struct drive *d)
{
	memset(d->buf, 0, SECTOR);
	d->buf[0] = 0x10;
	for (unsigned int i = 0; i < ATTRIBUTES; i++) {
		d->buf[2 + i * 12] = attributes[i].id;
		d->buf[3 + i * 12] = attributes[i].threshold;
	}
	checksum(d->buf);
	ata_xfer_buffer_in(d);
}

void ata_smart(struct drive *d)
{
	uint8_t sub = d->cur[TF_FEATURES];

	if (d->cur[TF_LBAM] != ATA_SMART_LBAM || d->cur[TF_LBAH] != ATA_SMART_LBAH ||
	    (!d->smart && sub != ATA_SMART_ENABLE)) {
		ata_abort(d);
		return;
	}
	switch (sub) {
	case ATA_SMART_READ_DATA:
		read_data(d);
		return;
	case ATA_SMART_READ_THRESHOLDS:
		read_thresholds(d);
		return;
	case ATA_SMART_ENABLE:
		d->smart = true;
		break;
	case ATA_SMART_DISABLE:
		d->smart = false;
		break;
	case ATA_SMART_AUTOSAVE:
		d->autosave = d->cur[TF_NSECT] != 0;
		break;
	case ATA_SMART_SAVE:
	case ATA_SMART_STATUS:	/* good: mid and high keep the key */
		break;
	default:
		ata_abort(d);
		return;
	}
	ata_ok(d);
}
