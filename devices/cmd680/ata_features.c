// SPDX-License-Identifier: MIT
/* SET FEATURES (section 7.4), and whether host and drive agree on the mode (sections 4.5 and 8). */
#include "cmd680_priv.h"

/* false: the drive has no such mode. */
static bool set_mode(struct drive *d, uint8_t code)
{
	int n = code & 7;

	switch (code & 0xf8) {
	case 0x00:
		if (n > 1)
			return false;
		d->pio = DEFAULT_PIO;
		return true;
	case ATA_XFER_PIO:
		if (n > 4)
			return false;
		d->pio = n;
		return true;
	case ATA_XFER_MWDMA:
		if (n > d->config.max_mwdma)
			return false;
		d->mwdma = n;
		d->udma = -1;
		d->pio = FASTEST_PIO;	/* a drive in DMA takes PIO as it comes: IORDY holds the host back */
		return true;
	case ATA_XFER_UDMA:
		if (n > d->config.max_udma)
			return false;
		d->udma = n;
		d->mwdma = -1;
		d->pio = FASTEST_PIO;
		return true;
	}
	return false;
}

void ata_set_features(struct drive *d)
{
	uint8_t n = d->cur[TF_NSECT];

	switch (d->cur[TF_FEATURES]) {
	case ATA_SF_WCACHE_ON:
		if (d->config.no_flush) {
			ata_abort(d);
			return;
		}
		d->write_cache = true;
		break;
	case ATA_SF_WCACHE_OFF:
		/* What the cache holds must not be lost by turning it off. */
		d->write_cache = false;
		ata_xfer_durable(d);
		return;
	case ATA_SF_XFER_MODE:
		if (!set_mode(d, n)) {
			ata_abort(d);
			return;
		}
		break;
	case ATA_SF_APM_ON:
		if (n < 1 || n > 0xfe) {
			ata_abort(d);
			return;
		}
		d->apm = n;
		break;
	case ATA_SF_APM_OFF:
		d->apm = 0;
		break;
	case ATA_SF_PUIS_ON:
	case ATA_SF_PUIS_OFF:
		if (!d->config.puis) {
			ata_abort(d);
			return;
		}
		d->puis = d->cur[TF_FEATURES] == ATA_SF_PUIS_ON;
		break;
	case ATA_SF_SPIN_UP:
		if (d->config.puis)
			ata_spin_up(d);
		else
			ata_abort(d);
		return;
	case ATA_SF_LOOKAHEAD_ON:
		d->look_ahead = true;
		break;
	case ATA_SF_LOOKAHEAD_OFF:
		d->look_ahead = false;
		break;
	case ATA_SF_KEEP_DEFAULTS:
		d->keep_settings = true;
		break;
	case ATA_SF_REVERT_DEFAULTS:
		d->keep_settings = false;
		break;
	default:
		ata_abort(d);
		return;
	}
	ata_ok(d);
}

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
	cmd680_fault_hit(d->ch->m, f);
	return true;
}
