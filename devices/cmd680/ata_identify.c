// SPDX-License-Identifier: MIT
/* IDENTIFY DEVICE data (section 7.5). */
#include <string.h>

#include "cmd680_priv.h"

static void put(uint8_t *out, unsigned int word, unsigned int value)
{
	out[word * 2] = (uint8_t)value;
	out[word * 2 + 1] = (uint8_t)(value >> 8);
}

static void put64(uint8_t *out, unsigned int word, uint64_t value, unsigned int words)
{
	for (unsigned int i = 0; i < words; i++)
		put(out, word + i, value >> (16 * i) & 0xffff);
}

/* First character in the high byte, padded with spaces. */
static void put_string(uint8_t *out, unsigned int word, const char *s, unsigned int len)
{
	size_t have = strnlen(s, len);

	for (unsigned int i = 0; i < len; i++)
		out[(word * 2 + i) ^ 1] = i < have ? (uint8_t)s[i] : ' ';
}

static unsigned int modes(int max)
{
	return max < 0 ? 0 : (2u << max) - 1;
}

static unsigned int selected(int mode)
{
	return mode < 0 ? 0 : 0x100u << mode;
}

static unsigned int feature_bits(const struct drive *d, bool smart, bool cache, bool ahead)
{
	/* NOP, read and write buffer, HPA, power management; SMART, cache, look-ahead as given */
	return 0x7408 | (smart ? 0x01 : 0) | (cache ? 0x20 : 0) | (ahead ? 0x40 : 0);
}

static void geometry(struct drive *d, uint8_t *out)
{
	uint64_t cylinders = d->sectors / (16 * 63);
	uint64_t current = d->sectors / ((uint64_t)d->heads * d->spt);

	cylinders = cylinders > 16383 ? 16383 : cylinders;
	current = current > 16383 ? 16383 : current;
	put64(out, 1, cylinders, 1);
	put(out, 3, 16);
	put(out, 6, 63);
	put64(out, 54, current, 1);
	put(out, 55, d->heads);
	put(out, 56, d->spt);
	put64(out, 57, current * d->heads * d->spt, 2);
}

static void sizes(struct drive *d, uint8_t *out)
{
	uint64_t low = d->sectors < ATA_LBA28_MAX ? d->sectors : ATA_LBA28_MAX - 1;

	put64(out, 60, low, 2);
	if (d->config.lba48)
		put64(out, 100, d->sectors, 4);
	if (d->config.physical_4k)
		put(out, 106, 0x6003);
	put(out, 209, d->config.physical_4k ? 0x4000 : 0);
}

/* What the drive learned about cable and neighbour at reset; never zero (section 12 item 16). */
static unsigned int reset_result(const struct drive *d)
{
	unsigned int wires = d->ch->m->config.cable80[d->ch->index] ? 0x2000 : 0;

	return (d->index % 2 ? 0x4b00 : 0x400b) | wires;
}

/**
 * ata_identify() - the 512 bytes of IDENTIFY DEVICE as of now
 * @d: the drive
 * @out: filled
 */
void ata_identify(struct drive *d, uint8_t *out)
{
	const struct cmd680_drive_config *c = &d->config;
	bool dma = c->max_udma >= 0 || c->max_mwdma >= 0;
	unsigned int set83 = 0x0008 | (c->no_flush ? 0 : 0x1000) | (c->lba48 ? 0x0400 : 0) |
		(c->lba48 && !c->no_flush ? 0x2000 : 0) | (c->puis ? 0x0020 : 0) |
		(c->puis == ATA_PUIS_SET_FEATURES_SHORT || c->puis == ATA_PUIS_SET_FEATURES ? 0x0040 : 0);
	unsigned int set84 = 0x4000 | (c->lba48 && dma ? 0x40 : 0);
	uint8_t sum = 0;

	memset(out, 0, SECTOR);
	put(out, 0, c->general ? c->general : 0x0040);
	put(out, 2, ata_spin_word(d));
	if (ata_spin_word(d) == ATA_PUIS_SET_FEATURES_SHORT || ata_spin_word(d) == ATA_PUIS_ACCESS_SHORT) {
		put(out, 0, 0x0044);	/* incomplete: the rest is on the medium */
		return;
	}
	geometry(d, out);
	put_string(out, 10, c->serial, 20);
	put_string(out, 23, c->firmware, 8);
	put_string(out, 27, c->model, 40);
	put(out, 47, 0x8000 | MAX_MULTIPLE);
	put(out, 49, 0x2e00 | (dma ? 0x100 : 0));
	put(out, 50, 0x4000);
	put(out, 51, 0x0200);
	put(out, 53, 0x0003 | (c->max_udma >= 0 ? 4 : 0));
	put(out, 59, d->multiple ? 0x0100u | d->multiple : 0);
	sizes(d, out);
	put(out, 63, modes(c->max_mwdma) | selected(d->mwdma));
	put(out, 64, 0x0003);
	for (unsigned int i = 65; i <= 68; i++)
		put(out, i, 120);
	if (d->store.can_trim && c->lba48 && dma) {
		put(out, 69, 0x4020);	/* trimmed sectors read as zeros, always */
		put(out, 105, MAX_DSM_BLOCKS);
		put(out, 169, 1);
	}
	put(out, 80, 0x00f0);
	put(out, 82, feature_bits(d, true, !c->no_flush, true));
	put(out, 83, 0x4000 | set83);
	put(out, 84, set84);
	put(out, 85, feature_bits(d, d->smart, d->write_cache, d->look_ahead));
	put(out, 86, set83 & ~((d->apm ? 0 : 8u) | (d->puis ? 0 : 0x20u)));
	put(out, 87, set84);
	put(out, 88, modes(c->max_udma) | selected(d->udma));
	put(out, 91, d->apm);
	put(out, 93, reset_result(d));
	put(out, 217, c->rpm);
	out[510] = 0xa5;
	for (unsigned int i = 0; i < 511; i++)
		sum = (uint8_t)(sum + out[i]);
	out[511] = (uint8_t)-sum;
}
