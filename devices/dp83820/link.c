// SPDX-License-Identifier: MIT
/*
 * The PHY, and the fibre interface in its place: what both ends agree upon, and how the MAC sees
 * it on its pins (sections 3.2, 3.18, 10).
 */
#include <string.h>

#include "nic.h"

#define NEGOTIATION_NS	20000000u	/* seconds on copper; nobody wants to wait for them here */

void nic_phy_reset(struct nic *n)
{
	memset(n->phy, 0, sizeof(n->phy));
	n->phy[MII_REG_BMCR] = MII_BMCR_AUTO | MII_BMCR_FULL | MII_BMCR_SPEED1;
	n->phy[MII_REG_ID1] = DP83820_PHY_ID1;
	n->phy[MII_REG_ID2] = DP83820_PHY_ID2;
	n->phy[MII_REG_ANAR] = MII_AN_ALL;
	n->phy[MII_REG_GBCR] = MII_GB_FULL | MII_GB_HALF;
	n->phy[MII_REG_ESR] = 0x3000;
	n->negotiated = n->negotiating = false;
	nic_kick(n);
}

static bool fibre(const struct nic *n)
{
	return n->config.fibre;
}

static struct wire_ability ability(const struct nic *n)
{
	uint16_t bmcr = n->phy[MII_REG_BMCR];
	bool on = !n->down_until && !(n->cfg & (DP83820_CFG_PHY_DIS | DP83820_CFG_PHY_RST));
	bool full = bmcr & MII_BMCR_FULL;
	struct wire_ability a = { .up = on };

	if (fibre(n)) {
		a.gbcr = MII_GB_FULL;
		return a;
	}
	a.up = on && !(bmcr & (MII_BMCR_POWER_DOWN | MII_BMCR_ISOLATE));
	if (bmcr & MII_BMCR_AUTO) {
		a.anar = n->phy[MII_REG_ANAR];
		a.gbcr = n->phy[MII_REG_GBCR] & (MII_GB_FULL | MII_GB_HALF);
	} else if (bmcr & MII_BMCR_SPEED1) {
		a.gbcr = full ? MII_GB_FULL : MII_GB_HALF;
	} else if (bmcr & MII_BMCR_SPEED0) {
		a.anar = full ? MII_AN_100_FULL : MII_AN_100;
	} else {
		a.anar = full ? MII_AN_10_FULL : MII_AN_10;
	}
	return a;
}

/* The best that both can, IEEE 802.3 annex 28B.3; speed 0: nothing. */
static unsigned int resolve(const struct wire_ability *a, const struct wire_ability *b, bool *full)
{
	uint16_t gb = a->gbcr & b->gbcr, an = a->anar & b->anar;

	if (gb & (MII_GB_FULL | MII_GB_HALF)) {
		*full = gb & MII_GB_FULL;
		return 1000;
	}
	if (an & (MII_AN_100_FULL | MII_AN_100)) {
		*full = an & MII_AN_100_FULL;
		return 100;
	}
	*full = an & MII_AN_10_FULL;
	return an & (MII_AN_10_FULL | MII_AN_10) ? 10 : 0;
}

/* CFG 31:28: link is active high, speed and duplex active low. */
uint32_t nic_link_pins(const struct nic *n)
{
	uint32_t pins = 0;

	if (n->link)
		pins |= DP83820_CFG_LNKSTS;
	if (!n->link || n->speed != 1000)
		pins |= DP83820_CFG_SPDSTS1;
	if (!n->link || n->speed != 100)
		pins |= DP83820_CFG_SPDSTS0;
	if (!n->link || !n->full)
		pins |= DP83820_CFG_DUPSTS;
	return pins;
}

/* Whether frames get through: a MAC in the wrong mode for its PHY loses all of them (section 14.4). */
bool nic_carries(const struct nic *n)
{
	return n->link && (n->speed == 1000) == !!(n->cfg & DP83820_CFG_MODE_1000);
}

static void set_link(struct nic *n, bool up, unsigned int speed, bool full)
{
	uint32_t before = nic_link_pins(n), changed, enabled = 0;

	if (!up && n->link)
		n->link_latched_low = true;
	n->link = up;
	n->speed = speed;
	n->full = full;
	changed = before ^ nic_link_pins(n);
	if (changed & DP83820_CFG_LNKSTS)
		enabled |= DP83820_CFG_PINT_LNK;
	if (changed & (DP83820_CFG_SPDSTS1 | DP83820_CFG_SPDSTS0))
		enabled |= DP83820_CFG_PINT_SPD;
	if (changed & DP83820_CFG_DUPSTS)
		enabled |= DP83820_CFG_PINT_DUP;
	if (n->cfg & enabled)
		nic_raise(n, DP83820_ISR_PHY);
	if (changed && (n->ccsr & DP83820_CCSR_PMEEN))
		nic_wake(n, NULL, 0);
}

