/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR MIT */
/*
 * usrloop: a block device or a network interface whose other end is a process.
 *
 * Every call is an ioctl on a file of /dev/usrloop. A file can have two roles, also both:
 *
 *   controller	made a device with CREATE. When the file is closed, the device goes, unless it
 *		was created with USRLOOP_PERSIST. poll() reports POLLIN when the device changed
 *		since the last QUERY on it.
 *   server	has the rings of a device since ATTACH, until it is closed or the device was
 *		taken from it. poll() reports POLLIN when there is work. mmap() gives the rings
 *		and the data area.
 *
 * Units: bytes, but for "sectors", which have 512 bytes.
 *
 * Each structure begins with argsz, its size as the caller knows it, and may grow at its end. A
 * caller that knows less than the module gets as much as it knows. One that knows more gets zeroes
 * for what the module does not know, and -E2BIG if it asked for any of that. A size below that of
 * the first version is -EINVAL. Unknown flags and anything but zero in a reserved field, or in a
 * field that only the module fills in, are refused with -EINVAL, features, policies and flags of
 * CREATE with -EOPNOTSUPP.
 *
 * A ring index counts up for ever and wraps at 2^32; entry i is at i modulo the number of entries.
 */
#ifndef _UAPI_USRLOOP_H
#define _UAPI_USRLOOP_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* cffi: begin */
/* of what a session's memory holds: rings and slots. All else grows as described above */
#define USRLOOP_VERSION		2
/* as a device's number: any free one; as a target: the file's own */
#define USRLOOP_ANY		0xffffffff

#define USRLOOP_BLOCK		1	/* /dev/usrblkN */
#define USRLOOP_NET		2	/* usrnetN */

/* What a block device can do (features). */
#define USRLOOP_BLK_READ_ONLY	0x01
#define USRLOOP_BLK_CACHE	0x02	/* volatile write cache: FLUSH is sent */
#define USRLOOP_BLK_FUA		0x04	/* with CACHE: FUA is sent with writes */
#define USRLOOP_BLK_DISCARD	0x08
/* WRITE_ZEROES is sent; without it the kernel writes zeroes */
#define USRLOOP_BLK_ZEROES	0x10
#define USRLOOP_BLK_ROTATIONAL	0x20
/* slots hold addresses of the data for the server's PCI function, not the data */
#define USRLOOP_BLK_ZERO_COPY	0x40

/* What an interface can do (features). */
/* checksums may be left to the server, and be verified by it */
#define USRLOOP_NET_CSUM	0x01
#define USRLOOP_NET_TSO		0x02	/* with CSUM: TCP packets of up to 64 KiB, both ways */
#define USRLOOP_NET_USO		0x04	/* with CSUM: likewise UDP */
/*
 * slots hold addresses of the data for the server's PCI function, and headers. What CSUM and TSO
 * leave to the server is TCP and UDP over IPv4 and nothing else; not with USO
 */
#define USRLOOP_NET_ZERO_COPY	0x08

/* How it is made (flags). */
#define USRLOOP_PERSIST		0x01	/* it outlives its controller, until DELETE */
/* it belongs to the given uid, not to the creator (CAP_SYS_ADMIN) */
#define USRLOOP_OWNER		0x02

/* What becomes of requests when the server dies (policy of a block device). */
/* all fail now and for good; the device can only be deleted */
#define USRLOOP_DEATH_FAIL	0
/* those in flight fail, new ones wait for the next server */
#define USRLOOP_DEATH_QUEUE	1
/* those in flight are sent again, but for one that servers die of; new ones wait */
#define USRLOOP_DEATH_REISSUE	2
#define USRLOOP_DEATH_FAIL_NEW	3	/* all fail until there is another server */

/* State of a device. */
#define USRLOOP_NEW		1	/* not started: the kernel has no disk or interface yet */
#define USRLOOP_LIVE		2	/* started, has a server */
#define USRLOOP_QUIESCED	3	/* started, its server is gone, another one may come */
#define USRLOOP_FAILED		4	/* likewise, but nobody waits any more: requests fail */
#define USRLOOP_DEAD		5	/* by DEATH_FAIL: requests fail for good */

#define USRLOOP_LABEL_LEN	64
#define USRLOOP_EVENTFDS	4	/* a queue */

