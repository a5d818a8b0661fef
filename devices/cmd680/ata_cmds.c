// SPDX-License-Identifier: MIT
/* The command set (section 7.4). */
#include <string.h>

#include "cmd680_priv.h"

#define F_EXT	0x01	/* LBA48 */
#define F_READ	0x02
#define F_WRITE	0x04
#define F_DMA	0x08
#define F_MULT	0x10
#define F_FUA	0x20

struct command {
	void (*fn)(struct drive *d, unsigned int flags);
	unsigned int flags;
};

static uint64_t lba28(const struct drive *d)
{
	return (uint64_t)(d->cur[TF_DEVICE] & 0x0f) << 24 | (uint64_t)d->cur[TF_LBAH] << 16 |
		(uint64_t)d->cur[TF_LBAM] << 8 | d->cur[TF_LBAL];
}

static uint64_t lba48(const struct drive *d)
{
	return (uint64_t)d->prev[TF_LBAH] << 40 | (uint64_t)d->prev[TF_LBAM] << 32 |
		(uint64_t)d->prev[TF_LBAL] << 24 | (uint64_t)d->cur[TF_LBAH] << 16 |
		(uint64_t)d->cur[TF_LBAM] << 8 | d->cur[TF_LBAL];
}

/* The address of a command; beyond any medium when it makes no sense. */
static uint64_t address(const struct drive *d, bool ext)
{
	uint64_t cylinder = (uint64_t)d->cur[TF_LBAH] << 8 | d->cur[TF_LBAM];
	unsigned int head = d->cur[TF_DEVICE] & 0x0f;
	unsigned int sector = d->cur[TF_LBAL];

	if (ext)
		return lba48(d);
	if (d->cur[TF_DEVICE] & ATA_DEV_LBA)
		return lba28(d);
	if (!sector || sector > d->spt || head >= d->heads)
		return UINT64_MAX;
	return (cylinder * d->heads + head) * d->spt + sector - 1;
}

/* 0 means the most. */
static uint32_t sector_count(const struct drive *d, bool ext)
{
	uint32_t n = d->cur[TF_NSECT];

	if (ext) {
		n |= (uint32_t)d->prev[TF_NSECT] << 8;
		return n ? n : 65536;
	}
	return n ? n : 256;
}

/* Address and count, or the command ends here with IDNF. */
static bool range(struct drive *d, bool ext, uint64_t *lba, uint32_t *count)
{
	*lba = address(d, ext);
	*count = sector_count(d, ext);
	if (*lba < d->sectors && *count <= d->sectors - *lba)
		return true;
	ata_fail(d, 0, ATA_IDNF);
	return false;
}

static bool has_dma(const struct drive *d)
{
	return d->config.max_udma >= 0 || d->config.max_mwdma >= 0;
}

static void cmd_rw(struct drive *d, unsigned int flags)
{
	struct xfer plan = {
		.write = flags & F_WRITE, .ext = flags & F_EXT, .fua = flags & F_FUA, .block = SECTOR,
	};
	uint64_t lba;
	uint32_t count;

	if ((flags & F_DMA && !has_dma(d)) || (flags & F_MULT && !d->multiple) ||
	    (plan.write && d->store.read_only)) {
		ata_abort(d);
		return;
	}
	if (ata_spin_refuses(d)) {
		ata_abort(d);
		return;
	}
	if (!range(d, plan.ext, &lba, &count))
		return;
	plan.kind = flags & F_DMA ? XFER_DMA : plan.write ? XFER_PIO_OUT : XFER_PIO_IN;
	plan.pos = lba * SECTOR;
	plan.left = (uint64_t)count * SECTOR;
	if (flags & F_MULT)
		plan.block = d->multiple * SECTOR;
	ata_xfer_media(d, &plan);
}

