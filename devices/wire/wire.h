/* SPDX-License-Identifier: MIT */
/*
 * What an Ethernet model's MAC is connected to. A wire moves whole frames, destination
 * address first, without preamble and FCS.
 *
 * Thread-safety: send (reserve, commit) from one thread at a time, receive (peek, next) and
 * the rest from one thread at a time; the two may run at once.
 */
#ifndef USRDRV_DEVICES_WIRE_H
#define USRDRV_DEVICES_WIRE_H

#include <stddef.h>
#include <stdint.h>

#define WIRE_FRAME_MAX	16384u	/* bytes */

#define WIRE_BAD_FCS	1	/* flags of a frame: damaged on its way */

/* What an end can do, for the other end's autonegotiation. */
struct wire_ability {
	uint16_t anar;		/* as MII registers 4 and 9 */
	uint16_t gbcr;
	uint32_t up;		/* the end is powered and drives the line */
};

struct wire;

struct wire_ops {
	/* Room for a frame of WIRE_FRAME_MAX bytes, or NULL: full; the event fd tells of room later. */
	void *(*reserve)(struct wire *w);
	/* Send the first len reserved bytes. */
	void (*commit)(struct wire *w, size_t len, uint32_t flags);
	/* The oldest frame that came, still in the wire, or NULL. The memory may be the peer's: read it once. */
	const void *(*peek)(struct wire *w, size_t *len, uint32_t *flags);
	void (*next)(struct wire *w);	/* drop that frame */
	/*
	 * Before the event fd is slept on: 1 if there is something to receive, or room again after a
	 * reserve() that failed; else 0, and the fd becomes readable when that changes.
	 */
	int (*arm)(struct wire *w);
	/* The event fd is readable: link changes and the like happen in here. */
	void (*event)(struct wire *w);
	/* Say what this end can do, and look at the other: up = 0 if there is none. */
	void (*ability)(struct wire *w, const struct wire_ability *mine, struct wire_ability *theirs);
	void (*destroy)(struct wire *w);
};

struct wire {
	const struct wire_ops *ops;
	int fd;			/* an epoll or event fd */
};

int wire_cable(const char *name, struct wire **wire);
int wire_tap(int fd, struct wire **wire);
int wire_pcap(int replay_fd, int record_fd, int pace, struct wire **wire);

#endif