struct usrloop_blk_params {
	__u64 size;			/* multiple of the logical block */
	__u32 logical_block;		/* power of two, 512 to 4096 */
	__u32 physical_block;		/* power of two, from logical_block to 64 KiB */
	__u32 max_io;			/* of one request; power of two, 4 KiB to 4 MiB */
	__u32 max_discard;		/* of one DISCARD or WRITE_ZEROES; 0: the most there is */
	__u32 discard_granularity;	/* power of two; 0: the physical block */
	/* ZERO_COPY: segments in a slot, 1 to 4096 */
	__u32 max_segments;
	/* ZERO_COPY: none crosses a multiple of this + 1, a power of two; 0: they may */
	__u32 segment_mask;
	__u32 reserved;
};

struct usrloop_net_params {
	__u8 mac[6];			/* all zero: random */
	__u8 reserved[2];
	__u32 mtu;			/* 68 to 65521 */
	__u32 max_mtu;			/* the highest that can be set */
	char name[16];			/* may hold %d; empty: usrnet%d */
	/* ZERO_COPY: longest frame, bytes, whose checksum the server does, from 60; 0: any */
	__u32 max_csum;
	__u32 reserved2;
};

/*
 * CREATE: in, and out as it was made; QUERY: type and id in, all out.
 *
 * Who has no CAP_SYS_ADMIN when it creates a device gets -EPERM for a disk that could make others
 * wait without end: one with policy REISSUE, or whose recovery_ms or timeout_ms is 0 or above
 * USRLOOP_USER_MS. It may have USRLOOP_USER_DEVICES devices, then -EDQUOT. No partitions are looked
 * for on its disks. ZERO_COPY needs CAP_SYS_RAWIO. An interface needs CAP_NET_ADMIN in the network
 * namespace of whoever creates and starts it.
 */
#define USRLOOP_USER_MS		60000
#define USRLOOP_USER_DEVICES	16

struct usrloop_info {
	__u32 argsz;
	__u32 flags;			/* USRLOOP_PERSIST ... */
	__u32 type;			/* USRLOOP_BLOCK or USRLOOP_NET */
	__u32 id;			/* number wanted, or USRLOOP_ANY; out: the device's */
	__u32 features;
	__u32 policy;			/* USRLOOP_DEATH_* */
	__u32 recovery_ms;		/* how long requests wait for another server; 0: for ever */
	/*
	 * a server that leaves a request or a packet to the wire alone so long counts as dead;
	 * 0: never
	 */
	__u32 timeout_ms;
	__u32 queues;			/* 1 to 64; out: not more than there are processors */
	/* requests or packets in flight on a queue; power of two, 1 to 1024 */
	__u32 depth;
	__u32 poll_us;			/* ENTER looks so long before it sleeps; at most 1000 */
	__u32 owner;			/* uid; in: with USRLOOP_OWNER, else 0 */
	__u32 state;			/* out, as all up to refused: USRLOOP_NEW ... */
	__u32 generation;		/* servers so far */
	/* who attached, for the owner and an administrator; 0: there is no server, or for others */
	__u32 server_pid;
	__u32 ifindex;			/* net, started */
	__u64 refused;			/* completions that named no request in flight */
	/* in: for people, and for links in /dev/usrdrv; may be empty */
	char label[USRLOOP_LABEL_LEN];
	union {				/* by type; zero behind what it uses */
		struct usrloop_blk_params blk;
		struct usrloop_net_params net;
		__u8 room[128];
	};
};

/* VERSION out: what this module knows. */
struct usrloop_version {
	__u32 argsz;
	__u32 flags;			/* 0 */
	/* of sessions; ATTACH takes any from oldest to version */
	__u32 version;
	__u32 oldest;
	__u32 blk_features;
	__u32 net_features;
	__u32 create_flags;
	__u32 policies;			/* bit n: policy n */
};

/* Which device START, STOP, DELETE, RESIZE, DETACH and CARRIER are for. */
struct usrloop_target {
	__u32 argsz;
	__u32 flags;			/* 0 */
	__u32 type;
	/* or USRLOOP_ANY, whatever type says: the file's own device */
	__u32 id;
	/*
	 * RESIZE: the new size; DELETE, STOP: 1 even if it is open; CARRIER: Mb/s, 0: none; else
	 * 0
	 */
	__u64 arg;
};

/*
 * ATTACH: where things are in the memory that mmap() gives. Queue n's ring begins at n *
 * ring_stride, its slots at data + n * data_stride: slot i is slot_size bytes at i * slot_size, for
 * request i (block) or packet i to the wire (net). Behind them are, for net, depth slots of packets
 * from the wire.
 */
