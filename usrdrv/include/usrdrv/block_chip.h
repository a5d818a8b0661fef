/* SPDX-License-Identifier: MIT */
/*
 * A block driver's half in C: what it implements (struct block_chip_ops), and what the front end in usrdrv/block/ does for
 * it.
 *
 *	port		who brings requests: rings that are shared with the kernel, or threads that submit and wait (block_port.h)
 *	front end	requests, segments, commands; who runs them; a command's deadline; freezing on an error
 *	chip		the registers of one command: to start it, to look at it, to end it
 *
 * A device has channels, each of which works on up to `depth` commands at once, and units (disks). A unit is on one channel
 * (an ATA drive), or spread over several (a disk with many queues). A request is cut into segments, each of which lies in
 * memory that the device reaches; a channel's queue joins adjacent ones, as far as the chip can take them, into a command.
 *
 * The front end holds a channel's lock when it calls an operation of the chip. block_flush_list(), block_end(), block_error()
 * and block_flush_ms() want it held; the calls of the control plane, and front.c's, want no lock.
 * Channels share nothing but the interrupt.
 *
 * Units: sectors of 512 bytes, times in milliseconds. Errors are -errno.
 */
#ifndef USRDRV_BLOCK_CHIP_H
#define USRDRV_BLOCK_CHIP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "usrdrv/block.h"
#include "usrdrv/block_port.h"
#include "usrdrv/dev.h"

/* cffi: begin */
#define BLOCK_SEGMENT_BYTES	65536
#define BLOCK_MAX_CHANNELS	16
#define BLOCK_MAX_UNITS		16
#define BLOCK_MAX_TRIES		3	/* of a command that hangs or fails for no good reason, the first included */

struct block_front;
struct block_port;

struct block_limits {
	uint32_t rw_ms;		/* a read or write hangs after this */
	uint32_t flush_ms;	/* a flush or trim does, tried for the last time; before that after half of it */
	uint32_t lost_ms;	/* look for a lost interrupt after this */
	uint32_t poll_us;	/* with orders: busy-poll the chip so long before waiting for its interrupt */
};

enum block_event_kind {
	BLOCK_EVENT_ERROR,	/* the device ended the command with an error */
	BLOCK_EVENT_TIMEOUT,
	BLOCK_EVENT_BUS,	/* the chip met a bus error in a transfer */
	BLOCK_EVENT_PROTOCOL,	/* the chip is in a state that the protocol does not have */
	BLOCK_EVENT_GONE,	/* no way on with the device; everything was failed with -ENODEV; error: why, errno */
	BLOCK_EVENT_UNSERVED,	/* a unit's port has ended */
	BLOCK_EVENT_PAUSED,	/* block_pause() asked for it: no command is at the channel; the verdict is BLOCK_DONE */
};

/* Why a channel is frozen, or what happened to the device. */
struct block_event {
	int kind;		/* enum block_event_kind */
	unsigned int unit;
	unsigned int tries;	/* earlier attempts of this command */
	unsigned int segments;	/* joined in it */
	uint64_t sector;	/* first of the command */
	uint32_t sectors;
	int error;		/* BLOCK_EVENT_GONE: errno */
};

enum block_verdict {
	BLOCK_RETRY,		/* the same again */
	BLOCK_SPLIT,		/* again, each segment as a command of its own */
	BLOCK_FAIL,		/* end these requests with an error */
	BLOCK_DONE,		/* it did complete */
};

