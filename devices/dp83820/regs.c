// SPDX-License-Identifier: MIT
/* The operational registers (section 3): what is stored, what reading and writing does. */
#include <string.h>

#include "nic.h"

#define CFG_WRITABLE	0x017fdfffu
#define TXCFG_WRITABLE	0xf0f8ffffu
#define RXCFG_WRITABLE	0xfc70003eu
#define RFCR_WRITABLE	0xfff803ffu
#define PCR_WRITABLE	0xe3fcffffu
#define RESET_ISR	(DP83820_ISR_TXRCMP | DP83820_ISR_RXRCMP | DP83820_ISR_HIBINT)

/*
 * RST, and the part of RST# that is the same. What a soft reset keeps is not known; this is what the
 * kernel's driver depends on (section 12.1).
 */
void nic_soft_reset(struct nic *n, bool all)
{
	nic_tx_reset(n);
	nic_rx_reset(n);
	n->txdp_hi = n->rxdp_hi = 0;
	n->imr = n->ier = n->ihr = 0;
	n->isr = RESET_ISR;
	n->late = 0;
	n->holdoff_until = 0;
	n->muted = n->reset_stuck = false;
	n->ptscr = 0;
	n->mibc = DP83820_MIBC_FRZ;
	memset(n->mib, 0, sizeof(n->mib));
	n->paused_until = 0;
	n->brar = UINT32_MAX;
	if (all) {
		n->cfg = 0;
		n->mear = 0;
		n->ee_do = true;
		n->txcfg = 0x120;
		n->rxcfg = 0x4;
		n->gpior = n->pqcr = n->wcsr = n->pcr = n->rfcr = n->vrcr = n->vtcr = n->ccsr = 0;
		n->tbicr = n->tbisr = n->tanar = n->tanlpar = 0;
		n->vdr = DP83820_VDR_8021Q;
		memset(n->rf, 0, sizeof(n->rf));
		memset(n->rf_enable, 0, sizeof(n->rf_enable));
	}
	nic_irq_update(n);
}

static uint32_t read_isr(struct nic *n)
{
	uint32_t value = n->isr;

	n->isr = 0;
	n->muted = false;
	nic_irq_update(n);
	return value;
}

static uint32_t read_gpior(const struct nic *n)
{
	return n->gpior | (n->gpior & n->gpior >> 5 & 0x1f) << 10;
}

static uint32_t read_brdr(struct nic *n)
{
	if (n->brar & 0x80000000)
		n->brar = 0x80000000 | ((n->brar + 4) & 0x1ffff);
	return UINT32_MAX;	/* no boot ROM */
}

static uint32_t read_reg(struct nic *n, uint32_t reg)
{
	bool tbi = n->cfg & DP83820_CFG_TBI_EN;

	switch (reg) {
	case DP83820_CR:
		return (nic_tx_active(n) ? DP83820_CR_TXE : 0) | (nic_rx_active(n) ? DP83820_CR_RXE : 0) |
			(n->reset_stuck ? DP83820_CR_RST : 0);
	case DP83820_CFG:
		return n->cfg | nic_link_pins(n) | (n->config.pci64 ? DP83820_CFG_PCI64_DET : 0);
	case DP83820_MEAR:	return nic_mear_read(n);
	case DP83820_PTSCR:	return n->ptscr;
	case DP83820_ISR:	return read_isr(n);
	case DP83820_IMR:	return n->imr;
	case DP83820_IER:	return n->ier;
	case DP83820_IHR:	return n->ihr;
	case DP83820_TXDP:	return (uint32_t)n->tx[0].dp;
	case DP83820_TXDP_HI:	return n->txdp_hi;
	case DP83820_TXCFG:	return n->txcfg;
	case DP83820_GPIOR:	return read_gpior(n);
	case DP83820_RXDP:	return (uint32_t)n->rx[0].dp;
	case DP83820_RXDP_HI:	return n->rxdp_hi;
	case DP83820_RXCFG:	return n->rxcfg;
	case DP83820_PQCR:	return n->pqcr;
	case DP83820_WCSR:	return n->wcsr;
	case DP83820_PCR:
		return n->pcr | (nic_now() < n->paused_until ? DP83820_PCR_PS_ACT : 0);
	case DP83820_RFCR:	return n->rfcr;
	case DP83820_RFDR:	return n->rf[(n->rfcr & DP83820_RFCR_ADDR) / 2];
	case DP83820_BRAR:	return n->brar;
	case DP83820_BRDR:	return read_brdr(n);
	case DP83820_SRR:	return n->config.rev_a ? 0x0102 : 0x0103;
	case DP83820_MIBC:	return nic_mibc_read(n);
	case DP83820_MIB ... DP83820_MIB + 4 * (DP83820_MIBS - 1):
		return nic_mib_read(n, (reg - DP83820_MIB) / 4);
	case DP83820_TXDP1 ... DP83820_TXDP1 + 8:
		return (uint32_t)n->tx[1 + (reg - DP83820_TXDP1) / 4].dp;
	case DP83820_RXDP1 ... DP83820_RXDP1 + 8:
		return (uint32_t)n->rx[1 + (reg - DP83820_RXDP1) / 4].dp;
	case DP83820_VRCR:	return n->vrcr;
	case DP83820_VTCR:	return n->vtcr;
	case DP83820_VDR:	return n->vdr;
	case DP83820_CCSR:	return n->ccsr;
	case DP83820_TBICR:	return tbi ? n->tbicr : 0;
	case DP83820_TBISR:	return tbi ? n->tbisr : 0;
	case DP83820_TANAR:	return tbi ? n->tanar : 0;
	case DP83820_TANLPAR:	return tbi ? n->tanlpar : 0;
	case DP83820_TANER:	return 0;
	case DP83820_TESR:	return tbi ? 0xc000 : 0;
	case DP83820_CONFIG_MIRROR ... DP83820_CONFIG_MIRROR + 0xfc:
		return nic_config_read(n, reg - DP83820_CONFIG_MIRROR, 4);
	}
	return 0;
}

