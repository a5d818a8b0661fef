// SPDX-License-Identifier: MIT
/*
 * One command from task file to completion: docs/hardware/cmd680.md sections
 * 9.3 and 6. Every function wants the channel lock held.
 *
 * Register reads are dear (each waits for the device), writes are posted. A
 * DMA command is started without a read and ended with two: bus-master status
 * and ATA status.
 *
 * See docs/design/durability.md.
 */
#include <errno.h>
#include <string.h>

#include "ide.h"
#include "usrdrv/ata.h"
#include "usrdrv/cmd680_regs.h"

#define BM_W1C		(CMD680_BM_INT | CMD680_BM_ERROR)
#define BM_KEEP		(CMD680_BM_DEV0_DMA | CMD680_BM_DEV1_DMA)
#define TRIM_RANGE_SECTORS	65535

static struct ide_channel *of(struct block_channel *ch)
{
	return (struct ide_channel *)ch;
}

static unsigned int device_of(const struct ide_channel *ch)
{
	return ch->cmd->unit->number % 2;
}

static const struct ide_drive_conf *conf_of(const struct ide_channel *ch)
{
	return &ch->ide->conf[ch->cmd->unit->number];
}

static void put(struct ide_channel *ch, struct block_list *l, uint8_t region, unsigned int offset, uint8_t width,
		uint32_t value)
{
	l->w[l->n++] = (struct usrdrv_write){
		.region = region, .width = width, .offset = offset, .value = value,
	};
	ch->block.count->register_writes++;
}

static void put_tf(struct ide_channel *ch, struct block_list *l, unsigned int reg, uint32_t value)
{
	put(ch, l, ch->ports.tf_region, ch->ports.tf + reg - CMD680_TF_DATA, 1, value);
}

static void put_ctl(struct ide_channel *ch, struct block_list *l, uint32_t value)
{
	put(ch, l, ch->ports.ctl_region, ch->ports.ctl, 1, value);
}

static void put_bm_status(struct ide_channel *ch, struct block_list *l, uint32_t value)
{
	put(ch, l, ch->ports.bm_region, ch->ports.bm + CMD680_BM_STATUS, 1, value);
}

static void put_bm_cmd(struct ide_channel *ch, struct block_list *l, int value)
{
	if (ch->bm_cmd == value)
		return;
	ch->bm_cmd = value;
	put(ch, l, ch->ports.bm_region, ch->ports.bm + CMD680_BM_CMD, 1, (uint32_t)value);
}

/* Read a register, after the writes in the list; NULL: none. Return: 0, or -errno with the device given up. */
static int get(struct ide_channel *ch, struct block_list *l, uint8_t region, unsigned int offset, uint8_t width,
	       uint32_t *value)
{
	struct usrdrv_dev *dev = ch->block.front->dev;
	uint64_t wide;
	int ret = dev->ops->read(dev, l ? l->w : NULL, l ? l->n : 0, region, offset, width, &wide);

	*value = (uint32_t)wide;
	if (l)
		l->n = 0;
	ch->block.count->register_reads++;
	if (ret)
		block_lost(ch->block.front, ret);
	return ret;
}

static int get_tf(struct ide_channel *ch, struct block_list *l, unsigned int reg, uint32_t *value)
{
	return get(ch, l, ch->ports.tf_region, ch->ports.tf + reg - CMD680_TF_DATA, 1, value);
}

static int get_alt_status(struct ide_channel *ch, uint32_t *value)
{
	return get(ch, NULL, ch->ports.ctl_region, ch->ports.ctl, 1, value);
}

/* The four bytes of the bus-master block; the status byte alone is what counts. */
static int get_bm_status(struct ide_channel *ch, uint32_t *value)
{
	return get(ch, NULL, ch->ports.bm_region, ch->ports.bm + CMD680_BM_STATUS, 1, value);
}

static int flush_list(struct ide_channel *ch, struct block_list *l)
{
	return block_flush_list(&ch->block, l);
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
	const struct block_segment *s;

	for (s = ch->cmd->segments; s; s = s->next) {
		if (!s->table)
			prd = put_prd(prd, (uint32_t)s->bus, s->op == USRDRV_BLOCK_TRIM ? USRDRV_SECTOR :
							s->sectors * USRDRV_SECTOR);
		for (unsigned int i = 0; s->table && i < s->pieces; i++)
			prd = put_prd(prd, (uint32_t)s->table[i].addr, s->table[i].len);
	}
	prd[-1] |= CMD680_PRD_EOT;
}