static void cmd_verify(struct drive *d, unsigned int flags)
{
	struct cmd680_fault *bad;
	uint64_t lba, first;
	uint32_t count;

	if (ata_spin_refuses(d)) {
		ata_abort(d);
		return;
	}
	if (!range(d, flags & F_EXT, &lba, &count))
		return;
	ata_spin_delay(d);	/* a verify spins it up as a read does, but takes no time here */
	d->x.ext = flags & F_EXT;
	bad = cmd680_fault_bad_sector(d, lba, count, false, &first);
	if (!bad) {
		ata_ok(d);
		return;
	}
	faults_hit(&d->ch->m->faults, &bad->base);
	ata_media_error(d, first, false);
}

static void cmd_ok(struct drive *d, unsigned int flags)
{
	ata_ok(d);
}

static void cmd_flush(struct drive *d, unsigned int flags)
{
	if (d->config.no_flush) {
		ata_abort(d);
		return;
	}
	d->count->flushes++;
	ata_xfer_durable(d);
}

static void cmd_standby(struct drive *d, unsigned int flags)
{
	d->power = POWER_STANDBY;
	ata_xfer_durable(d);
}

static void cmd_sleep(struct drive *d, unsigned int flags)
{
	d->power = POWER_SLEEP;
	ata_xfer_durable(d);
}

static void cmd_idle(struct drive *d, unsigned int flags)
{
	if (ata_spin_refuses(d))
		ata_abort(d);
	else
		ata_spin_up(d);
}

static void cmd_check_power(struct drive *d, unsigned int flags)
{
	d->cur[TF_NSECT] = d->power == POWER_ACTIVE ? 0xff : 0x00;
	ata_ok(d);
}

static void cmd_identify(struct drive *d, unsigned int flags)
{
	ata_identify(d, d->buf);
	ata_xfer_buffer_in(d);
}

/* A disk answers with its own signature, so that the host knows what it asked (section 7.4). */
static void cmd_identify_packet(struct drive *d, unsigned int flags)
{
	uint8_t device = d->cur[TF_DEVICE];

	ata_signature(d);
	d->cur[TF_DEVICE] = device;
	ata_abort(d);
}

static void cmd_set_features(struct drive *d, unsigned int flags)
{
	ata_set_features(d);
}

static void cmd_smart(struct drive *d, unsigned int flags)
{
	ata_smart(d);
}

static void cmd_set_multiple(struct drive *d, unsigned int flags)
{
	uint8_t n = d->cur[TF_NSECT];

	if (n > MAX_MULTIPLE || n & (n - 1)) {
		ata_abort(d);
		return;
	}
	d->multiple = n;
	ata_ok(d);
}

static void cmd_init_params(struct drive *d, unsigned int flags)
{
	if (!d->cur[TF_NSECT]) {
		ata_abort(d);
		return;
	}
	d->spt = d->cur[TF_NSECT];
	d->heads = (uint8_t)((d->cur[TF_DEVICE] & 0x0f) + 1);
	ata_ok(d);
}

static void cmd_native_max(struct drive *d, unsigned int flags)
{
	uint64_t last = d->store.size / SECTOR - 1;

	if (!(flags & F_EXT) && last > ATA_LBA28_MAX - 1)
		last = ATA_LBA28_MAX - 1;
	d->cur[TF_DEVICE] |= ATA_DEV_LBA;
	ata_set_lba(d, last, flags & F_EXT);
	d->native_read = true;
	ata_ok(d);
}

/* Host protected area. Passwords and locks (features 01-04 of F9) are not claimed. */
static void cmd_set_max(struct drive *d, unsigned int flags)
{
	bool ext = flags & F_EXT;
	uint64_t last = ext ? lba48(d) : lba28(d);

	if (!d->set_max_ok || (!ext && d->cur[TF_FEATURES])) {
		ata_abort(d);
		return;
	}
	if (last >= d->store.size / SECTOR) {
		ata_fail(d, 0, ATA_IDNF);
		return;
	}
	d->sectors = last + 1;
	if (d->cur[TF_NSECT] & 1)
		d->max_kept = d->sectors;
	ata_ok(d);
}

static void cmd_read_buffer(struct drive *d, unsigned int flags)
{
	memcpy(d->buf, d->user_buf, SECTOR);
	ata_xfer_buffer_in(d);
}