static void write_cr(struct nic *n, uint32_t v)
{
	unsigned int tx = v >> 9 & 15, rx = v >> 13 & 15;

	tx = tx ? tx : 1;
	rx = rx ? rx : 1;
	if (v & DP83820_CR_RST) {
		if (nic_fault(n, DP83820_FAULT_STUCK_RESET, 0)) {
			n->reset_stuck = true;
			return;
		}
		nic_soft_reset(n, n->config.reset_all);
		nic_kick(n);
		return;
	}
	if (v & DP83820_CR_SWI)
		nic_raise(n, DP83820_ISR_SWI);
	if (v & DP83820_CR_TXR) {
		nic_tx_reset(n);
		nic_raise(n, DP83820_ISR_TXRCMP);
	}
	if (v & DP83820_CR_RXR) {
		nic_rx_reset(n);
		nic_raise(n, DP83820_ISR_RXRCMP);
	}
	if (v & (DP83820_CR_RXE | DP83820_CR_RXD))
		nic_rx_command(n, rx, v & DP83820_CR_RXE, v & DP83820_CR_RXD);
	if (v & (DP83820_CR_TXE | DP83820_CR_TXD))
		nic_tx_command(n, tx, v & DP83820_CR_TXE, v & DP83820_CR_TXD);
}

static void write_cfg(struct nic *n, uint32_t v)
{
	n->cfg = v & CFG_WRITABLE;
	nic_kick(n);	/* PHY pins may have changed */
}

static void write_ptscr(struct nic *n, uint32_t v)
{
	if (v & DP83820_PTSCR_RBIST_RST)
		n->ptscr &= ~(DP83820_PTSCR_RBIST_DONE | DP83820_PTSCR_RBIST_FAIL);
	if (v & DP83820_PTSCR_RBIST_EN)
		n->ptscr |= DP83820_PTSCR_RBIST_DONE;
	if (v & DP83820_PTSCR_EEBIST_EN)
		n->ptscr = (n->ptscr & ~DP83820_PTSCR_EEBIST_FAIL) |
			(nic_eeprom_good(n) ? 0 : DP83820_PTSCR_EEBIST_FAIL);
	if (v & DP83820_PTSCR_EELOAD_EN)
		nic_eeprom_load(n);
}

static void write_ihr(struct nic *n, uint32_t v)
{
	n->ihr = v & (DP83820_IHR_TIME | DP83820_IHR_IHCTL);
	if (v & DP83820_IHR_IHCTL)
		n->holdoff_until = 0;
	nic_irq_update(n);
}

static void write_dp(struct queue *q, uint32_t high, uint32_t low)
{
	q->dp = (uint64_t)high << 32 | (low & ~3u);
	q->done = false;
}

static void write_dp_high(struct queue *q, uint32_t high)
{
	for (unsigned int i = 0; i < QUEUES; i++)
		q[i].dp = (uint64_t)high << 32 | (uint32_t)q[i].dp;
}

