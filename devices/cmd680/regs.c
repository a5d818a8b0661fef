// SPDX-License-Identifier: MIT
/* The register file, by BAR5 offset (sections 3 and 4). */
#include "cmd680_priv.h"

#define SYSCFG_STORED	0x00f000f3u	/* section 4.1.2 */
#define CHCFG_STORED	0xffff620cu	/* section 4.1.3: timing, bits 2, 3, 9, 13, 14 */
#define FIFO_STORED	0x00003f3fu	/* section 4.4: the two thresholds */
#define MODE_STORED	0x33u		/* section 4.1.1 */

/* Section 14.5. */
void cmd680_regs_reset(struct model *m)
{
	m->syscfg = 0;
	m->sw_data = 0;
	m->cfg_sw_data = 0;
	m->flash = 0;
	m->eeprom = 0;
	for (unsigned int i = 0; i < 2; i++) {
		struct channel *ch = &m->ch[i];

		ch->chcfg = 0x65150000;
		ch->timing[0] = 0x62dd62dd;
		ch->timing[1] = 0x43924392;
		ch->timing[2] = 0x40094009;
		ch->mode = 0;
		ch->fifo = 0;
		ch->vdma = 0;
	}
}

static uint8_t byte_of(uint32_t value, uint32_t offset)
{
	return (uint8_t)(value >> (offset % 4 * 8));
}

static void set_byte(uint32_t *reg, uint32_t offset, uint8_t value, uint32_t stored)
{
	unsigned int shift = offset % 4 * 8;
	uint32_t mask = stored & 0xffu << shift;

	*reg = (*reg & ~mask) | ((uint32_t)value << shift & mask);
}

static uint32_t chcfg_read(const struct channel *ch)
{
	return ch->chcfg | (ch->m->config.cable80[ch->index] ? CMD680_CHCFG_CABLE80 : 0) |
		(ch->intrq ? CMD680_CHCFG_INTRQ : 0);
}

/* Bits 10 (virtual DMA) and 12 (watchdog) are W1C and never rise here: PIO cannot stall. */
static void chcfg_write(struct channel *ch, uint32_t offset, uint8_t value)
{
	uint32_t old = ch->chcfg;

	set_byte(&ch->chcfg, offset, value, CHCFG_STORED);
	/* RESET- to the drives on both edges: held, then released. */
	if ((old ^ ch->chcfg) & CMD680_CHCFG_RESET)
		ata_hard_reset(ch);
}

static void syscfg_write(struct model *m, uint32_t offset, uint8_t value)
{
	set_byte(&m->syscfg, offset, value, SYSCFG_STORED);
	for (unsigned int i = 0; i < 2; i++) {
		if (engine_held(&m->ch[i]))
			cmd680_bm_reset(&m->ch[i]);
		cmd680_irq_update(&m->ch[i]);
	}
}

/* 0x80-0xff: channel 1 is 0x40 above channel 0. */
static uint8_t channel_read(struct channel *ch, uint32_t reg)
{
	if (reg >= CMD680_TF_ERROR && reg <= CMD680_TF_STATUS)
		return ata_read(ch, reg - CMD680_TF_DATA, false);
	if (reg == CMD680_TF_DATA)
		return (uint8_t)ata_data_read(ch);
	if (reg == CMD680_TF_ALTSTATUS)
		return ata_read(ch, TF_COMMAND, true);
	if (reg >= CMD680_VDMA_COUNT && reg < CMD680_VDMA_COUNT + 4)
		return byte_of(ch->vdma, reg);
	if (reg >= CMD680_CHCFG && reg < CMD680_CHCFG + 4)
		return byte_of(chcfg_read(ch), reg);
	if (reg >= CMD680_PIO_TIMING && reg < CMD680_PIO_TIMING + 12)
		return byte_of(ch->timing[(reg - CMD680_PIO_TIMING) / 4], reg);
	return reg == CMD680_MODE ? ch->mode : 0;
}

static void channel_write(struct channel *ch, uint32_t reg, uint8_t value)
{
	if (reg >= CMD680_TF_ERROR && reg <= CMD680_TF_STATUS)
		ata_write(ch, reg - CMD680_TF_DATA, value);
	else if (reg == CMD680_TF_DATA)
		ata_data_write(ch, value);
	else if (reg == CMD680_TF_ALTSTATUS)
		ata_control(ch, value);
	else if (reg > CMD680_TF_BUFFERED && reg < CMD680_TF_BUFFERED + 8)
		ata_write(ch, reg - CMD680_TF_BUFFERED, value);	/* the queue drains at once */
	else if (reg >= CMD680_VDMA_COUNT && reg < CMD680_VDMA_COUNT + 4)
		set_byte(&ch->vdma, reg, value, UINT32_MAX);
	else if (reg >= CMD680_CHCFG && reg < CMD680_CHCFG + 4)
		chcfg_write(ch, reg, value);
	else if (reg >= CMD680_PIO_TIMING && reg < CMD680_PIO_TIMING + 12)
		set_byte(&ch->timing[(reg - CMD680_PIO_TIMING) / 4], reg, value, UINT32_MAX);
	else if (reg == CMD680_MODE)
		ch->mode = value & MODE_STORED;
}