struct usrloop_attach {
	__u32 argsz;
	__u32 flags;			/* 0 */
	__u32 type;			/* in */
	__u32 id;			/* in, or USRLOOP_ANY */
	/*
	 * in: USRLOOP_VERSION, or an older one that the module takes, else -EPROTONOSUPPORT; the
	 * session is as that says
	 */
	__u32 version;
	/* in: of usr_pci_open(), for a device with ZERO_COPY; out: -1 if it has not */
	__s32 claim_fd;
	__u32 generation;		/* out, as all below */
	__u32 queues;
	__u32 depth;
	__u32 ring_stride;
	__u32 sq;			/* from the ring's begin: depth submissions */
	__u32 cq;			/* depth completions */
	__u32 rx;			/* net: depth struct usrloop_rxe */
	__u32 slot_size;
	__u64 data;
	__u64 data_stride;
	__u64 size;			/* to map */
};

/* EVENTFD: have ENTER of a queue return when an eventfd is signalled. */
struct usrloop_eventfd {
	__u32 argsz;
	__u32 flags;			/* 0 */
	__u32 queue;
	/* 0 to USRLOOP_EVENTFDS - 1: its bit in what ENTER returns */
	__u32 index;
	/* -1: no more. Its count is taken by ENTER's wait, nobody need read it */
	__s32 fd;
	__s32 ack_fd;			/* signalled by USRLOOP_ENTER_ACK; -1: none */
};

/*
 * FINISH: what is done at an interrupt, in this order; first comes an EXPECT with a mask, that does
 * not change the device.
 */
/* read a register; go on only if (it & mask) == value */
#define USRLOOP_STEP_EXPECT	1
/* write ((what the first EXPECT read >> shift) & mask) | value to it */
#define USRLOOP_STEP_WRITE	2
#define USRLOOP_STEPS		8

struct usrloop_step {
	__u8 op;			/* USRLOOP_STEP_* */
	__u8 bar;			/* 0 to 5, of the claimed function */
	__u8 width;			/* of the register: 1, 2 or 4 bytes */
	__u8 shift;			/* WRITE: 0 to 31; else 0 */
	__u32 offset;			/* a multiple of width */
	__u32 mask;
	__u32 value;
};

/*
 * FINISH: how the function of a block device with ZERO_COPY tells that a request is done. When it
 * interrupts while the ring's word "finish" is ARMED, the steps are taken in the handler. If all
 * that was expected is there, the request that the ring names is completed, and the word is DONE:
 * the interrupt need not be looked at, unmasked or acknowledged any more. If there is no such
 * request in flight, it is refused, and the interrupt comes to the server, too. Else the word is
 * ARMED again, and the interrupt comes to the server as ever, some steps having been taken. With
 * MSI, the function has no other cause to interrupt.
 */
struct usrloop_finish {
	__u32 argsz;
	__u32 flags;			/* 0 */
	__u32 queue;
	__u32 steps;			/* 0: no more; those behind them are zero */
	struct usrloop_step step[USRLOOP_STEPS];
};

#define USRLOOP_OP_READ		0
#define USRLOOP_OP_WRITE	1
#define USRLOOP_OP_FLUSH	2
#define USRLOOP_OP_DISCARD	3
#define USRLOOP_OP_ZEROES	4
/* a packet: struct virtio_net_hdr_mrg_rxbuf (12 bytes), then the frame */
#define USRLOOP_OP_TX		5

#define USRLOOP_SQE_FUA		0x01	/* WRITE, ZEROES: on the medium before it completes */
#define USRLOOP_SQE_NOUNMAP	0x02	/* ZEROES: the sectors stay allocated */

/*
 * A slot of a device with USRLOOP_BLK_ZERO_COPY: where the data of a READ or WRITE are in memory,
 * as the claimed function sees it. They are its until the request completes, or the claim ends: the
 * kernel ends the claim of a server that it takes such requests from.
 */
struct usrloop_segment {
	__u64 addr;			/* on the bus */
	__u32 len;			/* bytes */
	__u32 reserved;
};

/*
 * A slot of a device with USRLOOP_NET_ZERO_COPY: the header and the first bytes of the frame,
 * which are all its headers; and at TABLE where the rest of it is, if there is more, which is the
 * function's as with a disk.
 *
 * For packets from the wire there is one segment in each slot, a page that the function may write
 * to until the server says that a frame is there. A frame may take several, as num_buffers in its
 * header says, which is in the slot of the first.
 */
#define USRLOOP_NET_HEAD	256	/* bytes of a frame, at most */
#define USRLOOP_NET_TABLE	512	/* from the slot's begin */
#define USRLOOP_NET_SEGMENTS	32	/* at most */

