/* SPDX-License-Identifier: MIT */
/*
 * What an Ethernet model's MAC is connected to. A wire moves whole frames, destination
 * address first, without preamble and FCS.
 *
 * Thread-safety: send (reserve, commit) from one thread at a time, and all the rest from one
 * thread at a time; the two may run at once.
 */
#ifndef USRDRV_DEVICES_WIRE_H
#define USRDRV_DEVICES_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WIRE_FRAME_MAX	16384u	/* bytes */
#define WIRE_BAD_FCS	1u	/* flag of a frame: damaged on its way */

/* What an end can do, for the other end's autonegotiation. */
struct wire_ability {
	uint16_t anar;		/* as MII registers 4 and 9 */
	uint16_t gbcr;
	bool up;		/* the end is there and drives the line */
};

struct wire;

struct wire_ops {
	/* Room for a frame of WIRE_FRAME_MAX bytes, or NULL: full. */
	void *(*reserve)(struct wire *w);
	/* Send the first len reserved bytes. */
	void (*commit)(struct wire *w, size_t len, uint32_t flags);
	/* The oldest frame that came, still in the wire, or NULL. The other end may write to it at any time. */
	const void *(*peek)(struct wire *w, size_t *len, uint32_t *flags);
	void (*next)(struct wire *w);	/* drop that frame */
	/*
	 * Before sleeping: true if there is a frame (when frames are wanted) or room (when that is); else
	 * an event will tell.
	 */
	bool (*arm)(struct wire *w, bool frames, bool room);
	/* One of the wire's descriptors in the epoll set is ready; tag is its data.u32, from WIRE_TAG on. */
	void (*event)(struct wire *w, uint32_t tag);
	/* Say what this end can do, and look at the other. */
	void (*ability)(struct wire *w, const struct wire_ability *mine, struct wire_ability *theirs);
	void (*destroy)(struct wire *w);
};

struct wire {
	const struct wire_ops *ops;
	int epoll_fd;		/* the model's */
	bool patient;		/* frames wait until the receiver is switched on */
};

#define WIRE_TAG	1u

/* Each adds its descriptors to epoll_fd, edge-triggered. They return 0 or -errno. */
int wire_cable(int epoll_fd, const char *name, struct wire **wire);
int wire_loop(int epoll_fd, struct wire **wire);
int wire_tap(int epoll_fd, int tap_fd, struct wire **wire);
int wire_pcap(int epoll_fd, int replay_fd, int record_fd, bool paced, struct wire **wire);

int wire_add_fd(int epoll_fd, int fd, uint32_t events, uint32_t tag);

#endif
