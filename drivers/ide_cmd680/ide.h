/* SPDX-License-Identifier: MIT */
/*
 * The data path of the CMD680 driver: requests in, commands to the drives,
 * completions out. What is rare (probing, modes, error policy) is in Python
 * and reaches in through the functions between the cffi markers.
 *
 * A request is cut into segments of at most 64 KiB, each in one DMA page of
 * its own, so that a segment is exactly one PRD entry; or it is one segment,
 * which has the kernel's table of where its data are. The queue joins
 * adjacent segments into one command. PATA runs one command at a time on a
 * channel; each channel has its own lock, queue and pages, and shares nothing
 * with the other one.
 *
 * Units: sectors of 512 bytes, time-outs in milliseconds. Errors are -errno.
 */
#ifndef IDE_H
#define IDE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "usrdrv/block.h"
#include "usrdrv/dev.h"
#include "usrdrv/loop.h"

/* cffi: begin */
#define IDE_CHANNELS		2
#define IDE_DRIVES		4	/* number = channel * 2 + device */
#define IDE_SEGMENT_BYTES	65536
#define IDE_SEGMENTS		64	/* a channel */
#define IDE_MAX_TRIES		3	/* of a command that hangs or fails for no good reason, the first included */
#define IDE_PRDS		256	/* entries of a channel's table, 2 KiB */
#define IDE_MAX_SECTORS		2048	/* of a merged command: 1 MiB */
#define IDE_MAX_SECTORS_28	256	/* LBA28 counts to 256 sectors, section 7.4 */

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

struct ide_limits {
	uint32_t rw_ms;		/* a read or write hangs after this */
	uint32_t flush_ms;	/* a flush or trim does, tried for the last time; before that after half of it */
	uint32_t lost_ms;	/* look for a lost interrupt after this */
	uint32_t poll_us;	/* served to usrloop: look at the chip so long before waiting for its interrupt */
};

enum ide_event_kind {
	IDE_EVENT_ERROR,	/* the drive ended the command with ERR or DF */
	IDE_EVENT_TIMEOUT,
	IDE_EVENT_BUS,		/* the bus master met a PCI abort */
	IDE_EVENT_PROTOCOL,	/* DRQ, BSY or the engine in a state the protocol does not have */
	IDE_EVENT_GONE,		/* no way on with the device; everything was failed with -ENODEV; error: why, errno */
	IDE_EVENT_UNSERVED,	/* usrloop took the disk from us */
};

/* Why a channel is frozen. */
struct ide_event {
	int kind;		/* enum ide_event_kind */
	unsigned int drive;
	unsigned int tries;	/* earlier attempts of this command */
	unsigned int segments;	/* merged into it */
	uint64_t sector;	/* first of the command */
	uint64_t bad_sector;	/* what the LBA registers say; of use when error has UNC or IDNF */
	uint32_t sectors;
	uint8_t command;
	uint8_t status;
	uint8_t error;
	uint8_t bm_status;
};

enum ide_verdict {
	IDE_RETRY,		/* the same again */
	IDE_SPLIT,		/* again, each segment as a command of its own */
	IDE_FAIL,		/* end these requests with an error */
	IDE_DONE,		/* it did complete */
};

/* Read from outside without a lock; each is written under its channel's lock. */
struct ide_counters {
	uint64_t commands;
	uint64_t reads;		/* segments, also below */
	uint64_t writes;
	uint64_t flushes;
	uint64_t trims;
	uint64_t merged;	/* segments that travelled in another one's command */
	uint64_t sectors_read;
	uint64_t sectors_written;
	uint64_t interrupts;
	uint64_t spurious;
	uint64_t lost_interrupts;
	uint64_t timeouts;
	uint64_t errors;	/* events of the other kinds */
	uint64_t retries;
	uint64_t failed;	/* segments ended with an error */
	uint64_t register_reads;
	uint64_t register_writes;
};

