// SPDX-License-Identifier: MIT
/*
 * One command from task file to completion: docs/hardware/cmd680.md sections
 * 9.3 and 6. Every function wants the channel lock held.
 *
 * Register reads are dear (each waits for the device), writes are posted. A
 * DMA command is started without a read and ended with two: bus-master status
 * and ATA status.
 */
#include <errno.h>
#include <string.h>

#include "ide.h"
#include "usrdrv/ata.h"
#include "usrdrv/cmd680_regs.h"

#define BM_W1C		(CMD680_BM_INT | CMD680_BM_ERROR)
#define BM_KEEP		(CMD680_BM_DEV0_DMA | CMD680_BM_DEV1_DMA)

static void put_tf(struct ide_channel *ch, struct ide_list *l, unsigned int reg, uint32_t value)
{
	ide_put(ch, l, ch->ports.tf_region, ch->ports.tf + reg - CMD680_TF_DATA, 1, value);
}

static void put_bm_cmd(struct ide_channel *ch, struct ide_list *l, int value)
{
	if (ch->bm_cmd == value)
		return;
	ch->bm_cmd = value;
	ide_put(ch, l, ch->ports.bm_region, ch->ports.bm + CMD680_BM_CMD, 1, (uint32_t)value);
}

static int get_tf(struct ide_channel *ch, struct ide_list *l, unsigned int reg, uint32_t *value)
{
	return ide_get(ch, l, ch->ports.tf_region, ch->ports.tf + reg - CMD680_TF_DATA, 1, value);
}

static int get_alt_status(struct ide_channel *ch, uint32_t *value)
{
	return ide_get(ch, NULL, ch->ports.ctl_region, ch->ports.ctl, 1, value);
}

/* The four bytes of the bus-master block; the status byte alone is what counts. */
static int get_bm_status(struct ide_channel *ch, uint32_t *value)
{
	return ide_get(ch, NULL, ch->ports.bm_region, ch->ports.bm + CMD680_BM_STATUS, 1, value);
}

/* A full 64 KiB is written as 0, section 6.1. */
static uint32_t *put_prd(uint32_t *prd, uint32_t bus, uint32_t bytes)
{
	*prd++ = bus;
	*prd++ = bytes & 0xffff;
	return prd;
}

static void build_prd(struct ide_channel *ch)
{
	uint32_t *prd = ch->prd_dma.cpu;
	struct ide_segment *s;

	for (s = ch->cmd.segments; s; s = s->next) {
		if (!s->table)
			prd = put_prd(prd, s->bus, s->op == USRDRV_BLOCK_TRIM ? USRDRV_SECTOR :
							s->sectors * USRDRV_SECTOR);
		for (unsigned int i = 0; s->table && i < s->prds; i++)
			prd = put_prd(prd, (uint32_t)s->table[i].addr, s->table[i].len);
	}
	prd[-1] |= CMD680_PRD_EOT;
}

/* Which command does it (section 7.4), and as LBA28 or LBA48 (section 9.3: per request). */
static void choose_opcode(struct ide_channel *ch)
{
	struct ide_command *cmd = &ch->cmd;
	const struct ide_drive_conf *conf = &ch->drive[cmd->device].conf;
	int fua = cmd->segments->flags & USRDRV_BLOCK_FUA;

	cmd->then_flush = 0;
	cmd->ext = conf->lba48 && (cmd->sector + cmd->sectors >= ATA_LBA28_MAX || cmd->sectors > 256);
	switch (cmd->op) {
	case USRDRV_BLOCK_READ:
		if (conf->dma)
			cmd->opcode = cmd->ext ? ATA_READ_DMA_EXT : ATA_READ_DMA;
		else
			cmd->opcode = cmd->ext ? ATA_READ_SECTORS_EXT : ATA_READ_SECTORS;
		break;
	case USRDRV_BLOCK_WRITE:
		if (conf->dma && fua && conf->fua) {
			cmd->ext = 1;
			cmd->opcode = ATA_WRITE_DMA_FUA_EXT;
			break;
		}
		cmd->then_flush = fua && conf->flush;
		if (conf->dma)
			cmd->opcode = cmd->ext ? ATA_WRITE_DMA_EXT : ATA_WRITE_DMA;
		else
			cmd->opcode = cmd->ext ? ATA_WRITE_SECTORS_EXT : ATA_WRITE_SECTORS;
		break;
	case USRDRV_BLOCK_TRIM:
		cmd->ext = 1;
		cmd->opcode = ATA_DATA_SET_MANAGEMENT;
		break;
	case USRDRV_BLOCK_FLUSH:
		cmd->ext = conf->lba48;
		cmd->opcode = conf->lba48 ? ATA_FLUSH_CACHE_EXT : ATA_FLUSH_CACHE;
		break;
	}
}