/* Which command does it (section 7.4), and as LBA28 or LBA48 (section 9.3: per request). */
static void choose_opcode(struct ide_channel *ch)
{
	const struct block_command *cmd = ch->cmd;
	const struct ide_drive_conf *conf = conf_of(ch);
	int fua = cmd->segments->flags & USRDRV_BLOCK_FUA;

	ch->then_flush = 0;
	ch->ext = conf->lba48 && (cmd->sector + cmd->sectors >= ATA_LBA28_MAX || cmd->sectors > 256);
	switch (cmd->op) {
	case USRDRV_BLOCK_READ:
		if (conf->dma)
			ch->opcode = ch->ext ? ATA_READ_DMA_EXT : ATA_READ_DMA;
		else
			ch->opcode = ch->ext ? ATA_READ_SECTORS_EXT : ATA_READ_SECTORS;
		break;
	case USRDRV_BLOCK_WRITE:
		if (conf->dma && fua && conf->fua) {
			ch->ext = 1;
			ch->opcode = ATA_WRITE_DMA_FUA_EXT;
			break;
		}
		ch->then_flush = fua && conf->flush;
		if (conf->dma)
			ch->opcode = ch->ext ? ATA_WRITE_DMA_EXT : ATA_WRITE_DMA;
		else
			ch->opcode = ch->ext ? ATA_WRITE_SECTORS_EXT : ATA_WRITE_SECTORS;
		break;
	case USRDRV_BLOCK_TRIM:
		ch->ext = 1;
		ch->opcode = ATA_DATA_SET_MANAGEMENT;
		break;
	case USRDRV_BLOCK_FLUSH:
		ch->ext = conf->lba48;
		ch->opcode = conf->lba48 ? ATA_FLUSH_CACHE_EXT : ATA_FLUSH_CACHE;
		break;
	}
}