int ide_create(struct usrdrv_dev *dev, int mmio, struct ide **out);
int ide_configure(struct ide *ide, unsigned int drive, const struct ide_drive_conf *conf);
int ide_set_protocol(struct ide *ide, unsigned int drive, int dma);
int ide_offline(struct ide *ide, unsigned int drive, int err);
void ide_set_limits(struct ide *ide, const struct ide_limits *limits);
int ide_start(struct ide *ide);
int ide_wait_event(struct ide *ide, unsigned int *channel, struct ide_event *event);
int ide_resume(struct ide *ide, unsigned int channel, int verdict, int err);
void ide_stop(struct ide *ide);
void ide_destroy(struct ide *ide);
struct usrdrv_block *ide_block(struct ide *ide, unsigned int drive);
void ide_get_counters(struct ide *ide, unsigned int channel, struct ide_counters *out);
int ide_serve(struct ide *ide, unsigned int drive, int fd, const struct usrloop_attach *attach);
uint64_t ide_served_calls(struct ide *ide);
/* cffi: end */

enum ide_state {
	IDE_FROZEN,		/* the control plane has the channel; requests queue up */
	IDE_IDLE,		/* no command at the drives, queue empty */
	IDE_DMA_DATA,		/* a DMA command runs */
	IDE_PIO_IN,		/* a PIO read runs, the interrupt announces a sector */
	IDE_PIO_OUT,		/* a PIO write runs, the interrupt asks for a sector */
	IDE_NO_DATA,		/* FLUSH CACHE runs */
	IDE_DEAD,		/* device gone: every request ends with -ENODEV */
};

/* A waiter's word: what it sleeps on. */
enum ide_wait { IDE_PENDING, IDE_SLEEPING, IDE_FINISHED };

struct ide_request {
	uint32_t wait;		/* futex, enum ide_wait */
	unsigned int left;	/* segments not complete; channel lock */
	int status;		/* 0 or the first -errno; channel lock */
	struct ide_request *next_done;
	void (*complete)(struct ide_request *r);	/* instead of waking a waiter; no lock held */
};

struct ide_segment {
	struct ide_segment *next;	/* in the free list, the queue or the command */
	struct ide_segment *sibling;	/* next one of the same request's window */
	struct ide_request *request;
	uint64_t sector;
	uint32_t sectors;
	uint32_t bus;		/* of the page, 64 KiB aligned */
	uint8_t *page;
	const struct usrloop_segment *table;	/* of prds entries: where the data are instead; or NULL */
	uint16_t prds;		/* it takes so many */
	uint8_t op;		/* enum usrdrv_block_op */
	uint8_t flags;
	uint8_t device;		/* on the channel: 0 or 1 */
	uint8_t alone;		/* not to be merged */
	uint8_t tries;
};

/* Register writes that have not been handed to the device yet. */
struct ide_list {
	unsigned int n;
	struct usrdrv_write w[40];
};

/* The command that the channel works on. */
struct ide_command {
	struct ide_segment *segments;	/* ascending sectors */
	struct ide_segment *cursor;	/* PIO: segment of the next sector */
	uint32_t cursor_sector;		/* PIO: its next sector */
	unsigned int count;		/* segments */
	unsigned int prds;
	uint64_t sector;
	uint32_t sectors;
	uint32_t sectors_left;		/* PIO */
	uint8_t opcode;
	uint8_t device;
	uint8_t op;
	uint8_t ext;			/* a 48-bit command */
	uint8_t then_flush;		/* FUA by FLUSH CACHE: no FUA command in PIO or on this drive */
	uint64_t started;		/* ms */
	uint64_t deadline;		/* ms */
};

struct ide_drive {
	struct usrdrv_block block;
	struct ide_channel *channel;
	struct ide_drive_conf conf;
	unsigned int device;
	int present;
	int offline;			/* -errno for every request, or 0 */
};

/* Where a channel's registers are: BAR5, or the I/O BARs (document section 3). */
struct ide_ports {
	uint8_t tf_region, ctl_region, bm_region;
	uint16_t tf, ctl, bm;		/* tf: offset of the data register */
};

struct ide_channel {
	pthread_mutex_t lock;
	struct ide *ide;
	unsigned int number;
	enum ide_state state;
	struct ide_ports ports;
	struct ide_drive drive[2];

	struct ide_segment *queue, **queue_tail;
	struct ide_segment *free;
	unsigned int pool_waiters;
	unsigned int users;		/* threads inside submit_wait() */
	struct ide_request *done;	/* complete, to be told so by ide_unlock() */
	pthread_cond_t pool_cond;
	struct ide_command cmd;
	struct usrdrv_dma prd_dma, page_dma;