/* Section 7.1: previous (high) bytes first; Features last written value stays, so it is cached. */
static void put_taskfile(struct ide_channel *ch, struct ide_list *l)
{
	struct ide_command *cmd = &ch->cmd;
	int trim = cmd->op == USRDRV_BLOCK_TRIM;
	int flush = cmd->op == USRDRV_BLOCK_FLUSH;
	int features = trim ? ATA_DSM_TRIM : 0;
	uint64_t lba = trim || flush ? 0 : cmd->sector;
	uint32_t count = trim ? 1 : flush ? 0 : cmd->sectors;
	int device = ATA_DEV_OBS | ATA_DEV_LBA | (cmd->device ? ATA_DEV_DEV1 : 0);

	if (!cmd->ext)
		device |= (int)(lba >> 24) & 0x0f;
	if (ch->device_reg < 0 || ((ch->device_reg ^ device) & ATA_DEV_DEV1)) {
		uint32_t status;

		/* 400 ns between selecting the other drive and its task file: any read takes longer */
		put_tf(ch, l, CMD680_TF_DEVICE, (uint32_t)device);
		ide_flush_list(ch, l);
		get_alt_status(ch, &status);
		ch->device_reg = device;
	}
	if (ch->features_reg != features || cmd->ext) {
		if (cmd->ext && features)
			put_tf(ch, l, CMD680_TF_FEATURES, 0);
		put_tf(ch, l, CMD680_TF_FEATURES, (uint32_t)features);
		ch->features_reg = features;
	}
	if (cmd->ext && !flush) {
		put_tf(ch, l, CMD680_TF_NSECT, count >> 8 & 0xff);
		put_tf(ch, l, CMD680_TF_LBAL, lba >> 24 & 0xff);
		put_tf(ch, l, CMD680_TF_LBAM, lba >> 32 & 0xff);
		put_tf(ch, l, CMD680_TF_LBAH, lba >> 40 & 0xff);
	}
	if (!flush) {
		put_tf(ch, l, CMD680_TF_NSECT, count & 0xff);
		put_tf(ch, l, CMD680_TF_LBAL, lba & 0xff);
		put_tf(ch, l, CMD680_TF_LBAM, lba >> 8 & 0xff);
		put_tf(ch, l, CMD680_TF_LBAH, lba >> 16 & 0xff);
	}
	if (ch->device_reg != device) {
		put_tf(ch, l, CMD680_TF_DEVICE, (uint32_t)device);
		ch->device_reg = device;
	}
}

static void count_command(struct ide_channel *ch)
{
	struct ide_command *cmd = &ch->cmd;

	ch->count.commands++;
	switch (cmd->op) {
	case USRDRV_BLOCK_READ:
		ch->count.reads += cmd->count;
		ch->count.sectors_read += cmd->sectors;
		break;
	case USRDRV_BLOCK_WRITE:
		ch->count.writes += cmd->count;
		ch->count.sectors_written += cmd->sectors;
		break;
	case USRDRV_BLOCK_FLUSH:
		ch->count.flushes++;
		break;
	case USRDRV_BLOCK_TRIM:
		ch->count.trims++;
		break;
	}
}

