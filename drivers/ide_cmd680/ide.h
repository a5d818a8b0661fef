/* SPDX-License-Identifier: MIT */
/*
 * The CMD680's half of its data path: the registers of one command, started, looked at and ended. Requests, queues and
 * threads are the front end's (usrdrv/block_chip.h). What is rare (probing, modes, error policy) is in Python and reaches
 * in through the functions between the cffi markers.
 *
 * Two channels, which run one command each; units are drives, number = channel * 2 + device. A segment of 64 KiB in an
 * aligned page is exactly one PRD entry.
 *
 * Every function that takes a channel wants its lock held. Sections refer to docs/hardware/cmd680.md.
 */
#ifndef IDE_H
#define IDE_H

#include "usrdrv/block_chip.h"

/* cffi: begin */
#define IDE_CHANNELS		2
#define IDE_DRIVES		4
#define IDE_SEGMENTS		64	/* a channel, for requests of threads */
#define IDE_PRDS		256	/* entries of a channel's table, 2 KiB */
#define IDE_MAX_SECTORS		2048	/* of a command: 1 MiB */
#define IDE_MAX_SECTORS_28	256	/* LBA28 counts to 256 sectors, section 7.4 */
#define IDE_TRIM_BYTES		2147450880	/* of one segment: 64 ranges of 65535 sectors, section 7.4 */

struct ide;

/* What the control plane found out about a drive. */
struct ide_drive_conf {
	uint64_t sectors;
	uint32_t physical_block;	/* bytes */
	uint8_t read_only;
	uint8_t rotational;
	uint8_t lba48;
	uint8_t fua;		/* has WRITE DMA FUA EXT */
	uint8_t trim;		/* has DATA SET MANAGEMENT TRIM */
	uint8_t flush;		/* has FLUSH CACHE */
	uint8_t dma;		/* 1: UDMA or MWDMA, 0: PIO */
};

/* What the registers said when a command failed; valid while its channel is frozen. */
struct ide_error {
	uint64_t bad_sector;	/* what the LBA registers say; of use when error has UNC or IDNF */
	uint8_t command;
	uint8_t status;
	uint8_t error;
	uint8_t bm_status;
};

int ide_create(struct usrdrv_dev *dev, int mmio, struct ide **out);
struct block_front *ide_front(struct ide *ide);
int ide_configure(struct ide *ide, unsigned int drive, const struct ide_drive_conf *conf);
int ide_set_protocol(struct ide *ide, unsigned int drive, int dma);
void ide_get_error(struct ide *ide, unsigned int channel, struct ide_error *out);
void ide_destroy(struct ide *ide);
/* cffi: end */

enum ide_phase {
	IDE_DMA_DATA,		/* a DMA command runs */
	IDE_PIO_IN,		/* a PIO read runs, the interrupt announces a sector */
	IDE_PIO_OUT,		/* a PIO write runs, the interrupt asks for a sector */
	IDE_NO_DATA,		/* FLUSH CACHE runs */
};

/* Where a channel's registers are: BAR5, or the I/O BARs (section 3). */
struct ide_ports {
	uint8_t tf_region, ctl_region, bm_region;
	uint16_t tf, ctl, bm;		/* tf: offset of the data register */
};

struct ide_channel {
	struct block_channel block;	/* first */
	struct ide *ide;
	struct ide_ports ports;
	struct usrdrv_dma prd_dma;

	/* the command */
	struct block_command *cmd;
	enum ide_phase phase;
	uint8_t opcode;
	uint8_t ext;			/* a 48-bit command */
	uint8_t then_flush;		/* FUA by FLUSH CACHE: no FUA command in PIO or on this drive */
	struct block_segment *cursor;	/* PIO: segment of the next sector */
	uint32_t cursor_sector;		/* PIO: its next sector */
	uint32_t sectors_left;		/* PIO */
	struct ide_error error;

	/* what the registers hold, -1: unknown; writes that change nothing are left out */
	int device_reg, features_reg, bm_cmd;
};

struct ide {
	struct block_front front;
	int mmio;
	struct ide_channel channel[IDE_CHANNELS];
	struct ide_drive_conf conf[IDE_DRIVES];
};

/* command.c */
extern const struct block_chip_ops ide_chip_ops;

/* finish.c */
unsigned int ide_finish_steps(const struct block_channel *ch, struct block_step *steps);
void ide_finished(struct block_channel *ch, struct block_command *cmd);

/* pio.c */
void ide_pio_write_sector(struct ide_channel *ch);
void ide_pio_read_sector(struct ide_channel *ch);
int ide_pio_first_drq(struct ide_channel *ch, uint32_t *status);

#endif