/* Read from outside without a lock, also by another process; each is written under its channel's lock. */
struct block_counters {
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

/* The control plane's calls; no lock is held. */
int block_count_in(struct block_front *front, int fd);
void block_set_limits(struct block_front *front, const struct block_limits *limits);
int block_start(struct block_front *front);
int block_wait_event(struct block_front *front, unsigned int *channel, struct block_event *event);
int block_resume(struct block_front *front, unsigned int channel, int verdict, int err);
int block_pause(struct block_front *front, unsigned int channel);
void block_lost(struct block_front *front, int err);
int block_offline(struct block_front *front, unsigned int unit, int err);
void block_stop(struct block_front *front);
struct usrdrv_block *block_top_end(struct block_front *front, unsigned int unit);
void block_get_counters(struct block_front *front, unsigned int channel, struct block_counters *out);
int block_serve(struct block_front *front, unsigned int unit, struct block_port *const *port, unsigned int ports);
uint64_t block_served_calls(struct block_front *front);
/* cffi: end */

/* A waiter's word: what it sleeps on. */
enum block_wait { BLOCK_PENDING, BLOCK_SLEEPING, BLOCK_FINISHED };

struct block_request {
	uint32_t wait;		/* futex, enum block_wait */
	unsigned int left;	/* segments not complete; channel lock */
	int status;		/* 0 or the first -errno; channel lock */
	uint64_t len;		/* bytes */
	struct block_request *next_done;
	void (*complete)(struct block_request *r);	/* instead of waking a waiter; no lock held */
};

struct block_segment {
	struct block_segment *next;	/* in the free list, the queue or the command */
	struct block_segment *sibling;	/* the next one that the same request may use */
	struct block_request *request;
	struct block_unit *unit;
	uint64_t sector;
	uint32_t sectors;
	uint16_t pieces;	/* of memory */
	uint8_t op;		/* enum usrdrv_block_op */
	uint8_t flags;		/* USRDRV_BLOCK_* */
	uint8_t alone;		/* not to be joined */
	uint8_t tries;
	uint64_t bus;		/* of the page, aligned to its size, or to BLOCK_SEGMENT_BYTES */
	uint8_t *page;		/* as the CPU sees it */
	const struct block_piece *table;	/* of `pieces` entries: where the data are instead; or NULL */
};

#define BLOCK_WRITES	20u	/* that an operation of the chip adds to a list at most */

/*
 * Register writes that have not been handed to the device yet. They are posted, and go to it in one piece, because on some
 * back ends a message, not a register, is what costs (docs/design/register-lists.md).
 */
struct block_list {
	unsigned int n;
	struct usrdrv_write w[2 * BLOCK_WRITES];
};

/* What the chip works on; all segments have one operation, one unit and the same flags. */
struct block_command {
	struct block_command *next;	/* in the idle list, or that of failed ones */
	struct block_segment *segments;	/* ascending sectors */
	struct block_unit *unit;
	uint64_t sector;
	uint32_t sectors;
	unsigned int count;	/* segments */
	unsigned int pieces;
	uint16_t tag;		/* its place in the channel */
	uint8_t op;		/* enum usrdrv_block_op */
	uint8_t flying;		/* at the chip */
	uint8_t finishes;	/* set by start(): finish_steps() holds for it, and nothing is left to do after it */
	int event;		/* enum block_event_kind; of a failed one */
	uint64_t started;	/* ms */
	uint64_t deadline;	/* ms; the chip may move it */
};

struct block_channel;

struct block_chip_ops {
	/*
	 * Start a command: put its register writes into l. If the write that sets the chip off is the last one, put it into
	 * *go instead: with zero copy the front end arms the kernel between the two. go->width 0, as it comes: there is none.
	 * Nothing may cause an interrupt before *go. The chip may end the command right here.
	 */
	void (*start)(struct block_channel *ch, struct block_command *cmd, struct block_list *l, struct usrdrv_write *go);
	/*
	 * See whether a channel with commands interrupts; end what is done, each by block_end() or block_error(). Returns
	 * whether it did. Also called when another channel interrupted, and without an interrupt, when polling.
	 */
	int (*interrupt)(struct block_channel *ch, struct block_list *l);
	/* The device interrupted and no channel with commands did: take back what this one, which has none, may raise. */
	void (*idle_interrupt)(struct block_channel *ch, struct block_list *l);
	/*
	 * At each tick of a channel with commands: end what was done without an interrupt, and report a command that is past
	 * its deadline by block_error(BLOCK_EVENT_TIMEOUT). Nobody else looks at the deadline. now: block_now_ms().
	 */
	void (*watch)(struct block_channel *ch, struct block_list *l, uint64_t now);
	/* The channel goes on, or begins: the control plane wrote registers, so forget what is cached of them. */
	void (*resumed)(struct block_channel *ch);
	/* Write into a segment's page what the chip is to see of a trim. NULL: nothing. */
	void (*prepare_trim)(struct block_segment *s);
	/*
	 * How the chip tells that a command ended well, up to BLOCK_STEPS. Returns how many; NULL: no way. For channels
	 * of depth 1.
	 */
	unsigned int (*finish_steps)(const struct block_channel *ch, struct block_step *steps);
	/* The kernel took those steps for this command; the front end ends it after this. Needed with finish_steps. */
	void (*finished)(struct block_channel *ch, struct block_command *cmd);
};

/* What a chip can do. */
struct block_abilities {
	uint64_t dma_limit;	/* highest bus address */
	uint64_t trim_bytes;	/* of one segment, and of a disk's largest discard */
	uint32_t max_pieces;	/* of a command */
	int joins;		/* 1: segments of different requests may share a command; 0: only those of one request */
};

enum block_state {
	BLOCK_FROZEN,		/* the control plane has the channel; requests queue up */
	BLOCK_OPEN,
	BLOCK_DEAD,		/* device gone: every request ends with -ENODEV */
};

/* max_sectors, by_cpu, and block but for its ops are the driver's to fill in. */
struct block_unit {
	struct usrdrv_block block;	/* first */
	struct block_front *front;	/* NULL: there is no such disk */
	struct block_channel **channel;	/* in the front end's: the first one */
	unsigned int channels;	/* that it is spread over */
	unsigned int number;
	uint32_t max_sectors;	/* of a command; at least BLOCK_SEGMENT_BYTES */
	int by_cpu;		/* the driver moves the data, so it wants segments' pages; written while frozen */
	int offline;		/* -errno for every request, or 0 */
	int served;		/* has, or had, a port */
};

struct block_channel {
	pthread_mutex_t lock;
	struct block_front *front;
	unsigned int number;
	enum block_state state;
	unsigned int depth;
	unsigned int flying;		/* commands at the chip */
	struct block_command *command;	/* depth of them */
	struct block_command *idle, *failed, **failed_tail;

