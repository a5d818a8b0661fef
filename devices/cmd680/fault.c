// SPDX-License-Identifier: MIT
/* Faults on request: what hardware does when it breaks (section 14.4). */
#include <errno.h>
#include <string.h>

#include "cmd680_priv.h"

static bool matches(const struct cmd680_fault *f, const struct drive *d, unsigned int kind,
		    uint8_t opcode, unsigned int direction)
{
	return f->kind == kind && (f->drive < 0 || f->drive == (int32_t)d->index) &&
		(f->opcode < 0 || f->opcode == opcode) && (!f->on || (f->on & direction));
}

struct cmd680_fault *cmd680_fault_find(struct drive *d, unsigned int kind, uint8_t opcode, unsigned int direction)
{
	struct model *m = d->ch->m;

	for (unsigned int i = 0; i < m->faults; i++)
		if (matches(&m->fault[i], d, kind, opcode, direction))
			return &m->fault[i];
	return NULL;
}

static void drop(struct model *m, unsigned int i)
{
	m->faults--;
	memmove(&m->fault[i], &m->fault[i + 1], (m->faults - i) * sizeof(m->fault[0]));
}

/* Count a hit; the fault may be gone afterwards. */
void cmd680_fault_hit(struct model *m, struct cmd680_fault *f)
{
	f->hits++;
	if (f->count && f->hits >= f->count)
		drop(m, (unsigned int)(f - m->fault));
}

bool cmd680_fault_take(struct drive *d, unsigned int kind, uint8_t opcode, unsigned int direction)
{
	struct cmd680_fault *f = cmd680_fault_find(d, kind, opcode, direction);

	if (!f)
		return false;
	cmd680_fault_hit(d->ch->m, f);
	return true;
}

/* The bad-sector fault with the lowest sector inside the range; *first is that sector. */
struct cmd680_fault *cmd680_fault_bad_sector(struct drive *d, uint64_t lba, uint64_t sectors, bool write,
					     uint64_t *first)
{
	struct model *m = d->ch->m;
	struct cmd680_fault *found = NULL;

	for (unsigned int i = 0; i < m->faults; i++) {
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
	cmd680_fault_hit(d->ch->m, f);
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

/* Undo what the fault holds down. */
static void release(struct model *m, const struct cmd680_fault *f)
{
	for (unsigned int i = 0; i < CMD680_DRIVES; i++) {
		struct drive *d = &m->ch[i / 2].drive[i % 2];

		if (f->kind == CMD680_FAULT_STUCK_BSY && d->stuck == f->id) {
			d->stuck = 0;
			ata_stop(d);
			ata_signature(d);
		}
		if (f->kind == CMD680_FAULT_UNPLUG && f->drive == (int32_t)i) {
			d->unplugged = false;
			d->unseen = true;
			ata_power_up(d);
		}
	}
}

/**
 * cmd680_fault_add() - break something from now on
 * @model: the controller
 * @fault: what; id and hits are ignored
 *
 * Return: the fault's id (> 0), -EINVAL, -ENODEV when there is no such drive, -ENOSPC.
 */
int cmd680_fault_add(struct usrdrv_model *model, const struct cmd680_fault *fault)
{
	struct model *m = to_model(model);
	bool needs_drive = fault->kind == CMD680_FAULT_UNPLUG || fault->kind == CMD680_FAULT_SPURIOUS_IRQ;
	struct cmd680_fault *f;
	struct drive *d = NULL;
	int id;

	if (fault->kind >= CMD680_FAULT_KINDS || fault->drive >= CMD680_DRIVES ||
	    (needs_drive && fault->drive < 0))
		return -EINVAL;
	if (!(fault->seek_ms >= 0) || !(fault->mbps >= 0))
		return -EINVAL;
	pthread_mutex_lock(&m->lock);
	if (fault->drive >= 0)
		d = &m->ch[fault->drive / 2].drive[fault->drive % 2];
	if (d && !d->present) {
		id = -ENODEV;
	} else if (m->faults == MAX_FAULTS) {
		id = -ENOSPC;
	} else {
		f = &m->fault[m->faults++];
		*f = *fault;
		f->hits = 0;
		f->id = ++m->next_fault;
		id = (int)f->id;
		if (f->kind == CMD680_FAULT_SPURIOUS_IRQ) {
			f->count = 1;
			cmd680_fault_hit(m, f);
			spurious(d->ch);
		} else if (f->kind == CMD680_FAULT_UNPLUG && !d->unplugged) {
			f->count = 0;
			f->hits = 1;
			unplug(d);
		}
	}
	pthread_mutex_unlock(&m->lock);
	return id;
}

/**
 * cmd680_fault_clear() - mend it
 * @model: the controller
 * @id: of one fault; 0: all of them
 *
 * Return: how many were cleared, -ENOENT when @id is not there (any more).
 */
int cmd680_fault_clear(struct usrdrv_model *model, uint32_t id)
{
	struct model *m = to_model(model);
	int cleared = 0;

	pthread_mutex_lock(&m->lock);
	for (unsigned int i = m->faults; i-- > 0;) {
		struct cmd680_fault f = m->fault[i];

		if (id && f.id != id)
			continue;
		drop(m, i);
		release(m, &f);
		cleared++;
	}
	pthread_mutex_unlock(&m->lock);
	return id && !cleared ? -ENOENT : cleared;
}

/* Copy at most max faults; returns how many there are. */
int cmd680_fault_list(struct usrdrv_model *model, struct cmd680_fault *faults, int max)
{
	struct model *m = to_model(model);
	int n;

	pthread_mutex_lock(&m->lock);
	n = (int)m->faults;
	memcpy(faults, m->fault, (size_t)(n < max ? n : max) * sizeof(*faults));
	pthread_mutex_unlock(&m->lock);
	return n;
}
