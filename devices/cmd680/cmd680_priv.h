/* SPDX-License-Identifier: MIT */
/*
 * Inside the CMD680 model. Everything here runs with the model's mutex held,
 * except the fdatasync of the worker (worker.c). Section numbers are those of
 * docs/hardware/cmd680.md.
 *
 * The layers, the highest first. A file calls those in lower layers only: tests/unit/tree/test_layers.py.
 *
 *	cmd680.c			life, regions
 *	config.c			configuration space, RST#
 *	regs.c				the register file
 *	ata.c				task file, data register, resets of drives
 *	ata_cmds.c			the command set
 *	ata_features.c ata_identify.c ata_smart.c
 *	ata_data.c			data phases
 *	bmdma.c modes.c			the engine; whether host and drive agree on the mode
 *	fault.c				faults
 *	spin.c				from power-on to the first command
 *	drive.c				how commands end
 *	worker.c			what ends later
 *	irq.c store.c strict.c		INTRQ and INTA#; the medium; strict mode
 *	say.c				standard error
 */
#ifndef USRDRV_DEVICES_CMD680_PRIV_H
#define USRDRV_DEVICES_CMD680_PRIV_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "cmd680.h"
#include "usrdrv/ata.h"
#include "usrdrv/cmd680_regs.h"

#define SECTOR		512u
#define MAX_MULTIPLE	16u	/* sectors in a DRQ block, word 47 */
#define MAX_DSM_BLOCKS	8u	/* word 105 */
#define DEFAULT_PIO	2	/* the fastest without IORDY, until SET FEATURES says else */
#define FASTEST_PIO	4
#define ATA_READY	(ATA_DRDY | ATA_DSC)
#define PM_STATE	0x03u	/* in PMCSR */

struct model;
struct channel;
struct drive;

/* The medium (store.c). */
struct store {
	int fd;			/* -1: memory */
	uint8_t *ram;
	uint64_t size;		/* bytes */
	bool read_only;
	bool can_trim;
	int failed;		/* errno that was told, 0: none */
	uint64_t failed_at;	/* byte */
};

/* Task-file registers that are two deep (section 7.1), as offsets from the command block. */
enum { TF_FEATURES = 1, TF_NSECT, TF_LBAL, TF_LBAM, TF_LBAH, TF_DEVICE, TF_COMMAND, TF_REGS };

enum xfer_kind { XFER_NONE, XFER_PIO_IN, XFER_PIO_OUT, XFER_DMA };

/* The data phase of the command that runs. */
struct xfer {
	enum xfer_kind kind;
	bool write;		/* host to device */
	bool media;		/* else: through drive.buf only */
	bool fua;
	bool ext;
	bool ready;		/* XFER_DMA: the device has DMARQ up */
	bool crc;		/* the data is damaged on its way */
	bool fault;		/* the medium refuses the write */
	uint64_t pos;		/* bytes from the start of the medium, or of buf */
	uint64_t left;		/* bytes to go */
	uint32_t block;		/* bytes in one DRQ block */
	uint32_t have;		/* PIO: bytes in this block */
	uint32_t at;		/* PIO: bytes of it moved */
	void (*done)(struct drive *d);	/* buffer writes: what to do with buf */
};

struct drive {
	struct channel *ch;
	unsigned int index;	/* channel * 2 + device */
	struct cmd680_drive_config config;
	struct cmd680_drive_counters *count;
	struct store store;
	bool present;		/* configured */
	bool unplugged;
	bool unseen;		/* plugged back, but not reset yet */
	uint32_t stuck;		/* id of the fault that holds BSY; 0: none */

	uint8_t cur[TF_REGS];
	uint8_t prev[TF_REGS];
	uint8_t error;
	uint8_t status;
	bool irq;		/* interrupt pending */
	bool mute;		/* lost-irq fault: this command will not interrupt */