static void error_event(struct ide_channel *ch, struct ide_list *l, enum ide_event_kind kind, uint32_t status,
			uint32_t bm);

static void issue_pio_write(struct ide_channel *ch, struct ide_list *l)
{
	uint32_t status;
	int ret;

	/* The first block is asked for by DRQ alone, no interrupt (section 7.2). */
	if (ide_flush_list(ch, l))
		return;
	ret = ide_pio_first_drq(ch, &status);
	if (ret == -ENODEV)
		return;
	if (ret) {
		error_event(ch, l, status & (ATA_ERR | ATA_DF) ? IDE_EVENT_ERROR : IDE_EVENT_TIMEOUT, status, 0);
		return;
	}
	ide_pio_write_sector(ch);
}

/* How long a flush or trim may take: the last try has all of it, those before half (section 9.4). */
static uint32_t flush_ms(const struct ide_channel *ch)
{
	uint32_t all = ch->ide->limits.flush_ms;

	return ch->cmd.segments->tries < IDE_MAX_TRIES - 1 ? all / 2 : all;
}

/**
 * ide_issue - start the next command if the channel is idle and has one
 * @ch:	channel
 * @l:	gathers the writes; the caller hands them to the device
 */
void ide_issue(struct ide_channel *ch, struct ide_list *l)
{
	struct ide_command *cmd = &ch->cmd;
	int to_memory;

	while (ch->state == IDE_IDLE && ide_next_command(ch)) {
		struct ide_drive *d = &ch->drive[cmd->device];

		if (d->offline) {
			ide_finish_segments(ch, d->offline);
			continue;
		}
		if ((cmd->op == USRDRV_BLOCK_FLUSH && !d->conf.flush) ||
		    (cmd->op == USRDRV_BLOCK_TRIM && !d->conf.dma)) {
			/* nothing is cached; or a hint that cannot be passed on in PIO, which may be dropped */
			ide_finish_segments(ch, 0);
			continue;
		}
		if (!d->conf.dma && cmd->segments->table) {
			/* Python keeps the drive from PIO, which would want an address of ours */
			ide_finish_segments(ch, -EIO);
			continue;
		}
		choose_opcode(ch);
		cmd->started = ide_now_ms();
		cmd->deadline = cmd->started + (cmd->op == USRDRV_BLOCK_READ || cmd->op == USRDRV_BLOCK_WRITE ?
						ch->ide->limits.rw_ms : flush_ms(ch));
		cmd->cursor = cmd->segments;
		cmd->cursor_sector = 0;
		cmd->sectors_left = cmd->sectors;
		atomic_fetch_add_explicit(&ch->ide->activity, 1, memory_order_relaxed);
		count_command(ch);

		put_taskfile(ch, l);
		if (cmd->op == USRDRV_BLOCK_FLUSH) {
			ch->state = IDE_NO_DATA;
			put_tf(ch, l, CMD680_TF_COMMAND, cmd->opcode);
		} else if (!d->conf.dma) {
			ch->state = cmd->op == USRDRV_BLOCK_READ ? IDE_PIO_IN : IDE_PIO_OUT;
			put_tf(ch, l, CMD680_TF_COMMAND, cmd->opcode);
			if (ch->state == IDE_PIO_OUT)
				issue_pio_write(ch, l);
		} else {
			ch->state = IDE_DMA_DATA;
			build_prd(ch);
			to_memory = cmd->op == USRDRV_BLOCK_READ ? CMD680_BM_TO_MEMORY : 0;
			ide_put(ch, l, ch->ports.bm_region, ch->ports.bm + CMD680_BM_PRD, 4,
				(uint32_t)ch->prd_dma.bus);
			put_bm_cmd(ch, l, to_memory);
			put_tf(ch, l, CMD680_TF_COMMAND, cmd->opcode);
			ide_serve_arm(ch, l);
			put_bm_cmd(ch, l, to_memory | CMD680_BM_START);
		}
	}
}