static void keep_buffer(struct drive *d)
{
	memcpy(d->user_buf, d->buf, SECTOR);
	ata_ok(d);
}

static void cmd_write_buffer(struct drive *d, unsigned int flags)
{
	ata_xfer_buffer_out(d, XFER_PIO_OUT, SECTOR, keep_buffer);
}

/* One range of a TRIM payload: 48 bits of LBA, 16 of count. */
static uint64_t trim_entry(const uint8_t *at, uint64_t *lba)
{
	uint64_t v = 0;

	for (unsigned int i = 8; i-- > 0;)
		v = v << 8 | at[i];
	*lba = v & 0xffffffffffff;
	return v >> 48;
}

/* Every range is checked before the first is given up. */
static void trim(struct drive *d)
{
	size_t len = (size_t)d->x.pos;
	uint64_t lba, n;
	int error;

	for (size_t i = 0; i < len; i += 8) {
		n = trim_entry(d->buf + i, &lba);
		if (n && (lba >= d->sectors || n > d->sectors - lba)) {
			ata_fail(d, 0, ATA_IDNF | ATA_ABRT);
			return;
		}
	}
	for (size_t i = 0; i < len; i += 8) {
		n = trim_entry(d->buf + i, &lba);
		error = n ? cmd680_store_trim(&d->store, lba * SECTOR, n * SECTOR) : 0;
		if (error) {
			cmd680_store_failed(&d->store, d->index, "trimming", lba * SECTOR, error);
			ata_fail(d, ATA_DF, ATA_ABRT);
			return;
		}
	}
	ata_ok(d);
}

static void cmd_dsm(struct drive *d, unsigned int flags)
{
	uint32_t blocks = sector_count(d, true);

	if (!d->store.can_trim || !has_dma(d) || d->cur[TF_FEATURES] != ATA_DSM_TRIM ||
	    blocks > MAX_DSM_BLOCKS) {
		ata_abort(d);
		return;
	}
	d->count->trims++;
	ata_xfer_buffer_out(d, XFER_DMA, blocks * SECTOR, trim);
}