	/* what the registers hold, -1: unknown; writes that change nothing are left out */
	int device_reg, features_reg, bm_cmd;

	int event_pending;
	struct ide_event event;
	struct ide_counters count;
	struct ide_segment segment[IDE_SEGMENTS];
};

struct ide {
	struct usrdrv_dev *dev;
	int mmio;
	struct ide_channel channel[IDE_CHANNELS];
	struct ide_limits limits;

	pthread_t dispatcher;
	int running;
	int epoll_fd, kick_fd;
	atomic_int stop;
	atomic_int gone;	/* errno: ENODEV the device vanished, else it refused an access; 0: neither */
	atomic_int asleep;		/* the dispatcher sleeps without a time-out */
	atomic_int service;		/* an interrupt was left for the dispatcher */
	atomic_ulong activity;		/* commands issued */

	pthread_mutex_t event_lock;
	pthread_cond_t event_cond;
	int event_gone, event_unserved;

	_Atomic(struct ide_serve *) serve;	/* who asks usrloop for requests, or NULL */
	struct ide_serve *left;		/* who did; its commands may be at the chip until the end */
};

/* registers.c */
void ide_put(struct ide_channel *ch, struct ide_list *l, uint8_t region, uint16_t offset,
	     uint8_t width, uint32_t value);
int ide_flush_list(struct ide_channel *ch, struct ide_list *l);
int ide_get(struct ide_channel *ch, struct ide_list *l, uint8_t region, uint16_t offset, uint8_t width,
	    uint32_t *value);

/* queue.c */
void ide_unlock(struct ide_channel *ch);
struct ide_segment *ide_take_segments(struct ide_channel *ch, unsigned int want);
void ide_give_segments(struct ide_channel *ch, struct ide_segment *first);
void ide_enqueue(struct ide_channel *ch, struct ide_segment *first);
void ide_requeue(struct ide_channel *ch, int alone);
void ide_finish_segments(struct ide_channel *ch, int status);
void ide_fail_queue(struct ide_channel *ch, int device, int err);
int ide_next_command(struct ide_channel *ch);

/* command.c */
void ide_issue(struct ide_channel *ch, struct ide_list *l);
int ide_interrupt(struct ide_channel *ch, struct ide_list *l);
int ide_idle_interrupt(struct ide_channel *ch, struct ide_list *l);
void ide_watch(struct ide_channel *ch, struct ide_list *l, uint64_t now);

/* finish.c */
void ide_finish_steps(const struct ide_channel *ch, struct usrloop_finish *finish);
struct ide_request *ide_only_request(const struct ide_channel *ch);
void ide_finished(struct ide_channel *ch);

/* pio.c */
void ide_pio_write_sector(struct ide_channel *ch);
void ide_pio_read_sector(struct ide_channel *ch);
int ide_pio_first_drq(struct ide_channel *ch, uint32_t *status);

/* events.c */
void ide_freeze(struct ide_channel *ch, const struct ide_event *event);
void ide_post_gone(struct ide *ide);
void ide_post_unserved(struct ide *ide);

/* serve.c */
unsigned int ide_serve_wait(struct ide_serve *s, int timeout, unsigned int how);
void ide_serve_pump(struct ide_serve *s);
int ide_serve_unmasks(const struct ide_serve *s);
void ide_serve_arm(struct ide_channel *ch, struct ide_list *l);
void ide_serve_disarm(struct ide_serve *s);
void ide_serve_leave(struct ide_serve *s);
void ide_serve_free(struct ide_serve *s);

/* block.c */
int ide_check(const struct usrdrv_block *b, enum usrdrv_block_op op, uint64_t offset, uint64_t len);
uint64_t ide_share(enum usrdrv_block_op op, uint64_t len);
void ide_fill(struct ide_segment *s, struct ide_drive *d, struct ide_request *r, enum usrdrv_block_op op,
	      uint64_t offset, uint64_t len, unsigned int flags);

/* dispatch.c */
enum { IDE_ON_IRQ = 1, IDE_ON_KICK = 2, IDE_ON_HANGUP = 4, IDE_ON_WORK = 8, IDE_ON_END = 16 };
void ide_service(struct ide *ide);
void ide_run_channel(struct ide_channel *ch);
void ide_lost(struct ide *ide, int err);
void ide_kick(struct ide *ide);
uint64_t ide_now_ms(void);

#endif