/* Where the drive says it failed, section 7.4: LBA registers, the high half behind HOB. */
static uint64_t failed_lba(struct ide_channel *ch, struct ide_list *l)
{
	uint32_t low, mid, high, device, h[3] = { 0, 0, 0 };
	int ext = ch->cmd.ext;

	if (get_tf(ch, NULL, CMD680_TF_LBAL, &low) || get_tf(ch, NULL, CMD680_TF_LBAM, &mid) ||
	    get_tf(ch, NULL, CMD680_TF_LBAH, &high) || get_tf(ch, NULL, CMD680_TF_DEVICE, &device))
		return 0;
	if (!ext)
		return (uint64_t)(device & 0x0f) << 24 | high << 16 | mid << 8 | low;
	ide_put(ch, l, ch->ports.ctl_region, ch->ports.ctl, 1, ATA_CTL_HOB | ATA_CTL_OBS);
	ide_flush_list(ch, l);
	if (get_tf(ch, NULL, CMD680_TF_LBAL, &h[0]) || get_tf(ch, NULL, CMD680_TF_LBAM, &h[1]) ||
	    get_tf(ch, NULL, CMD680_TF_LBAH, &h[2]))
		return 0;
	ide_put(ch, l, ch->ports.ctl_region, ch->ports.ctl, 1, ATA_CTL_OBS);
	ide_flush_list(ch, l);
	return (uint64_t)h[2] << 40 | (uint64_t)h[1] << 32 | (uint64_t)h[0] << 24 |
	       high << 16 | mid << 8 | low;
}

/*
 * Stop everything on the channel and leave the rest to the error policy, which uses the registers from then on: no write
 * may come later.
 */
static void error_event(struct ide_channel *ch, struct ide_list *l, enum ide_event_kind kind, uint32_t status,
			uint32_t bm)
{
	struct ide_command *cmd = &ch->cmd;
	struct ide_event event = {
		.kind = kind,
		.drive = ch->number * 2 + cmd->device,
		.tries = cmd->segments->tries,
		.segments = cmd->count,
		.sector = cmd->sector,
		.sectors = cmd->sectors,
		.command = cmd->opcode,
		.status = (uint8_t)status,
		.bm_status = (uint8_t)bm,
	};
	uint32_t error = 0;

	ch->bm_cmd = -1;
	put_bm_cmd(ch, l, 0);
	if (ide_flush_list(ch, l))
		return;
	if (kind == IDE_EVENT_ERROR) {
		if (get_tf(ch, NULL, CMD680_TF_ERROR, &error))
			return;
		event.error = (uint8_t)error;
		event.bad_sector = failed_lba(ch, l);
	}
	ide_put(ch, l, ch->ports.bm_region, ch->ports.bm + CMD680_BM_STATUS, 1, BM_W1C | (bm & BM_KEEP));
	if (ide_flush_list(ch, l))
		return;
	if (kind == IDE_EVENT_TIMEOUT)
		ch->count.timeouts++;
	else
		ch->count.errors++;
	ide_freeze(ch, &event);
}

static void complete(struct ide_channel *ch, struct ide_list *l)
{
	struct ide_command *cmd = &ch->cmd;

	if (cmd->then_flush) {
		cmd->then_flush = 0;
		cmd->opcode = cmd->ext || ch->drive[cmd->device].conf.lba48 ? ATA_FLUSH_CACHE_EXT : ATA_FLUSH_CACHE;
		cmd->deadline = ide_now_ms() + flush_ms(ch);
		ch->state = IDE_NO_DATA;
		ch->count.flushes++;
		put_tf(ch, l, CMD680_TF_COMMAND, cmd->opcode);
		return;
	}
	ide_finish_segments(ch, 0);
	ch->state = IDE_IDLE;
	ide_issue(ch, l);
}

