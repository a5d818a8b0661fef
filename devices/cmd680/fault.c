// SPDX-License-Identifier: MIT
/* Faults on request: what hardware does when it breaks (section 14.4). */
#include <errno.h>

#include "cmd680_priv.h"

static bool matches(const struct cmd680_fault *f, const struct drive *d, unsigned int kind,
		    uint8_t opcode, unsigned int direction)
{
	return f->base.kind == kind && (f->drive < 0 || f->drive == (int32_t)d->index) &&
		(f->opcode < 0 || f->opcode == opcode) && (!f->base.on || (f->base.on & direction));
}

struct cmd680_fault *cmd680_fault_find(struct drive *d, unsigned int kind, uint8_t opcode, unsigned int direction)
{
	struct model *m = d->ch->m;

	for (unsigned int i = 0; i < m->faults.n; i++)
		if (matches(&m->fault[i], d, kind, opcode, direction))
			return &m->fault[i];
	return NULL;
}

bool cmd680_fault_take(struct drive *d, unsigned int kind, uint8_t opcode, unsigned int direction)
{
	struct cmd680_fault *f = cmd680_fault_find(d, kind, opcode, direction);

	if (!f)
		return false;
	faults_hit(&d->ch->m->faults, &f->base);
	return true;
}

/* The bad-sector fault with the lowest sector inside the range; *first is that sector. */
struct cmd680_fault *cmd680_fault_bad_sector(struct drive *d, uint64_t lba, uint64_t sectors, bool write,
					     uint64_t *first)
{
	struct model *m = d->ch->m;
	struct cmd680_fault *found = NULL;

	for (unsigned int i = 0; i < m->faults.n; i++) {
		struct cmd680_fault *f = &m->fault[i];
		uint64_t at = f->lba > lba ? f->lba : lba;

		if (!matches(f, d, CMD680_FAULT_BAD_SECTOR, d->cur[TF_COMMAND],
			     write ? CMD680_ON_WRITE : CMD680_ON_READ))
			continue;
		if (at - lba >= sectors || at - f->lba >= f->sectors || (found && at >= *first))
			continue;
		found = f;
		*first = at;
	}
	return found;
}

/* How long the medium takes for a command, in ns. */
uint64_t cmd680_fault_delay(struct drive *d, uint64_t bytes, unsigned int direction)
{
	struct cmd680_fault *f = cmd680_fault_find(d, CMD680_FAULT_SLOW, d->cur[TF_COMMAND], direction);
	double ns;

	if (!f)
		return 0;
	ns = f->seek_ms * 1e6;
	if (f->mbps > 0)
		ns += (double)bytes * 1000.0 / f->mbps;
	faults_hit(&d->ch->m->faults, &f->base);
	return ns > 3.6e12 ? (uint64_t)3600000000000u : (uint64_t)ns;
}

static void unplug(struct drive *d)
{
	ata_stop(d);
	d->unplugged = true;
	d->stuck = 0;
	d->status = 0;
	cmd680_irq_update(d->ch);
}

/*
 * The selected drive raises INTRQ with nothing to say, until its status is
 * read. In a command of its own it does not: that is a glitch, after which
 * the line and INTA# are as before, and only the latch remembers it.
 */
static void spurious(struct channel *ch)
{
	struct drive *d = &ch->drive[ch->select];
	bool pending = d->irq;

	d->irq = true;
	cmd680_irq_update(ch);
	if (d->status & (ATA_BSY | ATA_DRQ)) {
		d->irq = pending;
		cmd680_irq_update(ch);
	}
}

static int start(struct faults *s, struct fault *fault)
{
	struct cmd680_fault *f = (struct cmd680_fault *)fault;
	struct model *m = s->model;
	struct drive *d = NULL;

	if (fault->kind >= CMD680_FAULT_KINDS || f->drive >= CMD680_DRIVES || !(f->seek_ms >= 0) || !(f->mbps >= 0))
		return -EINVAL;
	if (f->drive >= 0) {
		d = &m->ch[f->drive / 2].drive[f->drive % 2];
		if (!d->present)
			return -ENODEV;
	}
	if (fault->kind == CMD680_FAULT_SPURIOUS_IRQ) {
		if (!d)
			return -EINVAL;
		fault->count = 1;
		faults_hit(s, fault);
		spurious(d->ch);
	} else if (fault->kind == CMD680_FAULT_UNPLUG) {
		if (!d)
			return -EINVAL;
		if (!d->unplugged) {
			fault->count = 0;
			fault->hits = 1;
			unplug(d);
		}
	}
	return 0;
}

/* Whether its medium takes time for a command. */
static bool waits(const struct drive *d)
{
	const struct job *job = &d->ch->job;

	return job->armed && !job->sync && job->drive == d && d->x.kind != XFER_NONE;
}

static void mend(struct faults *s, const struct fault *fault)
{
	const struct cmd680_fault *f = (const struct cmd680_fault *)fault;
	struct model *m = s->model;

	for (unsigned int i = 0; i < CMD680_DRIVES; i++) {
		struct drive *d = &m->ch[i / 2].drive[i % 2];

		if (f->base.kind == CMD680_FAULT_STUCK_BSY && d->stuck == f->base.id) {
			d->stuck = 0;
			ata_stop(d);
			ata_signature(d);
		}
		if (f->base.kind == CMD680_FAULT_UNPLUG && f->drive == (int32_t)i) {
			d->unplugged = false;
			d->unseen = true;
			ata_power_up(d);
		}
		if (waits(d) && matches(f, d, CMD680_FAULT_SLOW, d->cur[TF_COMMAND],
					d->x.write ? CMD680_ON_WRITE : CMD680_ON_READ))
			cmd680_worker_hurry(d->ch);
	}
}

_Static_assert(!offsetof(struct cmd680_fault, base), "faults.c takes one for the other");

void cmd680_faults_init(struct model *m)
{
	m->faults = (struct faults){
		.model = m, .lock = &m->lock, .array = m->fault, .size = sizeof(m->fault[0]),
		.start = start, .mend = mend,
	};
}

struct faults *cmd680_faults(struct usrdrv_model *model)
{
	return &to_model(model)->faults;
}
