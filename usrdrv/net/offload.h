/* SPDX-License-Identifier: MIT */
/*
 * What a chip without segmentation leaves to its driver: cutting the kernel's large packets (GSO),
 * coalescing received frames into large packets (GRO), and checksums that the chip cannot do.
 * Nothing here copies payload: results refer to it.
 *
 * All functions are pure or work on one object; an object belongs to one thread. What comes from
 * the kernel or the wire is checked: no input reads or writes out of bounds.
 */
#ifndef USRDRV_NET_OFFLOAD_H
#define USRDRV_NET_OFFLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "usrdrv/net.h"

#define NET_HEADERS_MAX	192u	/* bytes: Ethernet, two VLAN tags, IPv6 with options, TCP with options */

/* Sum of 16-bit words in memory order, not folded or inverted; start with sum 0. len may be odd only in the last piece. */
uint64_t net_sum(const void *data, size_t len, uint64_t sum);
/* Fold a sum to what goes into a header (inverted; in memory order). */
uint16_t net_fold(uint64_t sum);

/* What the headers of a frame say. */
struct net_headers {
	uint16_t l3;		/* offset of the IP header; 0: not IP */
	uint16_t l4;		/* offset of the TCP or UDP header; 0: none, or a fragment */
	uint16_t payload;	/* offset behind it */
	uint8_t version;	/* 4 or 6 */
	uint8_t protocol;	/* 6 or 17 */
	uint32_t end;		/* offset behind the IP packet: padding follows */
};

/* Look at the first len bytes of a frame of total bytes. Return: 0, or -EINVAL if the headers do not fit in len. */
int net_parse(const uint8_t *frame, size_t len, size_t total, struct net_headers *h);

/* Fill in the checksum that NEEDS_CSUM asks for, in place. Return: 0, -EINVAL if it is not inside the frame. */
int net_fill_checksum(uint8_t *frame, size_t len, const struct usrdrv_net_header *header);

/* Cutting one large packet: segment 0 to segments - 1, each its own headers and a part of the payload. */
struct net_segmenter {
	const uint8_t *frame;
	size_t len;		/* bytes of the large frame */
	struct net_headers h;
	uint16_t gso_size;
	unsigned int segments;
	bool udp;
};

/* have: bytes of the frame that are at hand, all headers among them. Return: 0, -EINVAL for a packet that makes no sense. */
int net_segment_begin(struct net_segmenter *s, const struct usrdrv_net_header *header,
		      const uint8_t *frame, size_t have, size_t len);
/*
 * Write the headers of segment i (h.payload bytes) with lengths, IPv4 id and header checksum, sequence
 * number and flags done; the TCP or UDP checksum field has the pseudo-header's sum, as CHECKSUM_PARTIAL
 * wants it. *offset and *size: where its payload is in the large frame.
 */
void net_segment(const struct net_segmenter *s, unsigned int i, uint8_t *headers, size_t *offset, size_t *size);

#define NET_COALESCE_FRAMES	64u

/* Frames of one flow on their way to becoming one packet. */
struct net_coalescer {
	struct usrdrv_net_header header;
	struct iovec iov[2 + NET_COALESCE_FRAMES * 2];	/* header, headers, payloads */
	int iovs;
	unsigned int frames;
	struct net_headers h;	/* of the first frame, without tag; payload: bytes of headers that were copied */
	uint8_t first[NET_HEADERS_MAX];		/* its headers as they came */
	uint8_t headers[NET_HEADERS_MAX];	/* the packet's */
	size_t data;		/* bytes of TCP data so far */
	size_t padding;		/* Ethernet's, behind the first frame's data */
	uint32_t next_seq;
	uint32_t segment;	/* bytes of data in the first frame */
	int vlan;
	uint8_t psh;		/* of the last frame */
	bool mergeable, checked, closed;
};

static inline void net_coalesce_reset(struct net_coalescer *c)
{
	c->frames = 0;
	c->iovs = 0;
}

/*
 * Add a frame (pieces of memory that stay until the packet is pushed; the headers are in the
 * first piece). checked: its checksums were verified. vlan: tag to put back in, or -1 (TCI, host order).
 * Return: true if the frame is part of the packet now; false: push and reset first, then add again,
 * which always succeeds on an empty coalescer.
 */
bool net_coalesce_add(struct net_coalescer *c, const struct iovec *frame, int n, bool checked, int vlan);
/* Finish lengths and checksums in the headers; then iov[0..iovs) is the packet for port->push. */
void net_coalesce_end(struct net_coalescer *c);

#endif