/* The command ended with this status byte, which is read and has cleared INTRQ. */
static void command_ended(struct ide_channel *ch, struct ide_list *l, uint32_t status, uint32_t bm)
{
	if (bm & CMD680_BM_ERROR)
		error_event(ch, l, IDE_EVENT_BUS, status, bm);
	else if (status & (ATA_ERR | ATA_DF))
		error_event(ch, l, IDE_EVENT_ERROR, status, bm);
	else if ((status & (ATA_BSY | ATA_DRDY | ATA_DRQ)) != ATA_DRDY)
		error_event(ch, l, IDE_EVENT_PROTOCOL, status, bm);
	else
		complete(ch, l);
}

static void pio_interrupt(struct ide_channel *ch, struct ide_list *l, uint32_t status, uint32_t bm)
{
	struct ide_command *cmd = &ch->cmd;

	if ((status & (ATA_ERR | ATA_DF)) || !cmd->sectors_left) {
		command_ended(ch, l, status, bm);
		return;
	}
	if (!(status & ATA_DRQ)) {
		error_event(ch, l, IDE_EVENT_PROTOCOL, status, bm);
		return;
	}
	/* the next interrupt may come as soon as the data is through: acknowledge this one before */
	if (ide_flush_list(ch, l))
		return;
	if (ch->state == IDE_PIO_OUT) {
		ide_pio_write_sector(ch);
		return;
	}
	ide_pio_read_sector(ch);
	if (!cmd->sectors_left && ch->state == IDE_PIO_IN) {
		/* no interrupt after the last block (section 7.2), but the status can still tell of an error */
		for (int i = 0; i < 100; i++) {
			if (get_alt_status(ch, &status))
				return;
			if (!(status & ATA_BSY))
				break;
		}
		command_ended(ch, l, status, bm);
	}
}

/**
 * ide_interrupt - see whether a busy channel has an interrupt, and service it
 * @ch:	channel with a command under way
 * @l:	gathers writes: acknowledgement and the next command; the caller hands them over
 *
 * Return: 1 if the interrupt was this channel's, else 0.
 */
int ide_interrupt(struct ide_channel *ch, struct ide_list *l)
{
	uint32_t bm, status, config;

	if (get_bm_status(ch, &bm) || !(bm & CMD680_BM_INT))
		return 0;
	ch->count.interrupts++;
	if (ch->state == IDE_DMA_DATA) {
		/*
		 * The PRD table fits the transfer, so a finished engine is inactive. Active with an interrupt
		 * is either an early end by an error or no interrupt of the drive's: INTRQ itself tells.
		 */
		if (bm & CMD680_BM_ACTIVE && ch->ide->mmio) {
			uint16_t chcfg = CMD680_CHCFG + ch->number * CMD680_CH_STRIDE;

			if (ide_get(ch, NULL, 5, chcfg, 4, &config))
				return 0;
			if (!(config & CMD680_CHCFG_INTRQ)) {
				ch->count.spurious++;
				ide_put(ch, l, ch->ports.bm_region, ch->ports.bm + CMD680_BM_STATUS, 1,
					CMD680_BM_INT | (bm & BM_KEEP));
				return 1;
			}
		}
		/* the task file is closed while the engine is on (section 4.2) */
		put_bm_cmd(ch, l, ch->bm_cmd & CMD680_BM_TO_MEMORY);
	} else {
		/* without the engine the status is open: BSY means that nobody has finished anything */
		if (get_alt_status(ch, &status))
			return 0;
		if (status & ATA_BSY) {
			ch->count.spurious++;
			ide_put(ch, l, ch->ports.bm_region, ch->ports.bm + CMD680_BM_STATUS, 1,
				CMD680_BM_INT | (bm & BM_KEEP));
			return 1;
		}
	}
	if (get_tf(ch, l, CMD680_TF_STATUS, &status))
		return 0;
	/* after the status read, or the level would latch again (section 5) */
	ide_put(ch, l, ch->ports.bm_region, ch->ports.bm + CMD680_BM_STATUS, 1, bm & (BM_W1C | BM_KEEP));
	if (ch->state == IDE_PIO_IN || ch->state == IDE_PIO_OUT)
		pio_interrupt(ch, l, status, bm);
	else
		command_ended(ch, l, status, bm);
	return 1;
}