	/* Settings (SET FEATURES and friends) */
	int pio;		/* the fastest PIO mode that the host may use */
	int mwdma, udma;	/* selected mode; -1: none */
	bool write_cache;
	bool look_ahead;
	bool smart;
	bool autosave;
	bool keep_settings;	/* over a soft reset */
	uint8_t apm;		/* 0: off */
	uint8_t multiple;	/* sectors; 0: off */
	uint8_t heads, spt;	/* CHS translation */
	bool puis;		/* power-up in standby is on; outlasts power-off */
	bool spun;		/* false: in standby since power-on */
	uint64_t ready_at;	/* BSY until then, since power-on; CLOCK_MONOTONIC, ns; 0: it is */
	enum { POWER_ACTIVE, POWER_STANDBY, POWER_SLEEP } power;
	uint64_t sectors;	/* addressable, after SET MAX */
	uint64_t max_kept;	/* of them, those that outlast a reset */
	bool native_read;	/* SET MAX must follow READ NATIVE MAX */
	bool set_max_ok;

	struct xfer x;
	uint8_t buf[MAX_MULTIPLE * SECTOR];
	uint8_t user_buf[SECTOR];	/* READ/WRITE BUFFER */
};

/* What is finished later, by the channel's thread (worker.c). */
struct job {
	bool armed;
	bool sync;		/* fdatasync first */
	uint64_t when;		/* CLOCK_MONOTONIC, ns */
	struct drive *drive;	/* NULL: no job */
	void (*fn)(struct drive *d, int error);
};

struct channel {
	struct model *m;
	unsigned int index;
	struct drive drive[2];
	unsigned int select;
	uint8_t control;	/* device control */
	bool intrq;		/* level of the ATA line */

	/* Bus master (bmdma.c) */
	uint8_t bm_cmd, bm_sw, bm_status;
	uint32_t prd;
	uint32_t prd_cur;	/* next entry */
	uint32_t prd_fetched;	/* entries since start */
	uint32_t seg_addr, seg_left;
	bool seg_eot;

	/* Plain registers */
	uint32_t chcfg;		/* the bits of A0 that are stored, timing included */
	uint32_t timing[3];	/* A4, A8, AC */
	uint8_t mode;
	uint32_t fifo;
	uint32_t vdma;

	/* Worker */
	pthread_t thread;
	bool threaded;
	pthread_cond_t wake;
	struct job job;
	uint64_t generation;	/* changes when the job in hand is abandoned */
};

struct model {
	struct usrdrv_model base;
	pthread_mutex_t lock;
	bool stop;
	struct cmd680_counters count;
	struct cmd680_config config;
	struct channel ch[2];
	uint8_t cfg[USRDRV_MODEL_CONFIG_SIZE];
	uint32_t syscfg, sw_data, cfg_sw_data;
	uint32_t flash, eeprom;
	bool inta;
	struct cmd680_fault fault[FAULTS_ROOM];
	struct faults faults;
};

static inline struct model *to_model(struct usrdrv_model *m)
{
	return (struct model *)m;
}

/* In D3 the function answers nothing but configuration accesses. */
static inline bool powered(const struct model *m)
{
	return (m->cfg[CMD680_CFG_PMCSR] & PM_STATE) == 0;
}

/* Resets that keep the engine still while their bit is set (section 4.1.2). */
static inline bool engine_held(const struct channel *ch)
{
	uint32_t own = ch->index ? CMD680_SYSCFG_IDE1_RESET | CMD680_SYSCFG_FF1_RESET :
				   CMD680_SYSCFG_IDE0_RESET | CMD680_SYSCFG_FF0_RESET;

	return ch->m->syscfg & (own | CMD680_SYSCFG_PBM_RESET | CMD680_SYSCFG_ARB_RESET);
}

static inline bool drive_there(const struct drive *d)
{
	return d->present && !d->unplugged && !d->unseen;
}

/* config.c */
uint32_t cmd680_config_read(struct model *m, uint32_t offset, unsigned int width);
void cmd680_config_write(struct model *m, uint32_t offset, unsigned int width, uint32_t value);
void cmd680_reset_all(struct model *m);

/* regs.c */
uint32_t cmd680_regs_read(struct model *m, uint32_t offset, unsigned int width);
void cmd680_regs_write(struct model *m, uint32_t offset, unsigned int width, uint32_t value);
void cmd680_regs_reset(struct model *m);

/* ata.c */
uint8_t ata_read(struct channel *ch, unsigned int reg, bool alternate);
void ata_write(struct channel *ch, unsigned int reg, uint8_t value);
uint16_t ata_data_read(struct channel *ch);
void ata_data_write(struct channel *ch, uint16_t value);
void ata_control(struct channel *ch, uint8_t value);
void ata_hard_reset(struct channel *ch);
void ata_power_on(struct drive *d);

