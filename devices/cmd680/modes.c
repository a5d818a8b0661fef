// SPDX-License-Identifier: MIT
/* Whether host and drive agree on the mode, and the cable with both (sections 4.5 and 8). */
#include "cmd680_priv.h"

static unsigned int host_mode(const struct drive *d)
{
	return d->ch->mode >> (d->index % 2 * 4) & 3;
}

static unsigned int half(uint32_t timing, const struct drive *d)
{
	return timing >> (d->index % 2 * 16) & 0xffff;
}

static bool needs_80_wires(const struct drive *d)
{
	return d->udma > 2 && !d->ch->m->config.cable80[d->ch->index];
}

/* Of a PIO or multiword DMA timing word, section 4.5. */
static unsigned int cycle_ns(unsigned int word)
{
	return ((word >> 6 & 0x3f) + (word & 0x3f)) * 30;
}

/* The host would clock the data faster than the drive was told to, or with another protocol. */
static bool disagree(const struct drive *d)
{
	static const uint8_t clocks[2][7] = {	/* section 4.5: at 100 and at 133 MHz */
		{ 0x0c, 0x07, 0x05, 0x04, 0x02, 0x01, 0xff },
		{ 0x0f, 0x0b, 0x07, 0x05, 0x03, 0x02, 0x01 },
	};
	static const unsigned int least_ns[3] = { 480, 150, 120 };
	uint32_t clock = d->ch->m->syscfg & CMD680_SYSCFG_CLK_MASK;

	if (clock == CMD680_SYSCFG_CLK_OFF)
		return true;
	if (d->udma >= 0)
		return host_mode(d) != CMD680_MODE_UDMA ||
			(half(d->ch->timing[2], d) & CMD680_UDMA_CYCLE_MASK) <
			clocks[clock != CMD680_SYSCFG_CLK_100][d->udma];
	if (d->mwdma < 0 || host_mode(d) != CMD680_MODE_MWDMA)
		return true;
	return cycle_ns(half(d->ch->timing[1], d)) < least_ns[d->mwdma];
}

/* DMA that works by luck, if at all. */
bool ata_mode_mismatch(const struct drive *d)
{
	return needs_80_wires(d) || disagree(d);
}

/* Strict: DMA in another mode than the drive's. Too few wires are no matter of modes, and damage data themselves. */
bool ata_mode_refused(const struct drive *d)
{
	return disagree(d) && cmd680_strict_refuses(d->ch, STRICT_TIMING);
}

/* Strict: data through the data register, faster than the drive may be read. */
bool ata_pio_refused(const struct drive *d)
{
	static const unsigned int least_ns[] = { 600, 383, 240, 180, 120 };

	return cycle_ns(half(d->ch->timing[0], d)) < least_ns[d->pio] && cmd680_strict_refuses(d->ch, STRICT_TIMING);
}

/* UDMA data arrives damaged: by a fault, or because the cable cannot carry the speed. */
bool ata_mode_crc(struct drive *d)
{
	struct cmd680_fault *f;

	if (d->udma < 0)
		return false;
	if (needs_80_wires(d))
		return true;
	f = cmd680_fault_find(d, CMD680_FAULT_CRC, d->cur[TF_COMMAND],
			      d->x.write ? CMD680_ON_WRITE : CMD680_ON_READ);
	if (!f || (f->above >= 0 && d->udma <= f->above))
		return false;
	faults_hit(&d->ch->m->faults, &f->base);
	return true;
}
