/* SPDX-License-Identifier: MIT */
/*
 * The front end's own parts. Calls go down only:
 *
 *	front.c		life of a front end: memory, locks, channels, units
 *	dispatch.c	threads that sleep in a port, and what they do when they wake
 *	requests.c	requests of threads that submit and wait
 *	orders.c	requests that a port brings
 *	run.c		who runs a channel: start commands, service interrupts, watch, resume after an error
 *	owner.c		whether the kernel or the driver ends the only command
 *	commands.c	segments become a command; a command ends
 *	events.c	a frozen channel, or the device's end, told to the control plane
 *	segments.c	the pool, the queue; requests that are complete
 *	base.c		the clock, a kick, register access
 *
 * Beside them epoll_port.c and usrloop_port.c, which know nothing of the front end but block_port.h.
 *
 * See docs/design/block-front-end.md.
 */
#ifndef FRONT_H
#define FRONT_H

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

/* segments.c */
void block_unlock(struct block_channel *ch);
struct block_segment *block_take_segments(struct block_channel *ch, unsigned int want);
void block_give_segments(struct block_channel *ch, struct block_segment *first);
void block_enqueue(struct block_channel *ch, struct block_segment *first);
void block_finish_segment(struct block_channel *ch, struct block_segment *s, int status);
void block_fail_queue(struct block_channel *ch, const struct block_unit *unit, int err);
int block_check(const struct block_unit *u, enum usrdrv_block_op op, uint64_t offset, uint64_t len);
uint64_t block_share(const struct block_unit *u, enum usrdrv_block_op op, uint64_t len);
void block_copy_out(const struct block_segment *first, uint8_t *buf);
void block_fill(struct block_segment *s, struct block_unit *u, struct block_request *r, enum usrdrv_block_op op,
		uint64_t offset, uint64_t len, unsigned int flags);

/* events.c */
void block_freeze(struct block_channel *ch, const struct block_command *cmd);
void block_freeze_idle(struct block_channel *ch);
void block_post_gone(struct block_front *front);
void block_post_unserved(struct block_front *front, unsigned int unit);

/* commands.c */
struct block_command *block_next_command(struct block_channel *ch);
struct block_command *block_only_command(const struct block_channel *ch);
struct block_command *block_next_failed(struct block_channel *ch);
void block_end_failed(struct block_channel *ch, struct block_command *cmd, int status);
void block_requeue(struct block_channel *ch, struct block_command *cmd, int alone);
void block_end_all(struct block_channel *ch, int status);

/* owner.c */
void block_arm_before(struct block_orders *o, struct block_channel *ch, struct block_command *cmd, struct block_list *l);
void block_arm(struct block_orders *o);
int block_take_back(struct block_orders *o);
int block_disarm(struct block_orders *o);

/* run.c */
void block_start_commands(struct block_channel *ch, struct block_list *l);
void block_run_channel(struct block_channel *ch);
void block_service(struct block_front *front);
int block_watch(struct block_front *front);
int block_any_busy(struct block_front *front);
int block_poll_chip(struct block_front *front);
void block_fail_everything(struct block_front *front);

/* orders.c */
int block_make_orders(struct block_dispatcher *by, struct block_unit *unit, struct block_channel *ch,
		      struct block_port *port, struct block_orders **out);
void block_free_orders(struct block_orders *o);
void block_pump(struct block_orders *o);
void block_drain(struct block_orders *o);

/* dispatch.c */
void *block_dispatch(void *dispatcher);
void *block_feed(void *dispatcher);

/* The ports. */
struct block_port *block_epoll_port(void);
int block_usrloop_port(int fd, const struct usrloop_attach *attach, unsigned int queue, struct block_port **out);

#endif
