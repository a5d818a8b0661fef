// SPDX-License-Identifier: MIT
/*
 * From power-on to the first command: a drive that is busy until it has spun up, or that stays in standby until it
 * is told to (section 7.5, word 2). Power-on is when the model is made, and when a drive is plugged back in.
 */
#include "cmd680_priv.h"

void ata_power_up(struct drive *d)
{
	d->spun = !d->puis;
	d->ready_at = d->spun && d->config.spin_up_ms ? cmd680_now() + d->config.spin_up_ms * 1000000ull : 0;
	d->power = d->spun ? POWER_ACTIVE : POWER_STANDBY;
}

/* BSY since power-on: it hears of resets, and of nothing else. */
bool ata_spin_busy(struct drive *d)
{
	if (d->ready_at && cmd680_now() >= d->ready_at)
		d->ready_at = 0;
	return d->ready_at;
}

static bool wants_set_features(const struct drive *d)
{
	return d->config.puis == ATA_PUIS_SET_FEATURES_SHORT || d->config.puis == ATA_PUIS_SET_FEATURES;
}

/* An access to the medium that does not spin it up. */
bool ata_spin_refuses(struct drive *d)
{
	return !d->spun && wants_set_features(d);
}

/* How long an access to the medium takes to spin it up, in ns. */
uint64_t ata_spin_delay(struct drive *d)
{
	if (d->spun)
		return 0;
	d->spun = true;
	return d->config.spin_up_ms * 1000000ull;
}

static void spun_up(struct drive *d, int error)
{
	d->power = POWER_ACTIVE;
	ata_ok(d);
}

/* End the command once the drive has spun up. */
void ata_spin_up(struct drive *d)
{
	uint64_t delay = ata_spin_delay(d);

	if (delay)
		cmd680_worker_defer(d, delay, false, spun_up);
	else
		spun_up(d, 0);
}

/* Word 2. A drive that has spun up has all to say. */
unsigned int ata_spin_word(const struct drive *d)
{
	if (!d->config.puis || !d->spun)
		return d->config.puis;
	return wants_set_features(d) ? ATA_PUIS_SET_FEATURES : ATA_PUIS_ACCESS;
}