/* Section 7.1: previous (high) bytes first; Features last written value stays, so it is cached. */
static void put_taskfile(struct ide_channel *ch, struct block_list *l)
{
	const struct block_command *cmd = ch->cmd;
	int trim = cmd->op == USRDRV_BLOCK_TRIM;
	int flush = cmd->op == USRDRV_BLOCK_FLUSH;
	int features = trim ? ATA_DSM_TRIM : 0;
	uint64_t lba = trim || flush ? 0 : cmd->sector;
	uint32_t count = trim ? 1 : flush ? 0 : cmd->sectors;
	int device = ATA_DEV_OBS | ATA_DEV_LBA | (device_of(ch) ? ATA_DEV_DEV1 : 0);

	if (!ch->ext)
		device |= (int)(lba >> 24) & 0x0f;
	if (ch->device_reg < 0 || ((ch->device_reg ^ device) & ATA_DEV_DEV1)) {
		uint32_t status;

		/* 400 ns between selecting the other drive and its task file: any read takes longer */
		put_tf(ch, l, CMD680_TF_DEVICE, (uint32_t)device);
		flush_list(ch, l);
		get_alt_status(ch, &status);
		ch->device_reg = device;
	}
	if (ch->features_reg != features || ch->ext) {
		if (ch->ext && features)
			put_tf(ch, l, CMD680_TF_FEATURES, 0);
		put_tf(ch, l, CMD680_TF_FEATURES, (uint32_t)features);
		ch->features_reg = features;
	}
	if (ch->ext && !flush) {
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

static void error_event(struct ide_channel *ch, struct block_list *l, enum block_event_kind kind, uint32_t status,
			uint32_t bm);

static void issue_pio_write(struct ide_channel *ch, struct block_list *l)
{
	uint32_t status;
	int ret;

	/* The first block is asked for by DRQ alone, no interrupt (section 7.2). */
	if (flush_list(ch, l))
		return;
	ret = ide_pio_first_drq(ch, &status);
	if (ret == -ENODEV)
		return;
	if (ret) {
		error_event(ch, l, status & (ATA_ERR | ATA_DF) ? BLOCK_EVENT_ERROR : BLOCK_EVENT_TIMEOUT, status, 0);
		return;
	}
	ide_pio_write_sector(ch);
}

static void issue_dma(struct ide_channel *ch, struct block_list *l, struct usrdrv_write *go)
{
	int to_memory = ch->cmd->op == USRDRV_BLOCK_READ ? CMD680_BM_TO_MEMORY : 0;

	ch->phase = IDE_DMA_DATA;
	build_prd(ch);
	put(ch, l, ch->ports.bm_region, ch->ports.bm + CMD680_BM_PRD, 4, (uint32_t)ch->prd_dma.bus);
	put_bm_cmd(ch, l, to_memory);
	put_tf(ch, l, CMD680_TF_COMMAND, ch->opcode);
	ch->cmd->finishes = !ch->then_flush;
	ch->bm_cmd = to_memory | CMD680_BM_START;
	*go = (struct usrdrv_write){
		.region = ch->ports.bm_region, .offset = ch->ports.bm + CMD680_BM_CMD, .width = 1,
		.value = (uint32_t)ch->bm_cmd,
	};
}

static void start(struct block_channel *b, struct block_command *cmd, struct block_list *l, struct usrdrv_write *go)
{
	struct ide_channel *ch = of(b);

	ch->cmd = cmd;
	choose_opcode(ch);
	ch->cursor = cmd->segments;
	ch->cursor_sector = 0;
	ch->sectors_left = cmd->sectors;
	put_taskfile(ch, l);
	if (cmd->op == USRDRV_BLOCK_FLUSH) {
		ch->phase = IDE_NO_DATA;
		put_tf(ch, l, CMD680_TF_COMMAND, ch->opcode);
	} else if (conf_of(ch)->dma) {
		issue_dma(ch, l, go);
	} else {
		ch->phase = cmd->op == USRDRV_BLOCK_READ ? IDE_PIO_IN : IDE_PIO_OUT;
		put_tf(ch, l, CMD680_TF_COMMAND, ch->opcode);
		if (ch->phase == IDE_PIO_OUT)
			issue_pio_write(ch, l);
	}
}

/* Where the drive says it failed, section 7.4: LBA registers, the high half behind HOB. */
static uint64_t failed_lba(struct ide_channel *ch, struct block_list *l)
{
	uint32_t low, mid, high, device, h[3] = { 0, 0, 0 };
	int ext = ch->ext;

	if (get_tf(ch, NULL, CMD680_TF_LBAL, &low) || get_tf(ch, NULL, CMD680_TF_LBAM, &mid) ||
	    get_tf(ch, NULL, CMD680_TF_LBAH, &high) || get_tf(ch, NULL, CMD680_TF_DEVICE, &device))
		return 0;
	if (!ext)
		return (uint64_t)(device & 0x0f) << 24 | high << 16 | mid << 8 | low;
	put_ctl(ch, l, ATA_CTL_HOB | ATA_CTL_OBS);
	flush_list(ch, l);
	if (get_tf(ch, NULL, CMD680_TF_LBAL, &h[0]) || get_tf(ch, NULL, CMD680_TF_LBAM, &h[1]) ||
	    get_tf(ch, NULL, CMD680_TF_LBAH, &h[2]))
		return 0;
	put_ctl(ch, l, ATA_CTL_OBS);
	flush_list(ch, l);
	return (uint64_t)h[2] << 40 | (uint64_t)h[1] << 32 | (uint64_t)h[0] << 24 |
	       high << 16 | mid << 8 | low;
}

/*
 * Stop everything on the channel and leave the rest to the error policy, which uses the registers from then on: no write
 * may come later.
 */
static void error_event(struct ide_channel *ch, struct block_list *l, enum block_event_kind kind, uint32_t status,
			uint32_t bm)
{
	uint32_t error = 0;

	ch->error = (struct ide_error){
		.command = ch->opcode, .status = (uint8_t)status, .bm_status = (uint8_t)bm,
	};
	ch->bm_cmd = -1;
	put_bm_cmd(ch, l, 0);
	if (flush_list(ch, l))
		return;
	if (kind == BLOCK_EVENT_ERROR) {
		if (get_tf(ch, NULL, CMD680_TF_ERROR, &error))
			return;
		ch->error.error = (uint8_t)error;
		ch->error.bad_sector = failed_lba(ch, l);
	}
	put_bm_status(ch, l, BM_W1C | (bm & BM_KEEP));
	if (!flush_list(ch, l))
		block_error(&ch->block, ch->cmd, kind);
}

static void complete(struct ide_channel *ch, struct block_list *l)
{
	if (!ch->then_flush) {
		block_end(&ch->block, ch->cmd, 0);
		return;
	}
	ch->then_flush = 0;
	ch->opcode = ch->ext || conf_of(ch)->lba48 ? ATA_FLUSH_CACHE_EXT : ATA_FLUSH_CACHE;
	ch->cmd->deadline = block_now_ms() + block_flush_ms(&ch->block, ch->cmd);
	ch->phase = IDE_NO_DATA;
	ch->block.count->flushes++;
	put_tf(ch, l, CMD680_TF_COMMAND, ch->opcode);
}

/* The command ended with this status byte, which is read and has cleared INTRQ. */
static void command_ended(struct ide_channel *ch, struct block_list *l, uint32_t status, uint32_t bm)
{
	if (bm & CMD680_BM_ERROR)
		error_event(ch, l, BLOCK_EVENT_BUS, status, bm);
	else if (status & (ATA_ERR | ATA_DF))
		error_event(ch, l, BLOCK_EVENT_ERROR, status, bm);
	else if ((status & (ATA_BSY | ATA_DRDY | ATA_DRQ)) != ATA_DRDY)
		error_event(ch, l, BLOCK_EVENT_PROTOCOL, status, bm);
	else
		complete(ch, l);
}

static void pio_interrupt(struct ide_channel *ch, struct block_list *l, uint32_t status, uint32_t bm)
{
	if ((status & (ATA_ERR | ATA_DF)) || !ch->sectors_left) {
		command_ended(ch, l, status, bm);
		return;
	}
	if (!(status & ATA_DRQ)) {
		error_event(ch, l, BLOCK_EVENT_PROTOCOL, status, bm);
		return;
	}
	/* the next interrupt may come as soon as the data is through: acknowledge this one before */
	if (flush_list(ch, l))
		return;
	if (ch->phase == IDE_PIO_OUT) {
		ide_pio_write_sector(ch);
		return;
	}
	ide_pio_read_sector(ch);
	if (!ch->sectors_left) {
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

/* Whether a busy channel has an interrupt: service it. */
static int interrupt(struct block_channel *b, struct block_list *l)
{
	struct ide_channel *ch = of(b);
	uint32_t bm, status, config;

	if (get_bm_status(ch, &bm) || !(bm & CMD680_BM_INT))
		return 0;
	ch->block.count->interrupts++;
	if (ch->phase == IDE_DMA_DATA) {
		/*
		 * The PRD table fits the transfer, so a finished engine is inactive. Active with an interrupt
		 * is either an early end by an error or no interrupt of the drive's: INTRQ itself tells.
		 */
		if (bm & CMD680_BM_ACTIVE && ch->ide->mmio) {
			uint16_t chcfg = CMD680_CHCFG + ch->block.number * CMD680_CH_STRIDE;

			if (get(ch, NULL, 5, chcfg, 4, &config))
				return 0;
			if (!(config & CMD680_CHCFG_INTRQ)) {
				ch->block.count->spurious++;
				put_bm_status(ch, l, CMD680_BM_INT | (bm & BM_KEEP));
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
			ch->block.count->spurious++;
			put_bm_status(ch, l, CMD680_BM_INT | (bm & BM_KEEP));
			return 1;
		}
	}
	if (get_tf(ch, l, CMD680_TF_STATUS, &status))
		return 0;
	/* the status read has taken INTRQ back, and INTA# with it; before it the level would latch again (section 5) */
	put_bm_status(ch, l, bm & (BM_W1C | BM_KEEP));
	if (ch->phase == IDE_PIO_IN || ch->phase == IDE_PIO_OUT)
		pio_interrupt(ch, l, status, bm);
	else
		command_ended(ch, l, status, bm);
	return 1;
}

/*
 * Quieten a channel that may interrupt without a command. INTA# follows the live INTRQ, which only reading the status takes
 * back (section 5). The latch may have been cleared already, when a command that was given up ended late: so it is no reason
 * not to read the status.
 */
static void idle_interrupt(struct block_channel *b, struct block_list *l)
{
	struct ide_channel *ch = of(b);
	uint32_t bm, status;

	if (get_bm_status(ch, &bm) || get_tf(ch, NULL, CMD680_TF_STATUS, &status) || !(bm & CMD680_BM_INT))
		return;
	if (b->state != BLOCK_FROZEN)
		b->count->spurious++;
	put_bm_status(ch, l, CMD680_BM_INT | (bm & BM_KEEP));
}

/*
 * Find a completion whose interrupt was lost, a bus error (which does not interrupt, section 6.3) and a command that hangs.
 */
static void watch(struct block_channel *b, struct block_list *l, uint64_t now)
{
	struct ide_channel *ch = of(b);
	const struct block_command *cmd = ch->cmd;
	uint32_t bm, status, fifo;

	if (now < cmd->started + b->front->limits.lost_ms && now < cmd->deadline)
		return;
	if (get_bm_status(ch, &bm))
		return;
	if (bm & CMD680_BM_INT) {
		/* latched, but it never reached us */
		if (interrupt(b, l))
			ch->block.count->lost_interrupts++;
		return;
	}
	if (ch->phase == IDE_DMA_DATA) {
		if (bm & CMD680_BM_ERROR) {
			error_event(ch, l, BLOCK_EVENT_BUS, 0, bm);
			return;
		}
		if (!(bm & CMD680_BM_ACTIVE) && ch->ide->mmio) {
			/* the engine has moved all; with its FIFO empty it may be stopped and the status be read */
			if (get(ch, NULL, 5, CMD680_FIFO_CTL + ch->block.number * 4, 4, &fifo))
				return;
			if (!(fifo >> 16 & 0x1ff)) {
				put_bm_cmd(ch, l, ch->bm_cmd & CMD680_BM_TO_MEMORY);
				if (flush_list(ch, l))
					return;
			}
		}
	}
	if (!(ch->bm_cmd & CMD680_BM_START) || ch->bm_cmd < 0) {
		if (get_alt_status(ch, &status))
			return;
		if (!(status & (ATA_BSY | ATA_DRQ)) || (status & (ATA_ERR | ATA_DF) && !(status & ATA_BSY)) ||
		    ((status & (ATA_BSY | ATA_DRQ)) == ATA_DRQ && ch->phase != IDE_DMA_DATA)) {
			ch->block.count->lost_interrupts++;
			if (get_tf(ch, NULL, CMD680_TF_STATUS, &status))
				return;
			if (ch->phase == IDE_PIO_IN || ch->phase == IDE_PIO_OUT)
				pio_interrupt(ch, l, status, bm);
			else
				command_ended(ch, l, status, bm);
			return;
		}
	}
	if (now < cmd->deadline)
		return;
	put_bm_cmd(ch, l, 0);
	if (flush_list(ch, l) || get_alt_status(ch, &status))
		return;
	error_event(ch, l, BLOCK_EVENT_TIMEOUT, status, bm);
}

static void resumed(struct block_channel *b)
{
	struct ide_channel *ch = of(b);

	ch->device_reg = -1;
	ch->features_reg = -1;
	ch->bm_cmd = -1;
}

/* A 512-byte block of 64 ranges of up to 65535 sectors, section 7.4. */
static void prepare_trim(struct block_segment *s)
{
	uint64_t *range = (uint64_t *)s->page, sector = s->sector, left = s->sectors;

	memset(range, 0, USRDRV_SECTOR);
	while (left) {
		uint64_t n = left < TRIM_RANGE_SECTORS ? left : TRIM_RANGE_SECTORS;

		*range++ = sector | n << 48;
		sector += n;
		left -= n;
	}
}

/** ide_chip_ops - what the front end calls */
const struct block_chip_ops ide_chip_ops = {
	.start = start, .interrupt = interrupt, .idle_interrupt = idle_interrupt, .watch = watch, .resumed = resumed,
	.prepare_trim = prepare_trim, .finish_steps = ide_finish_steps, .finished = ide_finished,
};
