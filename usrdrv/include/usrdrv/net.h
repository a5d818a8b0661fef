/* SPDX-License-Identifier: MIT */
/*
 * The network top end: what lies between a network driver and its exporter (TAP or usrloop).
 *
 * A packet is a struct usrdrv_net_header (the kernel's struct virtio_net_hdr with num_buffers, 12
 * bytes) in front of an Ethernet frame without FCS. The driver's dispatcher thread is the only
 * caller of a port; it sleeps in it, also for its interrupt.
 *
 * See docs/design/net-port.md.
 */
#ifndef USRDRV_NET_H
#define USRDRV_NET_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* cffi: begin */
#define USRDRV_NET_NEEDS_CSUM	1	/* flags: a checksum is to be filled in */
#define USRDRV_NET_DATA_VALID	2	/* flags: the checksums were verified */

#define USRDRV_NET_GSO_NONE	0
#define USRDRV_NET_GSO_TCPV4	1
#define USRDRV_NET_GSO_TCPV6	4
#define USRDRV_NET_GSO_UDP_L4	5
#define USRDRV_NET_GSO_ECN	0x80

/* linux/virtio_net.h; little-endian like the machines that this runs on */
struct usrdrv_net_header {
	uint8_t flags;
	uint8_t gso_type;
	uint16_t hdr_len;	/* bytes of headers; a hint */
	uint16_t gso_size;	/* bytes of payload in a segment */
	uint16_t csum_start;	/* from the frame's first byte */
	uint16_t csum_offset;	/* from csum_start */
	uint16_t num_buffers;
};

/* Per interface, kept by the driver, read from outside without a lock. Bytes are those of frames without FCS. */
struct usrdrv_net_stats {
	uint64_t rx_frames;
	uint64_t rx_bytes;
	uint64_t rx_errors;	/* frames that the chip found faulty */
	uint64_t rx_crc;	/* of them, bad FCS */
	uint64_t rx_overruns;	/* FIFO overruns that the chip reported */
	uint64_t rx_missed;	/* frames that the chip counted as missed */
	uint64_t rx_dropped;	/* the kernel refused them */
	uint64_t rx_checked;	/* frames whose checksum the chip verified */
	uint64_t rx_packets;	/* handed to the kernel, after coalescing */
	uint64_t rx_idle;	/* times the receiver ran out of descriptors */
	uint64_t tx_frames;
	uint64_t tx_bytes;
	uint64_t tx_errors;
	uint64_t tx_dropped;	/* no link, or malformed */
	uint64_t tx_packets;	/* taken from the kernel, before segmentation */
	uint64_t tx_checksums;	/* frames whose checksum the chip filled in */
	uint64_t tx_soft_checksums;	/* those it cannot */
	uint64_t interrupts;
	uint64_t lost_interrupts;	/* found by looking: frames were there, an interrupt was not */
	uint64_t polls;		/* rounds that found work without an interrupt */
	uint64_t sleeps;	/* waits in the kernel */
	uint64_t resets;	/* by the watchdog or after a bus error */
	uint64_t link_changes;
	uint64_t system_calls;	/* of the data path */
	uint64_t copied;	/* bytes of frames that our code copied */
};

#define USRDRV_NET_WATCHES	3	/* descriptors that wait() watches beside the kernel's packets */
#define USRDRV_NET_WOKEN	1	/* << index: that descriptor */
#define USRDRV_NET_PACKETS	0x100	/* there may be packets to pull */
#define USRDRV_NET_GONE		0x200	/* the interface is gone for good */

struct usrloop_segment;

/* A packet to the wire, in pieces. */
struct usrdrv_net_packet {
	struct usrdrv_net_header header;
	const uint8_t *head;	/* the frame's first bytes, with all its headers */
	uint32_t head_len;
	uint32_t len;		/* of the whole frame */
	const struct usrloop_segment *piece;	/* on the bus: the frame from byte `at` on */
	unsigned int pieces;
	uint32_t at;
	uint32_t token;		/* for sent() */
};

struct usrdrv_net_port;

struct usrdrv_net_port_ops {
	/*
	 * Take the next packet from the kernel: header and frame into iov. Its length in bytes, 0 if there is
	 * none, or -errno: -ENETDOWN while the interface is down.
	 */
	int (*pull)(struct usrdrv_net_port *port, const struct iovec *iov, int n);
	/* Give the kernel a packet. 0 or -errno: it was refused. */
	int (*push)(struct usrdrv_net_port *port, const struct iovec *iov, int n);
	/*
	 * Tell the kernel of what was pushed and pulled, as that was put off. Returns USRDRV_NET_PACKETS or 0.
	 * NULL: nothing is put off.
	 */
	int (*flush)(struct usrdrv_net_port *port);
	/*
	 * Have wait() return for EPOLL* events of a descriptor, once for each time that they come about; it
	 * replaces what had that index, and may be an eventfd that nobody else reads. 0 or -errno.
	 */
	int (*watch)(struct usrdrv_net_port *port, unsigned int index, int fd, uint32_t events);
	/*
	 * Flush, then sleep for timeout_us or until there is something; what came about before is not lost.
	 * more: the caller left packets that it cannot pull now, so only further ones count. Returns the bits above.
	 */
	int (*wait)(struct usrdrv_net_port *port, uint32_t timeout_us, int more);
	void (*close)(struct usrdrv_net_port *port);

	/*
	 * Zero copy: these instead of pull and push, which are NULL then.
	 *
	 * Take the next packet: 1, 0 if there is none, or -errno. What it refers to stays until sent(), at which
	 * the device must be done with it; in any order.
	 */
	int (*take)(struct usrdrv_net_port *port, struct usrdrv_net_packet *packet);
	void (*sent)(struct usrdrv_net_port *port, uint32_t token);
	/*
	 * Where frames go: into buffers in a ring of port->buffers, in their order. Those from *first up to the
	 * one that is returned (both run freely) are the device's.
	 */
	uint32_t (*buffers)(struct usrdrv_net_port *port, uint32_t *first);
	/* Address on the bus of a buffer, and its size in bytes. */
	uint32_t (*buffer)(struct usrdrv_net_port *port, uint32_t i, uint32_t *len);
	/* A frame is in the first n of them, len bytes in each. header NULL: it is faulty. */
	void (*received)(struct usrdrv_net_port *port, const struct usrdrv_net_header *header,
			 const uint32_t *len, unsigned int n);
};

struct usrdrv_net_port {
	const struct usrdrv_net_port_ops *ops;
	struct usrdrv_net_stats *stats;	/* the driver's, set by it: the port counts system_calls and copied */
	uint32_t buffers;	/* zero copy: for frames, a power of two; else 0 */
};
/* cffi: end */

#define USRDRV_NET_PACKET_MAX	(65536u + 64u)	/* bytes of the longest packet, header included */

#endif
