// SPDX-License-Identifier: MIT
/* INTRQ of a channel, and INTA# (section 5). */
#include "cmd680_priv.h"

/* A channel's part in INTA#: the live line, not the latch that remembers it (section 5). */
static bool interrupts(const struct channel *ch)
{
	uint32_t block = ch->index ? CMD680_SYSCFG_INT1_BLOCK : CMD680_SYSCFG_INT0_BLOCK;

	return ch->intrq && !(ch->m->syscfg & block);
}

/*
 * The INTRQ line of a channel, the latch in its bus-master status, then INTA#.
 * Data is in memory before a drive raises INTRQ here, so neither latch nor
 * INTA# needs a second condition while the engine runs (section 5).
 */
void cmd680_irq_update(struct channel *ch)
{
	struct model *m = ch->m;
	struct drive *d = &ch->drive[ch->select];
	bool intrq = drive_there(d) && d->irq && !(ch->control & ATA_CTL_NIEN);
	bool inta;

	if (intrq && !ch->intrq)
		ch->bm_status |= CMD680_BM_INT;
	ch->intrq = intrq;

	inta = (interrupts(&m->ch[0]) || interrupts(&m->ch[1])) && powered(m);
	if (inta == m->inta)
		return;
	m->inta = inta;
	if (inta)
		m->count.interrupts++;
	if (m->base.host.irq)
		m->base.host.irq(m->base.host.ctx, inta);
}