/* A request: the data of a WRITE or TX are in its slot; those of a READ go there. */
struct usrloop_sqe {
	__u32 tag;			/* its slot */
	__u32 seq;			/* which use of that slot; a completion names both */
	__u8 op;
	__u8 flags;
	__u16 segments;			/* ZERO_COPY: how many are in its slot */
	__u32 len;			/* bytes; TX: with those in segments */
	__u64 sector;
	__u64 reserved2;
};

struct usrloop_cqe {
	__u32 tag;
	__u32 seq;
	__s32 result;			/* 0 or -errno */
	__u32 reserved;
};

/*
 * A packet from the wire, in the slot of its place: entry i describes receive slot i modulo
 * depth.
 */
struct usrloop_rxe {
	/* header and frame; ZERO_COPY: what is in this slot's page, 0: a faulty frame */
	__u32 len;
	__u32 reserved;
};

/* Whose an interrupt is (finish). */
#define USRLOOP_FINISH_OFF	0	/* the server's */
#define USRLOOP_FINISH_ARMED	1	/* set by the server: the kernel's */
#define USRLOOP_FINISH_TAKING	2	/* by the kernel: its handler is at it, for a moment */
#define USRLOOP_FINISH_DONE	3	/* by the kernel: it was, all steps were taken */

/* Begin of a ring. The kernel believes nothing that the server writes here. */
struct usrloop_ring {
	__u32 sq_tail;			/* written by the kernel: submissions so far */
	/* packets from the wire that it has taken: their slots are free again */
	__u32 rx_head;
	__u32 pad[14];
	__u32 sq_head;			/* written by the server: submissions it has seen */
	__u32 cq_tail;			/* completions so far */
	__u32 rx_tail;			/* packets so far */
	__u32 timeout_ms;		/* how long ENTER waits; 0: for ever */
	/*
	 * USRLOOP_FINISH_*. Set to ARMED before the device can interrupt, and back to OFF with a
	 * compare-and-exchange: a server looks at its device only if that succeeded.
	 */
	__u32 finish;
	__u32 finish_tag;		/* the request that this is about, named before */
	__u32 finish_seq;
	__u32 pad2[9];
};

/*
 * ENTER(queue | flags): take all completions and packets, then wait until there is something to do.
 * One thread for each queue. Returns bits:
 */
#define USRLOOP_READY_WORK	0x01	/* submissions that were not seen yet */
#define USRLOOP_READY_STOP	0x02	/* the device was stopped: nothing comes any more */
/* a completion named no request in flight, or had bad fields */
#define USRLOOP_READY_REFUSED	0x04
#define USRLOOP_READY_EVENT	0x10	/* << index: that eventfd was signalled */

#define USRLOOP_ENTER_QUEUE	0xffff
#define USRLOOP_ENTER_NOWAIT	0x10000
/* signal ack_fd of each eventfd that was reported, before waiting */
#define USRLOOP_ENTER_ACK	0x20000

/*
 * The calls. Their numbers say nothing of a structure's size, which argsz does; 0xD5 is no other's
 * in Documentation/userspace-api/ioctl/ioctl-number.rst.
 */
#define USRLOOP_IOC_VERSION	_IO(0xD5, 0)	/* struct usrloop_version */
#define USRLOOP_IOC_CREATE	_IO(0xD5, 1)	/* struct usrloop_info */
#define USRLOOP_IOC_QUERY	_IO(0xD5, 2)	/* struct usrloop_info */
#define USRLOOP_IOC_START	_IO(0xD5, 3)	/* struct usrloop_target */
#define USRLOOP_IOC_STOP	_IO(0xD5, 4)	/* struct usrloop_target */
#define USRLOOP_IOC_DELETE	_IO(0xD5, 5)	/* struct usrloop_target */
#define USRLOOP_IOC_RESIZE	_IO(0xD5, 6)	/* struct usrloop_target */
#define USRLOOP_IOC_DETACH	_IO(0xD5, 7)	/* struct usrloop_target */
#define USRLOOP_IOC_ATTACH	_IO(0xD5, 8)	/* struct usrloop_attach */
#define USRLOOP_IOC_EVENTFD	_IO(0xD5, 9)	/* struct usrloop_eventfd */
#define USRLOOP_IOC_CARRIER	_IO(0xD5, 10)	/* struct usrloop_target */
#define USRLOOP_IOC_ENTER	_IO(0xD5, 11)	/* queue | USRLOOP_ENTER_* */
#define USRLOOP_IOC_FINISH	_IO(0xD5, 12)	/* struct usrloop_finish */
/* Returns a descriptor of the network namespace where an interface is now; arg: its index there. */
#define USRLOOP_IOC_NETNS	_IO(0xD5, 13)	/* struct usrloop_target */
/* cffi: end */

#endif