static void write_rfdr(struct nic *n, uint32_t v, unsigned int width)
{
	unsigned int at = (n->rfcr & DP83820_RFCR_ADDR) / 2;

	n->rf[at] = (uint16_t)v;
	n->rf_enable[at] = width == 4 ? v >> 16 & 3 : 3;
}

static void write_pcr(struct nic *n, uint32_t v)
{
	n->pcr = v & PCR_WRITABLE & ~DP83820_PCR_PS_TX;
	if (!(v & DP83820_PCR_PSEN))
		n->paused_until = 0;
	if (v & DP83820_PCR_PS_TX)
		nic_pause_send(n, v & DP83820_PCR_TIME);
}

static void write_ccsr(struct nic *n, uint32_t v)
{
	n->ccsr = (v & (DP83820_CCSR_CLKRUN_EN | DP83820_CCSR_PMEEN)) |
		(n->ccsr & DP83820_CCSR_PMESTS & ~v);
}

static void write_reg(struct nic *n, uint32_t reg, unsigned int width, uint32_t v)
{
	switch (reg) {
	case DP83820_CR:	write_cr(n, v); break;
	case DP83820_CFG:	write_cfg(n, v); break;
	case DP83820_MEAR:	nic_mear_write(n, v); break;
	case DP83820_PTSCR:	write_ptscr(n, v); break;
	case DP83820_IMR:	n->imr = v & 0x7fffffff; nic_irq_update(n); break;
	case DP83820_IER:	n->ier = v & 1; nic_irq_update(n); break;
	case DP83820_IHR:	write_ihr(n, v); break;
	case DP83820_TXDP:	write_dp(&n->tx[0], n->txdp_hi, v); break;
	case DP83820_TXDP_HI:	n->txdp_hi = v; write_dp_high(n->tx, v); break;
	case DP83820_TXCFG:	n->txcfg = v & TXCFG_WRITABLE; break;
	case DP83820_GPIOR:	n->gpior = v & 0x3ff; break;
	case DP83820_RXDP:	write_dp(&n->rx[0], n->rxdp_hi, v); break;
	case DP83820_RXDP_HI:	n->rxdp_hi = v; write_dp_high(n->rx, v); break;
	case DP83820_RXCFG:	n->rxcfg = v & RXCFG_WRITABLE; break;
	case DP83820_PQCR:	n->pqcr = v & 15; break;
	case DP83820_WCSR:	n->wcsr = v & DP83820_WCSR_ENABLES; break;
	case DP83820_PCR:	write_pcr(n, v); break;
	case DP83820_RFCR:	n->rfcr = v & RFCR_WRITABLE; break;
	case DP83820_RFDR:	write_rfdr(n, v, width); break;
	case DP83820_BRAR:	n->brar = v & 0x8001ffff; break;
	case DP83820_BRDR:	break;		/* no boot ROM */
	case DP83820_MIBC:	nic_mibc_write(n, v); break;
	case DP83820_TXDP1 ... DP83820_TXDP1 + 8:
		write_dp(&n->tx[1 + (reg - DP83820_TXDP1) / 4], n->txdp_hi, v);
		break;
	case DP83820_RXDP1 ... DP83820_RXDP1 + 8:
		write_dp(&n->rx[1 + (reg - DP83820_RXDP1) / 4], n->rxdp_hi, v);
		break;
	case DP83820_VRCR:	n->vrcr = v & 0xff; break;
	case DP83820_VTCR:	n->vtcr = v & 15; break;
	case DP83820_VDR:	n->vdr = v; break;
	case DP83820_CCSR:	write_ccsr(n, v); break;
	case DP83820_TBICR:	nic_tbi_write(n, v); break;
	case DP83820_TANAR:
		if (n->cfg & DP83820_CFG_TBI_EN)
			n->tanar = v & 0xb1e0;
		break;
	}
}

uint32_t nic_reg_read(struct nic *n, uint32_t offset, unsigned int width)
{
	uint32_t value = read_reg(n, offset & ~3u) >> (offset % 4 * 8);

	return width == 4 ? value : value & ((1u << (width * 8)) - 1);
}

/* Only the two windows take less than 32 bits (section 3). */
void nic_reg_write(struct nic *n, uint32_t offset, unsigned int width, uint32_t value)
{
	if (width != 4 && offset != DP83820_RFDR && (offset & ~3u) != DP83820_BRDR) {
		n->count.unexpected++;
		return;
	}
	write_reg(n, offset & ~3u, width, value);
}
