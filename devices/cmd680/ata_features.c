// SPDX-License-Identifier: MIT
/* SET FEATURES (section 7.4). */
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
