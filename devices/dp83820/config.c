// SPDX-License-Identifier: MIT
/* PCI configuration space (section 2), and RST#. */
#include <string.h>

#include "nic.h"

#define COMMAND_STORED	0x0157u		/* I/O, memory, master, MWI, parity, SERR */
#define STATUS_LOW	0x90u		/* capabilities, fast back-to-back */
#define STATUS_HIGH	0x02u		/* DEVSEL medium */
#define STATUS_HIGH_W1C	0xf9u

static void put16(uint8_t *at, unsigned int value)
{
	at[0] = (uint8_t)value;
	at[1] = (uint8_t)(value >> 8);
}

static void reset(struct nic *n)
{
	uint8_t *c = n->cfg_space;

	memset(c, 0, sizeof(n->cfg_space));
	put16(c + 0x00, DP83820_VENDOR);
	put16(c + 0x02, DP83820_DEVICE);
	c[0x06] = STATUS_LOW;
	c[0x07] = STATUS_HIGH;
	c[0x0b] = 0x02;
	c[0x10] = 0x01;
	c[0x34] = DP83820_CFG_PMCAP;
	c[0x3d] = 0x01;
	put16(c + DP83820_CFG_PMCAP, 0x0001);
	put16(c + DP83820_CFG_PMCAP + 2, 0xfe02);	/* version 1.1; PME from every state */
}

/* RST#: everything, and what the EEPROM says. */
void nic_reset(struct nic *n)
{
	reset(n);
	nic_soft_reset(n, true);
	nic_eeprom_load(n);
	nic_phy_reset(n);
}

static void write_bar(struct nic *n, uint32_t offset, uint8_t value)
{
	unsigned int i = (offset - 0x10) / 4;
	const struct usrdrv_model_bar *bar = &n->base.bar[i];
	uint32_t fixed = bar->size ? (uint32_t)(bar->size - 1) | (bar->flags & USRDRV_BAR_IO ? 3 : 15) : UINT32_MAX;
	uint8_t mask = (uint8_t)(~fixed >> (offset % 4 * 8));

	if (i == 2 && n->base.bar[1].size && (n->cfg_space[0x14] & 4))
		mask = 0xff;	/* upper half of a 64-bit BAR1 */
	n->cfg_space[offset] = (uint8_t)((n->cfg_space[offset] & ~mask) | (value & mask));
}

static void write_power(struct nic *n, uint8_t value)
{
	bool was = nic_powered(n);
	uint8_t pme = n->cfg_space[DP83820_CFG_PMCSR + 1];
	uint32_t wcsr = n->wcsr, ccsr = n->ccsr;

	n->cfg_space[DP83820_CFG_PMCSR] = value & DP83820_PM_STATE;
	if (!was && nic_powered(n)) {
		nic_reset(n);		/* D3hot to D0, which leaves what PME is about (PCI PM 1.1, 5.4.1) */
		n->cfg_space[DP83820_CFG_PMCSR + 1] = pme;
		n->wcsr = wcsr;
		n->ccsr = ccsr;
	}
	nic_irq_update(n);
	nic_kick(n);
}

static void write_byte(struct nic *n, uint32_t offset, uint8_t value)
{
	uint8_t *c = n->cfg_space;

	switch (offset) {
	case 0x04:
	case 0x05:
		c[offset] = value & (uint8_t)(COMMAND_STORED >> ((offset - 4) * 8));
		nic_kick(n);
		break;
	case 0x07:
		c[offset] &= (uint8_t)~(value & STATUS_HIGH_W1C);
		break;
	case 0x0c:
	case 0x0d:
	case 0x3c:
		c[offset] = value;
		break;
	case 0x10 ... 0x1b:
		write_bar(n, offset, value);
		break;
	case DP83820_CFG_PMCSR:
		write_power(n, value);
		break;
	case DP83820_CFG_PMCSR + 1:
		c[offset] = (uint8_t)((value & 1) | (c[offset] & 0x80 & ~value));
		break;
	}
}

void nic_config_write(struct nic *n, uint32_t offset, unsigned int width, uint32_t value)
{
	for (unsigned int i = 0; i < width; i++)
		write_byte(n, offset + i, (uint8_t)(value >> (i * 8)));
}