static void agree(struct nic *n, const struct wire_ability *mine, const struct wire_ability *theirs)
{
	bool full = false;
	unsigned int speed = resolve(mine, theirs, &full);

	n->negotiating = false;
	n->negotiated = true;
	n->partner = *theirs;
	n->phy[MII_REG_LPAR] = (uint16_t)(theirs->anar & ~MII_AN_ACK) | MII_AN_ACK;
	n->phy[MII_REG_GBSR] = (uint16_t)((theirs->gbcr & MII_GB_FULL ? MII_GBSR_FULL : 0) |
		(theirs->gbcr & MII_GB_HALF ? MII_GBSR_HALF : 0) | MII_GBSR_LOCAL_OK | MII_GBSR_REMOTE_OK);
	if (n->cfg & DP83820_CFG_TBI_EN) {
		bool auto_on = n->tbicr & DP83820_TBICR_AN_ENABLE;

		n->tanlpar = auto_on ? n->tanar : 0;
		n->tbisr = DP83820_TBISR_LINK | (auto_on ? DP83820_TBISR_AN_DONE : 0);
	}
	set_link(n, speed != 0, speed, full);
}

void nic_link_update(struct nic *n, uint64_t now)
{
	struct wire_ability mine, theirs = { 0 };
	bool full, same;

	if (n->down_until && n->down_until != NEVER && now >= n->down_until)
		n->down_until = 0;
	mine = ability(n);
	if (n->wire)
		n->wire->ops->ability(n->wire, &mine, &theirs);
	if (!mine.up || !theirs.up || !resolve(&mine, &theirs, &full)) {
		n->negotiating = n->negotiated = false;
		n->tbisr = 0;
		if (n->link)
			set_link(n, false, 0, false);
		return;
	}
	same = n->partner.anar == theirs.anar && n->partner.gbcr == theirs.gbcr;
	if (n->negotiated && same)
		return;
	if (!n->negotiating) {
		if (n->link)
			set_link(n, false, 0, false);
		n->negotiated = false;
		n->negotiating = true;
		n->negotiated_at = now + NEGOTIATION_NS;
	} else if (now >= n->negotiated_at) {
		agree(n, &mine, &theirs);
	}
}

/* When nic_link_update() has something to do without being asked. */
uint64_t nic_link_timer(const struct nic *n)
{
	if (n->negotiating)
		return n->negotiated_at;
	return n->down_until ? n->down_until : NEVER;
}

/* What is in force, as National's PHYs tell it besides the standard's registers; nothing without a link. */
static uint16_t phy_support(const struct nic *n)
{
	uint16_t speed = n->speed == 1000 ? MII_PHY_SUP_1000 : n->speed == 100 ? MII_PHY_SUP_100 : MII_PHY_SUP_10;

	return n->link ? (uint16_t)(speed | MII_PHY_SUP_LINK | (n->full ? MII_PHY_SUP_FULL : 0)) : 0;
}

uint16_t nic_phy_read(struct nic *n, unsigned int reg)
{
	uint16_t value = n->phy[reg];

	if (fibre(n))
		return 0xffff;	/* no PHY */
	if (reg == MII_REG_BMSR) {
		value = MII_BMSR_ABLE;
		if (n->link && !n->link_latched_low)
			value |= MII_BMSR_LINK;
		if (n->negotiated && (n->phy[MII_REG_BMCR] & MII_BMCR_AUTO))
			value |= MII_BMSR_AUTO_DONE;
		n->link_latched_low = false;
	} else if (reg == MII_REG_STRAP) {
		value = (uint16_t)(n->config.phy << 11 | MII_STRAP_ABLE);
	} else if (reg == MII_REG_PHY_SUP) {
		value = phy_support(n);
	}
	return value;
}

void nic_phy_write(struct nic *n, unsigned int reg, uint16_t value)
{
	if (fibre(n))
		return;
	switch (reg) {
	case MII_REG_BMCR:
		if (value & MII_BMCR_RESET) {
			nic_phy_reset(n);
			break;
		}
		if (((value ^ n->phy[reg]) & 0xffff) || (value & MII_BMCR_RESTART))
			n->negotiated = n->negotiating = false;
		n->phy[reg] = value & ~MII_BMCR_RESTART;
		break;
	case MII_REG_ANAR:
	case MII_REG_GBCR:
		n->phy[reg] = value;	/* takes effect with the next negotiation */
		break;
	}
	nic_kick(n);
}

void nic_tbi_write(struct nic *n, uint32_t value)
{
	if (!(n->cfg & DP83820_CFG_TBI_EN))
		return;
	n->tbicr = value & (DP83820_TBICR_LOOPBACK | DP83820_TBICR_AN_ENABLE);
	n->tbisr = 0;
	n->negotiated = n->negotiating = false;
	nic_kick(n);
}
