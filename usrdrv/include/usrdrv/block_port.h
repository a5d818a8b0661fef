/* SPDX-License-Identifier: MIT */
/*
 * A port: who brings a block driver its requests, and where its dispatcher sleeps. Whoever exports a disk makes one for each
 * of its queues and hands it to block_serve() (block_chip.h); neither front end nor chip know what is behind it.
 *
 * A port belongs to one dispatcher, a thread, which is the only caller of its operations but for close().
 * Errors are -errno.
 */
#ifndef USRDRV_BLOCK_PORT_H
#define USRDRV_BLOCK_PORT_H

#include <stddef.h>
#include <stdint.h>

#include "usrdrv/block.h"

/* cffi: begin */
/* A request as its client sent it. */
struct block_order {
	uint32_t tag;			/* its slot */
	uint32_t seq;			/* which use of that slot */
	enum usrdrv_block_op op;
	unsigned int flags;		/* USRDRV_BLOCK_* */
	uint64_t offset;		/* bytes */
	uint64_t len;			/* bytes */
	uint32_t pieces;		/* with tables: entries of that in its slot */
};

/* An entry of a slot's table: where a piece of the data is, as the device sees it. */
struct block_piece {
	uint64_t addr;			/* on the bus */
	uint32_t len;			/* bytes */
	uint32_t reserved;
};

/* What the kernel does at an interrupt, one after the other, to learn whether a command has ended well. */
enum block_step_op {
	BLOCK_STEP_EXPECT = 1,		/* read a register; go on only if (it & mask) == value */
	BLOCK_STEP_WRITE = 2,		/* write ((what the first EXPECT read >> shift) & mask) | value to it */
};

#define BLOCK_STEPS	8

struct block_step {
	uint8_t op;			/* enum block_step_op; the first is an EXPECT that does not change the device */
	uint8_t bar;
	uint8_t width;			/* of the register: 1, 2 or 4 bytes */
	uint8_t shift;			/* WRITE: 0 to 31 */
	uint32_t offset;
	uint32_t mask;
	uint32_t value;
};

/* What ends a sleep, as bits. */
enum block_wake {
	BLOCK_ON_IRQ = 1,
	BLOCK_ON_KICK = 2,
	BLOCK_ON_HANGUP = 4,		/* the device is going or gone */
	BLOCK_ON_WORK = 8,		/* there are orders */
	BLOCK_ON_END = 16,		/* no further orders come */
};

/* How to sleep. */
enum block_sleep {
	BLOCK_SLEEP,
	BLOCK_SLEEP_UNMASK,		/* unmask the interrupt that was serviced last, then sleep */
	BLOCK_SLEEP_NOT,		/* look only */
};

/* What a port waits for besides orders. Descriptors; -1: none. */
struct block_wakers {
	int irq_fd, unmask_fd;
	int kick_fd;
	int hangup_fd;
	uint32_t hangup_events;
};

struct block_port;

struct block_port_ops {
	/* Begin to wait for these. By the dispatcher, before its first wait(). 0 or -errno. */
	int (*join)(struct block_port *port, const struct block_wakers *wakers);
	/* Stop waiting for what join() named: another port of this dispatcher does from now on. */
	void (*leave)(struct block_port *port);
	/* Hand over completions, then sleep for up to timeout ms, -1: without limit. Returns BLOCK_ON_* bits. */
	unsigned int (*wait)(struct block_port *port, int timeout, enum block_sleep how);

	/* The rest is NULL in a port without orders. */

	/* Take the next order. Returns 1, or 0 if there is none. */
	int (*next)(struct block_port *port, struct block_order *order);
	/* Note how one ended, 0 or -errno; its client hears of it in wait(). */
	void (*complete)(struct block_port *port, uint32_t tag, uint32_t seq, int status);
	/*
	 * Have the kernel complete an order by itself, at the interrupt that those steps find to be a good command's end.
	 * Returns 0, or -errno if it does not.
	 */
	int (*finish)(struct block_port *port, const struct block_step *steps, unsigned int n);
	/* arm: this order is the one that the kernel may complete. disarm: take that back; returns 1 if it has. */
	void (*arm)(struct block_port *port, uint32_t tag, uint32_t seq);
	int (*disarm)(struct block_port *port);
	void (*close)(struct block_port *port);
};

struct block_port {
	const struct block_port_ops *ops;
	unsigned int depth;		/* orders at once, a power of two; 0: a port without orders */
	uint8_t *slots;			/* of them; mapped, whole pages */
	size_t slot_size;		/* bytes; a power of two up to 64 KiB, or a multiple of 64 KiB */
	int tables;			/* a slot has a table of struct block_piece for a read or write, not the data */
	int unmasks;			/* joined, and BLOCK_SLEEP_UNMASK works */
	uint64_t calls;			/* system calls so far */
};

/* cffi: end */

/* Where an order's data are, or the table that names them. */
static inline uint8_t *block_slot(const struct block_port *port, uint32_t tag)
{
	return port->slots + (size_t)tag * port->slot_size;
}

#endif
