/* SPDX-License-Identifier: MIT */
/*
 * The front end's own parts. Calls go down only:
 *
 *	front.c		life of a front end: memory, locks, channels, units
 *	orders.c	memory that a port's orders need
 *	dispatch.c	threads that sleep in a port, take its orders, service the interrupt, hand over what is done
 *	requests.c	requests of threads that submit and wait
 *	control.c	what the control plane tells channels: go on, pause; the end
 *	channel.c	a request's way: segments, the queue, a command, the chip, its end
 *	join.c		what waits in the queue joins a command
 *	owner.c		whether the kernel or the driver ends the only command
 *	events.c	a frozen channel, or the device's end, told to the control plane
 *
 * Beside them epoll_port.c, which knows nothing of the front end but block_port.h.
 *
 * See docs/design/block-front-end.md.
 */
#ifndef FRONT_H
#define FRONT_H

#include <string.h>

#include "usrdrv/block_chip.h"
#include "usrdrv/block_port.h"

#define BLOCK_PIECES	16u	/* of bounce memory: a large one may not be had */

/* Who runs a front end, or feeds it: a thread that sleeps in a port. */
struct block_dispatcher {
	struct block_front *front;
	struct block_dispatcher *next;		/* of the feeders */
	pthread_t thread;
	int running;				/* the thread */
	int kick_fd;
	struct block_port *idle_port;		/* where it sleeps without orders; the main one's */
	_Atomic(struct block_orders *) orders;	/* of its port, or NULL */
	struct block_orders *ended;		/* whose port has; its commands may be at the chip until the end */
};

/* A request that a port brought; its place is its tag. */
struct block_order_request {
	struct block_request request;		/* first */
	struct block_orders *orders;
	struct block_order_request *next;	/* in the list of completions by other threads */
	uint32_t seq;
	int ended;				/* by the kernel itself */
};

/* What a port's orders need: memory for their data, segments, and who ends them. The dispatcher's, but for `done`. */
struct block_orders {
	struct block_unit *unit;
	struct block_channel *channel;
	struct block_port *port;
	struct block_dispatcher *by;
	int joined;
	int finishes;			/* the kernel knows how the chip tells that a command is done */
	struct block_command *armed;	/* which the kernel may end, or NULL; channel lock */

	size_t stride;			/* of slots in data */
	unsigned int per_slot;		/* segments */
	unsigned int per_piece;		/* slots */
	int bounce;			/* data is memory of ours: the device cannot reach the slots */
	struct usrdrv_dma data[BLOCK_PIECES];	/* the slots, or what stands for them */
	struct block_order_request *request;
	struct block_segment *segment;

	pthread_mutex_t lock;
	struct block_order_request *done;	/* by other threads */
};

/* events.c */
void block_freeze(struct block_channel *ch, const struct block_command *cmd);
void block_freeze_idle(struct block_channel *ch);
void block_post_gone(struct block_front *front);
void block_post_unserved(struct block_front *front, unsigned int unit);

/* owner.c */
int block_may_arm(const struct block_orders *o, const struct block_command *cmd);
void block_arm(struct block_orders *o, struct block_command *cmd);
void block_arm_again(struct block_orders *o);
struct block_command *block_disarm(struct block_orders *o);

/* join.c */
void block_join(struct block_channel *ch, struct block_command *cmd);

/* channel.c */
int block_check(const struct block_unit *u, enum usrdrv_block_op op, uint64_t offset, uint64_t len);
uint64_t block_segment_limit(const struct block_unit *u, enum usrdrv_block_op op);
int block_enqueue(struct block_channel *ch, struct block_unit *u, struct block_request *r, struct block_segment *s,
		  const struct block_order *order, const struct block_piece *table);
void block_run(struct block_channel *ch);
void block_service(struct block_front *front);
int block_poll_chip(struct block_front *front);
int block_watch(struct block_front *front);
int block_any_busy(struct block_front *front);
void block_end_segments(struct block_channel *ch, struct block_command *cmd, int status);
void block_end_segment(struct block_channel *ch, struct block_segment *s, int status);
void block_unlock(struct block_channel *ch);

/* control.c */
void block_fail_everything(struct block_front *front);

/* dispatch.c */
void *block_dispatch(void *dispatcher);
void *block_feed(void *dispatcher);
void block_order_complete(struct block_request *request);

/* orders.c */
int block_make_orders(struct block_dispatcher *by, struct block_unit *unit, struct block_channel *ch,
		      struct block_port *port, struct block_orders **out);
void block_free_orders(struct block_orders *o);

/* epoll_port.c */
struct block_port *block_epoll_port(void);

/* Copy what a request has read; first: of its segments, which are done. */
static inline void block_copy_out(const struct block_request *r, const struct block_segment *first, uint8_t *buf)
{
	uint64_t left = r->len;

	for (const struct block_segment *s = first; left; s = s->sibling) {
		uint64_t n = (uint64_t)s->sectors * USRDRV_SECTOR;

		memcpy(buf, s->page, n);
		buf += n;
		left -= n;
	}
}

#endif