	struct block_segment *queue, **queue_tail;
	struct block_request *done;	/* complete, to be told so by block_unlock() */

	struct block_segment *segment;	/* pool, for requests of threads */
	unsigned int segments;
	struct block_segment *free;
	struct usrdrv_dma pages;	/* of the pool */
	unsigned int pool_waiters;
	unsigned int users;		/* threads inside submit_wait() */
	pthread_cond_t pool_cond;

	int pause;			/* freeze as soon as no command is at the chip */
	int event_pending;
	struct block_event event;
	struct block_counters *count;	/* in the front end's */
};

struct block_dispatcher;

struct block_front {
	struct usrdrv_dev *dev;
	const struct block_chip_ops *ops;
	struct block_abilities can;
	struct block_limits limits;
	struct block_channel *channel[BLOCK_MAX_CHANNELS];
	unsigned int channels;
	struct block_unit unit[BLOCK_MAX_UNITS];
	struct block_counters *counters;	/* one for each channel; mapped */

	struct block_dispatcher *dispatcher;	/* the main one; it has the interrupt */
	_Atomic(struct block_dispatcher *) feeders;	/* of further ports */
	atomic_int ports;		/* that bring orders */
	atomic_int stop;
	atomic_int gone;	/* errno: ENODEV the device vanished, else it refused an access; 0: neither */
	atomic_int asleep;		/* the main dispatcher sleeps without a time-out */
	atomic_int unmasks;		/* its sleep lets the interrupt through */
	atomic_int service;		/* an interrupt was left for it */
	atomic_ulong activity;		/* commands started */

	pthread_mutex_t event_lock;
	pthread_cond_t event_cond;
	int event_gone;
	unsigned int event_unserved;	/* units, as bits */
};

/* events.c: from any context */
void block_kick(struct block_front *front);

/* channel.c, events.c: for chips */
uint64_t block_now_ms(void);
int block_flush_list(struct block_channel *ch, struct block_list *l);
void block_end(struct block_channel *ch, struct block_command *cmd, int status);
void block_error(struct block_channel *ch, struct block_command *cmd, enum block_event_kind kind);
uint32_t block_flush_ms(const struct block_channel *ch, const struct block_command *cmd);

/* front.c: a driver's front end is made and given back; before block_start(), and after block_stop() */
int block_init(struct block_front *front, struct usrdrv_dev *dev, const struct block_chip_ops *ops,
	       const struct block_abilities *can);
int block_add_channel(struct block_front *front, struct block_channel *ch, unsigned int depth, unsigned int segments);
struct block_unit *block_add_unit(struct block_front *front, unsigned int number, unsigned int channel,
				  unsigned int channels);
void block_free(struct block_front *front);

#endif
