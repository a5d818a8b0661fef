// SPDX-License-Identifier: MIT
/* MEAR: the serial lines to EEPROM and PHY; clause 22 frames on the latter (sections 3.3 and 10). */
#include "nic.h"

/* The bit that the PHY drives now; it is pulled up. */
static bool mdio_level(const struct nic *n)
{
	return n->mii_out_bits ? n->mii_out >> (n->mii_out_bits - 1) & 1 : true;
}

/* The last 14 bits that came: 01, opcode, PHY, register. */
static void header(struct nic *n)
{
	unsigned int bits = (unsigned int)n->mii_shift & 0x3fff;
	unsigned int op = bits >> 10 & 3, phy = bits >> 5 & 31, reg = bits & 31;

	bool ours = phy == n->config.phy && !(n->cfg & DP83820_CFG_PHY_DIS);

	if (bits >> 12 != 1)
		return;
	if (op == 2 && ours) {
		/* Turnaround: one bit nobody drives, then a zero; then the data. */
		n->mii_out = 0x20000u | nic_phy_read(n, reg);
		n->mii_out_bits = 18;
	} else if (op == 1) {
		n->mii_write_to = ours ? reg : 32;
		n->mii_in_bits = 18;
	}
}

/*
 * A rising MDC: the PHY samples what the MAC drives, or goes on to its next bit after the edge. The first
 * clock of the turnaround comes with the MAC's line already released.
 */
static void mii_lines(struct nic *n, uint32_t before, uint32_t now)
{
	if (!(now & DP83820_MEAR_MDC) || (before & DP83820_MEAR_MDC))
		return;
	if (!(now & DP83820_MEAR_MDDIR)) {
		if (n->mii_out_bits)
			n->mii_out_bits--;
		n->mii_shift = 0;
		return;
	}
	n->mii_out_bits = 0;
	n->mii_shift = n->mii_shift << 1 | !!(now & DP83820_MEAR_MDIO);
	if (n->mii_in_bits) {
		if (!--n->mii_in_bits) {
			if (n->mii_write_to < 32)
				nic_phy_write(n, n->mii_write_to, (uint16_t)n->mii_shift);
			n->mii_shift = 0;
		}
		return;
	}
	header(n);
}

uint32_t nic_mear_read(struct nic *n)
{
	uint32_t value = n->mear & ~(DP83820_MEAR_EEDO | DP83820_MEAR_MDIO);

	if (n->ee_do)
		value |= DP83820_MEAR_EEDO;
	if (n->mear & DP83820_MEAR_MDDIR ? n->mear & DP83820_MEAR_MDIO : mdio_level(n))
		value |= DP83820_MEAR_MDIO;
	return value;
}

void nic_mear_write(struct nic *n, uint32_t value)
{
	uint32_t before = n->mear;

	n->mear = value & 0x7d;
	nic_eeprom_lines(n, before, value);
	mii_lines(n, before, value);
}