/**
 * ide_idle_interrupt - quieten a channel that interrupts without a command
 * @ch:	channel
 * @l:	gathers writes; the caller hands them over
 *
 * Return: 1 if it did interrupt, else 0.
 */
int ide_idle_interrupt(struct ide_channel *ch, struct ide_list *l)
{
	uint32_t bm, status;

	if (get_bm_status(ch, &bm) || !(bm & CMD680_BM_INT))
		return 0;
	if (ch->state != IDE_FROZEN) {
		ch->count.spurious++;
		if (get_tf(ch, NULL, CMD680_TF_STATUS, &status))
			return 0;
	}
	ide_put(ch, l, ch->ports.bm_region, ch->ports.bm + CMD680_BM_STATUS, 1, CMD680_BM_INT | (bm & BM_KEEP));
	return 1;
}

/**
 * ide_watch - look at a busy channel once in a while
 * @ch:		channel
 * @l:		gathers writes; the caller hands them over
 * @now:	ide_now_ms()
 *
 * Finds a completion whose interrupt was lost, a bus error (which does not
 * interrupt, section 6.3) and a command that hangs.
 */
void ide_watch(struct ide_channel *ch, struct ide_list *l, uint64_t now)
{
	struct ide_command *cmd = &ch->cmd;
	uint32_t bm, status, fifo;

	if (now < cmd->started + ch->ide->limits.lost_ms && now < cmd->deadline)
		return;
	if (get_bm_status(ch, &bm))
		return;
	if (bm & CMD680_BM_INT) {
		/* latched, but it never reached us */
		if (ide_interrupt(ch, l))
			ch->count.lost_interrupts++;
		return;
	}
	if (ch->state == IDE_DMA_DATA) {
		if (bm & CMD680_BM_ERROR) {
			error_event(ch, l, IDE_EVENT_BUS, 0, bm);
			return;
		}
		if (!(bm & CMD680_BM_ACTIVE) && ch->ide->mmio) {
			/* the engine has moved all; with its FIFO empty it may be stopped and the status be read */
			if (ide_get(ch, NULL, 5, CMD680_FIFO_CTL + ch->number * 4, 4, &fifo))
				return;
			if (!(fifo >> 16 & 0x1ff)) {
				put_bm_cmd(ch, l, ch->bm_cmd & CMD680_BM_TO_MEMORY);
				if (ide_flush_list(ch, l))
					return;
			}
		}
	}
	if (!(ch->bm_cmd & CMD680_BM_START) || ch->bm_cmd < 0) {
		if (get_alt_status(ch, &status))
			return;
		if (!(status & (ATA_BSY | ATA_DRQ)) || (status & (ATA_ERR | ATA_DF) && !(status & ATA_BSY)) ||
		    ((status & (ATA_BSY | ATA_DRQ)) == ATA_DRQ && ch->state != IDE_DMA_DATA)) {
			ch->count.lost_interrupts++;
			if (get_tf(ch, NULL, CMD680_TF_STATUS, &status))
				return;
			if (ch->state == IDE_PIO_IN || ch->state == IDE_PIO_OUT)
				pio_interrupt(ch, l, status, bm);
			else
				command_ended(ch, l, status, bm);
			return;
		}
	}
	if (now < cmd->deadline)
		return;
	put_bm_cmd(ch, l, 0);
	if (ide_flush_list(ch, l) || get_alt_status(ch, &status))
		return;
	error_event(ch, l, IDE_EVENT_TIMEOUT, status, bm);
}