static uint8_t read_byte(struct model *m, uint32_t offset)
{
	if (offset < 0x20)
		return cmd680_bm_read(&m->ch[offset / 8 % 2], offset / 16 * 16 + offset % 8);
	if (offset < 0x30) {
		struct channel *ch = &m->ch[offset / 8 % 2];

		return byte_of(offset % 8 < 4 ? ch->prd_cur : ch->seg_left, offset);
	}
	if (offset >= CMD680_FIFO_CTL && offset < CMD680_FIFO_CTL + 8)
		return byte_of(m->ch[offset / 4 % 2].fifo, offset);
	if (offset >= CMD680_SYSCFG && offset < CMD680_SYSCFG + 4)
		return byte_of(m->syscfg | (m->config.no_bar5 ? 0 : CMD680_SYSCFG_BA5_EN), offset);
	if (offset >= CMD680_SW_DATA && offset < CMD680_SW_DATA + 4)
		return byte_of(m->sw_data, offset);
	if (offset >= CMD680_FLASH_CMD && offset < CMD680_FLASH_CMD + 4)
		return byte_of(m->flash, offset);
	if (offset >= CMD680_EEPROM_CMD && offset < CMD680_EEPROM_CMD + 4)
		return byte_of(m->eeprom, offset);
	/* No flash and no EEPROM: the data lines float (sections 4.6, 4.7). */
	if (offset == CMD680_FLASH_DATA || offset == CMD680_EEPROM_DATA)
		return 0xff;
	if (offset >= 0x80)
		return channel_read(&m->ch[offset / CMD680_CH_STRIDE % 2], offset & ~CMD680_CH_STRIDE);
	return 0;
}

static void write_byte(struct model *m, uint32_t offset, uint8_t value)
{
	if (offset < 0x20) {
		struct channel *ch = &m->ch[offset / 8 % 2];

		if (cmd680_bm_write(ch, offset / 16 * 16 + offset % 8, value))
			ata_xfer_run(ch);
	} else if (offset >= CMD680_FIFO_CTL && offset < CMD680_FIFO_CTL + 8) {
		set_byte(&m->ch[offset / 4 % 2].fifo, offset, value, FIFO_STORED);
	} else if (offset >= CMD680_SYSCFG && offset < CMD680_SYSCFG + 4) {
		syscfg_write(m, offset, value);
	} else if (offset >= CMD680_SW_DATA && offset < CMD680_SW_DATA + 4) {
		set_byte(&m->sw_data, offset, value, UINT32_MAX);
	} else if (offset >= CMD680_FLASH_CMD && offset < CMD680_FLASH_CMD + 4) {
		/* The start bit clears itself at once. */
		set_byte(&m->flash, offset, value, ~CMD680_MEM_START);
	} else if (offset >= CMD680_EEPROM_CMD && offset < CMD680_EEPROM_CMD + 4) {
		set_byte(&m->eeprom, offset, value, 0x0100ffff);
		if (offset % 4 == 3 && value & CMD680_MEM_START >> 24)
			m->eeprom |= CMD680_EEPROM_ERROR;
	} else if (offset >= 0x80) {
		channel_write(&m->ch[offset / CMD680_CH_STRIDE % 2], offset & ~CMD680_CH_STRIDE, value);
	}
}

/* The data port takes 16 and 32 bits, low word first (section 3). */
static bool is_data(uint32_t offset, unsigned int width)
{
	return width > 1 && (offset & ~CMD680_CH_STRIDE) == CMD680_TF_DATA;
}

uint32_t cmd680_regs_read(struct model *m, uint32_t offset, unsigned int width)
{
	uint32_t value = 0;

	if (is_data(offset, width)) {
		struct channel *ch = &m->ch[offset / CMD680_CH_STRIDE % 2];

		value = ata_data_read(ch);
		if (width == 4)
			value |= (uint32_t)ata_data_read(ch) << 16;
		return value;
	}
	for (unsigned int i = 0; i < width; i++)
		value |= (uint32_t)read_byte(m, offset + i) << (i * 8);
	return value;
}

void cmd680_regs_write(struct model *m, uint32_t offset, unsigned int width, uint32_t value)
{
	if (is_data(offset, width)) {
		struct channel *ch = &m->ch[offset / CMD680_CH_STRIDE % 2];

		ata_data_write(ch, (uint16_t)value);
		if (width == 4)
			ata_data_write(ch, (uint16_t)(value >> 16));
		return;
	}
	/* In a wide write the start bit counts last for the engine, the command for the task file. */
	for (unsigned int i = 0; i < width; i++) {
		unsigned int k = offset < 0x20 ? width - 1 - i : i;

		write_byte(m, offset + k, (uint8_t)(value >> (k * 8)));
	}
}
