/* SPDX-License-Identifier: MIT */
/* The CMD680 model with up to four ATA disks: what Python needs to make one and to break it. */
#ifndef USRDRV_DEVICES_CMD680_H
#define USRDRV_DEVICES_CMD680_H

#include <stdint.h>

#include "base/faults.h"
#include "usrdrv/model.h"

/* cffi: begin */
#define CMD680_DRIVES	4	/* channel * 2 + device */

struct cmd680_drive_config {
	uint8_t present;
	int fd;			/* of the image, duplicated by the model; -1: memory */
	uint64_t size;		/* bytes, a multiple of 512 */
	uint8_t read_only;
	char serial[21];
	char model[41];
	char firmware[9];
	int8_t max_udma;	/* 0-6, -1: no UDMA */
	int8_t max_mwdma;	/* 0-2, -1: no DMA at all */
	uint8_t lba48;
	uint8_t trim;
	uint16_t rpm;		/* 1: not rotating */
	uint8_t physical_4k;
	uint16_t general;	/* word 0 of IDENTIFY: 0 is a disk's */
	uint16_t puis;		/* word 2: powers up in standby; 0: does not */
	uint32_t spin_up_ms;	/* from power-on, or when it is told */
	uint8_t no_flush;	/* older than the flush commands: nothing is cached */
};

struct cmd680_config {
	struct cmd680_drive_config drive[CMD680_DRIVES];
	uint8_t cable80[2];
	uint16_t pci_class;	/* 0x0101, 0x0104 or 0x0180 */
	uint8_t no_bar5;	/* strap BA5_EN is off */
	uint8_t strict;		/* refuse what a card would not do */
};

struct cmd680_drive_counters {
	uint64_t commands;
	uint64_t reads;		/* commands */
	uint64_t writes;
	uint64_t flushes;
	uint64_t trims;
	uint64_t sectors;
	uint64_t bytes;
	uint64_t errors;	/* commands that ended with ERR or DF */
	uint64_t crc_errors;
	uint64_t resets;
	uint64_t timeouts;	/* resets in the middle of a command */
	uint64_t mode_mismatch;	/* DMA with host timing faster than the drive's mode, section 4.5 */
};

struct cmd680_counters {
	uint64_t register_reads;	/* through the BARs */
	uint64_t register_writes;
	uint64_t config_reads;	/* of configuration space */
	uint64_t config_writes;
	uint64_t interrupts;	/* times INTA# was raised */
	uint64_t prds;		/* PRD entries fetched */
	uint64_t master_aborts;
	uint64_t tf_while_dma;	/* task-file accesses while BM start is set, section 4.2 */
	uint64_t unexpected;	/* accesses that no driver should make */
	uint64_t refused_timings;	/* strict: commands whose data would move at a wrong speed */
	uint64_t refused_accesses;	/* strict: of the task file while BM start is set */
	uint64_t refused_prds;	/* strict: entries that cross 64 KiB */
	struct cmd680_drive_counters drive[CMD680_DRIVES];
};

enum cmd680_fault_kind {
	CMD680_FAULT_BAD_SECTOR,
	CMD680_FAULT_CRC,
	CMD680_FAULT_HANG,
	CMD680_FAULT_STUCK_BSY,
	CMD680_FAULT_LOST_IRQ,
	CMD680_FAULT_SPURIOUS_IRQ,
	CMD680_FAULT_UNPLUG,
	CMD680_FAULT_SLOW,
	CMD680_FAULT_DMA_ABORT,
	CMD680_FAULT_WRITE_FAULT,
	CMD680_FAULT_KINDS,
};

#define CMD680_ON_READ	1
#define CMD680_ON_WRITE	2

struct cmd680_fault {
	struct fault base;	/* kind: enum cmd680_fault_kind; on: mask of CMD680_ON_*, 0: every command */
	int32_t drive;		/* -1: any */
	int32_t opcode;		/* only this command; -1: any */
	int32_t above;		/* crc: only while the UDMA mode is higher; -1: always */
	uint64_t lba;
	uint64_t sectors;
	double mbps;		/* slow: 0 is unlimited */
	double seek_ms;
};

int cmd680_create(const struct cmd680_config *config, struct usrdrv_model **model);
void cmd680_counters(struct usrdrv_model *model, struct cmd680_counters *counters);
struct faults *cmd680_faults(struct usrdrv_model *model);
/* cffi: end */

#endif