/* ata_cmds.c */
void ata_command(struct drive *d, uint8_t op);

/* ata_features.c, ata_identify.c, ata_smart.c */
void ata_set_features(struct drive *d);
void ata_identify(struct drive *d, uint8_t *out);
void ata_smart(struct drive *d);

/* ata_data.c */
void ata_xfer_media(struct drive *d, const struct xfer *plan);
void ata_xfer_buffer_in(struct drive *d);
void ata_xfer_buffer_out(struct drive *d, enum xfer_kind kind, uint32_t len, void (*done)(struct drive *d));
void ata_xfer_durable(struct drive *d);
void ata_xfer_run(struct channel *ch);
uint16_t ata_pio_read(struct drive *d);
void ata_pio_write(struct drive *d, uint16_t value);

/* bmdma.c */
enum bm_result { BM_DONE, BM_SHORT, BM_ABORT, BM_MEDIA };

uint8_t cmd680_bm_read(struct channel *ch, unsigned int reg);
bool cmd680_bm_write(struct channel *ch, unsigned int reg, uint8_t value);
void cmd680_bm_stop(struct channel *ch);
void cmd680_bm_reset(struct channel *ch);
void cmd680_bm_abort(struct channel *ch);
enum bm_result cmd680_bm_move(struct drive *d, uint64_t len, int *error);
bool cmd680_bm_exact(const struct channel *ch);

/* modes.c */
bool ata_mode_mismatch(const struct drive *d);
bool ata_mode_refused(const struct drive *d);
bool ata_pio_refused(const struct drive *d);
bool ata_mode_crc(struct drive *d);

/* fault.c */
void cmd680_faults_init(struct model *m);
struct cmd680_fault *cmd680_fault_find(struct drive *d, unsigned int kind, uint8_t opcode, unsigned int direction);
bool cmd680_fault_take(struct drive *d, unsigned int kind, uint8_t opcode, unsigned int direction);
struct cmd680_fault *cmd680_fault_bad_sector(struct drive *d, uint64_t lba, uint64_t sectors, bool write,
					     uint64_t *first);
uint64_t cmd680_fault_delay(struct drive *d, uint64_t bytes, unsigned int direction);

/* spin.c */
void ata_power_up(struct drive *d);
bool ata_spin_busy(struct drive *d);
bool ata_spin_refuses(struct drive *d);
uint64_t ata_spin_delay(struct drive *d);
void ata_spin_up(struct drive *d);
unsigned int ata_spin_word(const struct drive *d);

/* drive.c */
void ata_signature(struct drive *d);
void ata_stop(struct drive *d);
void ata_interrupt(struct drive *d);
void ata_ok(struct drive *d);
void ata_fail(struct drive *d, uint8_t status, uint8_t error);
void ata_abort(struct drive *d);
void ata_media_error(struct drive *d, uint64_t lba, bool write);
void ata_set_lba(struct drive *d, uint64_t lba, bool ext);

/* worker.c */
uint64_t cmd680_now(void);
void cmd680_worker_defer(struct drive *d, uint64_t delay_ns, bool sync, void (*fn)(struct drive *d, int error));
void cmd680_worker_hurry(struct channel *ch);
void cmd680_worker_cancel(struct channel *ch);
void cmd680_worker_join(struct channel *ch);

/* irq.c */
void cmd680_irq_update(struct channel *ch);

/* store.c */
int cmd680_store_open(struct store *s, const struct cmd680_drive_config *config);
void cmd680_store_close(struct store *s);
int cmd680_store_io(struct store *s, bool write, struct iovec *iov, int n, uint64_t pos, size_t *done);
int cmd680_store_rw(struct store *s, bool write, void *buf, size_t len, uint64_t pos, size_t *done);
int cmd680_store_sync(struct store *s);
int cmd680_store_trim(struct store *s, uint64_t pos, uint64_t len);
void cmd680_store_failed(struct store *s, unsigned int drive, const char *what, uint64_t pos, int error);
void cmd680_store_written(struct store *s, unsigned int drive, uint64_t pos, uint64_t len);

/* strict.c */
enum strict_rule { STRICT_TIMING, STRICT_TASKFILE, STRICT_PRD, STRICT_RULES };

bool cmd680_strict_refuses(struct channel *ch, enum strict_rule rule);
void cmd680_strict_summary(const struct model *m);

/* say.c */
void cmd680_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
