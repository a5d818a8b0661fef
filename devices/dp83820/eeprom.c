// SPDX-License-Identifier: MIT
/* The 93C46 EEPROM on its three wires, and what the chip loads from it (section 12). */
#include <string.h>

#include "nic.h"

#define LOADED_CFG	(DP83820_CFG_EXT_125 | DP83820_CFG_M64ADDR | DP83820_CFG_DATA64_EN | DP83820_CFG_T64ADDR | \
			 DP83820_CFG_MWI_DIS | DP83820_CFG_MRM_DIS | DP83820_CFG_MODE_1000 | DP83820_CFG_TBI_EN)

#define CHECKSUM_LOW	0x55	/* the low byte of the checksum's word, and part of the sum */

static uint8_t sum(const struct nic *n)
{
	uint8_t total = CHECKSUM_LOW;

	for (unsigned int i = 0; i < DP83820_EE_CHECKSUM; i++)
		total = (uint8_t)(total + n->eeprom[i] + (n->eeprom[i] >> 8));
	return total;
}

bool nic_eeprom_good(const struct nic *n)
{
	return (uint8_t)(sum(n) + (n->eeprom[DP83820_EE_CHECKSUM] >> 8)) == 0;
}

/* As the board's maker programmed it. */
void nic_eeprom_init(struct nic *n)
{
	const uint8_t *mac = n->config.mac;

	memset(n->eeprom, 0, sizeof(n->eeprom));
	n->eeprom[DP83820_EE_SUBDEVICE] = n->config.subdevice;
	n->eeprom[DP83820_EE_SUBVENDOR] = n->config.subvendor;
	n->eeprom[DP83820_EE_LATENCY] = 0x34b0;
	n->eeprom[DP83820_EE_CONFIG2] = n->config.fibre ? 0x0280 : 0;
	for (unsigned int i = 0; i < 3; i++)
		n->eeprom[DP83820_EE_PMATCH + 2 - i] = (uint16_t)(mac[2 * i] | mac[2 * i + 1] << 8);
	n->eeprom[DP83820_EE_CHECKSUM] = (uint16_t)((uint8_t)-sum(n) << 8 | CHECKSUM_LOW);
}

/* Power-up and PTSCR.EELOAD. */
void nic_eeprom_load(struct nic *n)
{
	static const uint32_t cfg_bit[16] = {
		DP83820_CFG_EXT_125, DP83820_CFG_M64ADDR, DP83820_CFG_DATA64_EN, DP83820_CFG_T64ADDR,
		DP83820_CFG_MWI_DIS, DP83820_CFG_MRM_DIS, 0, DP83820_CFG_MODE_1000, 0, DP83820_CFG_TBI_EN,
	};
	uint8_t *c = n->cfg_space;
	const uint16_t *e = n->eeprom;

	n->cfg &= ~LOADED_CFG;
	for (unsigned int i = 0; i < 16; i++)
		if (e[DP83820_EE_CONFIG2] & 1u << i)
			n->cfg |= cfg_bit[i];
	c[0x14] = n->cfg & DP83820_CFG_T64ADDR ? 4 : 0;
	memcpy(c + 0x2c, &e[DP83820_EE_SUBVENDOR], 2);
	memcpy(c + 0x2e, &e[DP83820_EE_SUBDEVICE], 2);
	c[0x3e] = (uint8_t)e[DP83820_EE_LATENCY];
	c[0x3f] = (uint8_t)(e[DP83820_EE_LATENCY] >> 8);
	for (unsigned int i = 0; i < 3; i++) {
		n->rf[DP83820_RF_PMATCH / 2 + i] = e[DP83820_EE_PMATCH + 2 - i];
		n->rf[DP83820_RF_SECURE / 2 + i] = e[DP83820_EE_SECURE + 2 - i];
	}
}

/* A whole command (start bit, opcode, address) was shifted in, or the data behind a write. */
static void command(struct nic *n)
{
	unsigned int address = n->ee_shift & 63;

	if (n->ee_bits == 9) {
		switch (n->ee_shift >> 6) {
		case DP83820_EE_READ:
			n->ee_out = n->eeprom[address];
			n->ee_out_bits = 17;	/* a zero goes first */
			break;
		case DP83820_EE_ERASE:
			if (n->ee_write_enable)
				n->eeprom[address] = 0xffff;
			n->ee_do = true;	/* ready */
			break;
		case DP83820_EE_EXTRA:
			if (address >> 4 == 3)
				n->ee_write_enable = true;
			else if (address >> 4 == 0)
				n->ee_write_enable = false;
			else if (n->ee_write_enable && address >> 4 == 2)
				memset(n->eeprom, 0xff, sizeof(n->eeprom));
			break;
		}
	} else if (n->ee_bits == 25 && n->ee_shift >> 22 == DP83820_EE_WRITE) {
		if (n->ee_write_enable)
			n->eeprom[n->ee_shift >> 16 & 63] = (uint16_t)n->ee_shift;
		n->ee_do = true;
	}
}

/* MEAR changed: a rising clock with the chip selected moves one bit. */
void nic_eeprom_lines(struct nic *n, uint32_t before, uint32_t now)
{
	if (!(now & DP83820_MEAR_EESEL)) {
		n->ee_shift = n->ee_bits = n->ee_out_bits = 0;
		n->ee_do = true;	/* pulled up */
		return;
	}
	if (!(now & DP83820_MEAR_EECLK) || (before & DP83820_MEAR_EECLK))
		return;
	if (n->ee_out_bits) {
		n->ee_do = n->ee_out >> --n->ee_out_bits & 1;
		if (!n->ee_out_bits) {	/* sequential read: the next word follows without the zero */
			n->ee_shift = (n->ee_shift & ~63u) | ((n->ee_shift + 1) & 63);
			n->ee_out = n->eeprom[n->ee_shift & 63];
			n->ee_out_bits = 16;
		}
		return;
	}
	if (!n->ee_bits && !(now & DP83820_MEAR_EEDI))
		return;		/* no start bit yet */
	if (n->ee_bits < 25) {
		n->ee_shift = n->ee_shift << 1 | (now & DP83820_MEAR_EEDI);
		n->ee_bits++;
		command(n);
	}
	/* The zero that announces data is there with the last address bit. */
	if (n->ee_out_bits == 17)
		n->ee_do = n->ee_out >> --n->ee_out_bits & 1;
}