/* What is not here ends with ABRT. */
static const struct command commands[256] = {
	[ATA_DATA_SET_MANAGEMENT] = { cmd_dsm, F_EXT | F_WRITE | F_DMA },
	[ATA_RECALIBRATE ... ATA_RECALIBRATE + 15] = { cmd_ok, 0 },
	[ATA_READ_SECTORS ... ATA_READ_SECTORS + 1] = { cmd_rw, F_READ },
	[ATA_READ_SECTORS_EXT] = { cmd_rw, F_READ | F_EXT },
	[ATA_READ_DMA_EXT] = { cmd_rw, F_READ | F_EXT | F_DMA },
	[ATA_READ_NATIVE_MAX_EXT] = { cmd_native_max, F_EXT },
	[ATA_READ_MULTIPLE_EXT] = { cmd_rw, F_READ | F_EXT | F_MULT },
	[ATA_WRITE_SECTORS ... ATA_WRITE_SECTORS + 1] = { cmd_rw, F_WRITE },
	[ATA_WRITE_SECTORS_EXT] = { cmd_rw, F_WRITE | F_EXT },
	[ATA_WRITE_DMA_EXT] = { cmd_rw, F_WRITE | F_EXT | F_DMA },
	[ATA_SET_MAX_EXT] = { cmd_set_max, F_EXT },
	[ATA_WRITE_MULTIPLE_EXT] = { cmd_rw, F_WRITE | F_EXT | F_MULT },
	[ATA_WRITE_DMA_FUA_EXT] = { cmd_rw, F_WRITE | F_EXT | F_DMA | F_FUA },
	[ATA_READ_VERIFY ... ATA_READ_VERIFY + 1] = { cmd_verify, F_READ },
	[ATA_READ_VERIFY_EXT] = { cmd_verify, F_READ | F_EXT },
	[ATA_SEEK ... ATA_SEEK + 15] = { cmd_ok, 0 },
	[ATA_INIT_DEV_PARAMS] = { cmd_init_params, 0 },
	[0x94] = { cmd_standby, 0 },
	[0x95] = { cmd_idle, 0 },
	[0x96] = { cmd_standby, 0 },
	[0x97] = { cmd_idle, 0 },
	[0x98] = { cmd_check_power, 0 },
	[0x99] = { cmd_sleep, 0 },
	[ATA_IDENTIFY_PACKET] = { cmd_identify_packet, 0 },
	[ATA_SMART] = { cmd_smart, 0 },
	[ATA_READ_MULTIPLE] = { cmd_rw, F_READ | F_MULT },
	[ATA_WRITE_MULTIPLE] = { cmd_rw, F_WRITE | F_MULT },
	[ATA_SET_MULTIPLE] = { cmd_set_multiple, 0 },
	[ATA_READ_DMA ... ATA_READ_DMA + 1] = { cmd_rw, F_READ | F_DMA },
	[ATA_WRITE_DMA ... ATA_WRITE_DMA + 1] = { cmd_rw, F_WRITE | F_DMA },
	[ATA_WRITE_MULTIPLE_FUA_EXT] = { cmd_rw, F_WRITE | F_EXT | F_MULT | F_FUA },
	[ATA_STANDBY_IMMEDIATE] = { cmd_standby, 0 },
	[ATA_IDLE_IMMEDIATE] = { cmd_idle, 0 },
	[ATA_STANDBY] = { cmd_standby, 0 },
	[ATA_IDLE] = { cmd_idle, 0 },
	[ATA_READ_BUFFER] = { cmd_read_buffer, F_READ },
	[ATA_CHECK_POWER] = { cmd_check_power, 0 },
	[ATA_SLEEP] = { cmd_sleep, 0 },
	[ATA_FLUSH_CACHE] = { cmd_flush, 0 },
	[ATA_WRITE_BUFFER] = { cmd_write_buffer, F_WRITE },
	[ATA_FLUSH_CACHE_EXT] = { cmd_flush, F_EXT },
	[ATA_IDENTIFY] = { cmd_identify, 0 },
	[ATA_SET_FEATURES] = { cmd_set_features, 0 },
	[ATA_READ_NATIVE_MAX] = { cmd_native_max, 0 },
	[ATA_SET_MAX] = { cmd_set_max, 0 },
};

/* Faults that keep a command from running at all. */
static bool hangs(struct drive *d, uint8_t op, unsigned int direction)
{
	struct cmd680_fault *f = cmd680_fault_find(d, CMD680_FAULT_STUCK_BSY, op, direction);

	if (f) {
		d->stuck = f->base.id;
		faults_hit(&d->ch->m->faults, &f->base);
		return true;
	}
	return cmd680_fault_take(d, CMD680_FAULT_HANG, op, direction);
}

/**
 * ata_command() - the Command register was written
 * @d: the selected drive, not busy
 * @op: opcode; its parameters are in the task file
 *
 * Quick commands are done on return; others end later, with BSY until then.
 */
void ata_command(struct drive *d, uint8_t op)
{
	const struct command *c = &commands[op];
	unsigned int direction = (c->flags & F_READ ? CMD680_ON_READ : 0) |
		(c->flags & F_WRITE ? CMD680_ON_WRITE : 0);

	if (d->power == POWER_SLEEP) {
		d->ch->m->count.unexpected++;	/* only a reset wakes it */
		return;
	}
	d->cur[TF_COMMAND] = op;
	d->status = ATA_BSY;
	d->error = 0;
	d->irq = false;
	d->mute = false;
	d->x = (struct xfer){ .kind = XFER_NONE };
	d->count->commands++;
	d->set_max_ok = d->native_read;
	d->native_read = false;
	cmd680_irq_update(d->ch);
	if (hangs(d, op, direction))
		return;
	d->mute = cmd680_fault_take(d, CMD680_FAULT_LOST_IRQ, op, direction);
	if (!c->fn || (c->flags & F_EXT && !d->config.lba48))
		ata_abort(d);
	else
		c->fn(d, c->flags);
}
