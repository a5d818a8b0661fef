// SPDX-License-Identifier: MIT
/* PCI configuration space: the header (section 2), aliases of the register file (section 3); RST#. */
#include <string.h>

#include "cmd680_priv.h"

#define COMMAND_STORED	0x0157u		/* I/O, memory, master, MWI, parity, SERR */
#define STATUS_LOW	0xb0u		/* capabilities, 66 MHz, fast back-to-back */
#define STATUS_HIGH	0x02u		/* DEVSEL medium */
#define STATUS_HIGH_W1C	0xf9u

static void put16(uint8_t *at, unsigned int value)
{
	at[0] = (uint8_t)value;
	at[1] = (uint8_t)(value >> 8);
}

static void put32(uint8_t *at, uint32_t value)
{
	put16(at, value & 0xffff);
	put16(at + 2, value >> 16);
}

static void reset(struct model *m)
{
	uint8_t *c = m->cfg;

	memset(c, 0, sizeof(m->cfg));
	put16(c + 0x00, CMD680_VENDOR);
	put16(c + 0x02, CMD680_DEVICE);
	c[0x06] = STATUS_LOW;
	c[0x07] = STATUS_HIGH;
	c[0x08] = 0x02;
	c[0x09] = m->config.pci_class == 0x0101 ? 0x85 : 0x00;
	put16(c + 0x0a, m->config.pci_class);
	for (unsigned int i = 0; i < 5; i++)
		c[0x10 + 4 * i] = 0x01;
	put16(c + 0x2c, CMD680_VENDOR);
	put16(c + 0x2e, CMD680_DEVICE);
	c[0x34] = CMD680_CFG_PMCAP;
	c[0x3d] = 0x01;
	put32(c + CMD680_CFG_PMCAP, 0x06220001);
	put32(c + CMD680_CFG_PMCSR, 0x64004000);
}

/* RST#: everything, and RESET- to the drives. */
void cmd680_reset_all(struct model *m)
{
	reset(m);
	cmd680_regs_reset(m);
	for (unsigned int i = 0; i < 2; i++) {
		cmd680_bm_reset(&m->ch[i]);
		m->ch[i].bm_sw = 0;
		m->ch[i].prd = 0;
		ata_hard_reset(&m->ch[i]);
	}
	cmd680_irq_update(&m->ch[0]);
	cmd680_irq_update(&m->ch[1]);
}

/* The BAR5 offset behind a configuration offset, or 0xffff. */
static uint32_t alias(uint32_t offset)
{
	if (offset >= 0x70 && offset < 0x80)
		return offset - CMD680_CFG_BM;
	if (offset >= 0x80 && offset < 0x88)
		return CMD680_MODE + (offset & 3) + (offset & 4 ? CMD680_CH_STRIDE : 0);
	if (offset >= 0x88 && offset < 0xa0)
		return offset - CMD680_CFG_SYSCFG + CMD680_SYSCFG;
	if (offset >= 0xa0 && offset < 0xb0)
		return offset;
	if (offset >= 0xb0 && offset < 0xc0)
		return offset - CMD680_CFG_CH1 + CMD680_CHCFG + CMD680_CH_STRIDE;
	return 0xffff;
}

static uint8_t read_byte(struct model *m, uint32_t offset)
{
	uint32_t reg = alias(offset);

	if (reg != 0xffff)
		return (uint8_t)cmd680_regs_read(m, reg, 1);
	return m->cfg[offset];
}

static void write_bar(struct model *m, uint32_t offset, uint8_t value)
{
	const struct usrdrv_model_bar *bar = &m->base.bar[(offset - 0x10) / 4];
	uint32_t fixed = (uint32_t)(bar->size - 1) | (bar->flags & USRDRV_BAR_IO ? 3 : 15);
	unsigned int shift = offset % 4 * 8;
	uint8_t mask = (uint8_t)(~fixed >> shift);

	m->cfg[offset] = (uint8_t)((m->cfg[offset] & ~mask) | (value & mask));
}

static void write_pm(struct model *m, uint8_t value)
{
	uint8_t old = m->cfg[CMD680_CFG_PMCSR] & PM_STATE;

	m->cfg[CMD680_CFG_PMCSR] = value & PM_STATE;
	if (old == 3 && !(value & PM_STATE)) {
		cmd680_reset_all(m);		/* D3hot to D0 is a reset (PCI PM 1.1) */
		return;
	}
	for (unsigned int i = 0; i < 2; i++) {
		if (value & PM_STATE)
			cmd680_bm_stop(&m->ch[i]);
		cmd680_irq_update(&m->ch[i]);
	}
}

static void write_byte(struct model *m, uint32_t offset, uint8_t value)
{
	uint8_t *c = m->cfg;
	bool unlocked = c[CMD680_CFG_CONFIG] & 1;
	uint32_t reg = alias(offset);

	if (reg != 0xffff) {
		cmd680_regs_write(m, reg, 1, value);
		return;
	}
	switch (offset) {
	case 0x04:
	case 0x05:
		c[offset] = value & (uint8_t)(COMMAND_STORED >> ((offset - 4) * 8));
		break;
	case 0x07:
		c[offset] &= (uint8_t)~(value & STATUS_HIGH_W1C);
		break;
	case 0x0c:	/* any value: drivers put magic here */
	case 0x0d:
	case 0x3c:
	case 0x44 ... 0x47:
		c[offset] = value;
		break;
	case 0x10 ... 0x27:
		write_bar(m, offset, value);
		break;
	case 0x02 ... 0x03:
	case 0x09 ... 0x0b:
	case 0x2c ... 0x2f:
		if (unlocked)
			c[offset] = value;
		break;
	case CMD680_CFG_CONFIG:
		c[offset] = value & 1;
		break;
	case CMD680_CFG_PMCSR:
		write_pm(m, value);
		break;
	}
}

uint32_t cmd680_config_read(struct model *m, uint32_t offset, unsigned int width)
{
	uint32_t value = 0;

	for (unsigned int i = 0; i < width; i++)
		value |= (uint32_t)read_byte(m, offset + i) << (i * 8);
	return value;
}

void cmd680_config_write(struct model *m, uint32_t offset, unsigned int width, uint32_t value)
{
	/* The engine's start bit counts last, as in the register file. */
	if (offset >= 0x70 && offset + width <= 0x80) {
		cmd680_regs_write(m, offset - CMD680_CFG_BM, width, value);
		return;
	}
	for (unsigned int i = 0; i < width; i++)
		write_byte(m, offset + i, (uint8_t)(value >> (i * 8)));
}
