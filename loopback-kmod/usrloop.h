/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the parts of usrloop.ko share.
 *
 * A device (struct usrloop_dev) outlives its servers. What a server has is a session: rings and a
 * data area of its own, made by ATTACH and given back with its file, so that nothing an old server
 * still writes to is ever seen again. What is in flight is known from the device's slots alone.
 *
 * From the top; each calls only what comes after it, or through struct usrloop_kind:
 *
 *	ctl.c		/dev/usrloop: checks what user space wants
 *	device.c	devices: made, attached to, started, stopped, deleted; recovery
 *	session.c	memory of a session and its layout
 *	disk.c, net.c	the kernel's side of the two kinds
 *	blk.c, alone.c	requests of disks; one that servers die of
 *	net_tx.c, net_rx.c	packets to the wire and from it
 *	ethtool.c, sysfs.c	what is told of an interface, and of both
 *	wait.c		ENTER: the one sleep of a server, and what wakes it
 *	finish.c	requests that an interrupt's handler ends
 *	zc_blk.c, zc_net.c	data that the server's device reaches where they are
 *	zerocopy.c	the claim of that device
 *	registry.c	the numbers of devices
 *	object.c	references to a device, work that is put off
 *	check.c		what CREATE may ask for, who may, whose memory it takes
 *	clock.c		the clock of time-outs
 *
 * Locks, outermost first: dev->lock (state, sleeps), queue->lock (the session's submissions; spins,
 * not held while the module copies data). A claim is ended with dev->lock held, entered with
 * either. A slot changes hands by a compare-and-exchange of its word. queue->end is also read under
 * RCU: the session's memory lasts as long as such a reader. The handler of an interrupt that ends a
 * request takes no lock.
 */
#ifndef USRLOOP_H
#define USRLOOP_H

#include <linux/atomic.h>
#include <linux/bits.h>
#include <linux/cred.h>
#include <linux/kref.h>
#include <linux/mutex.h>
#include <linux/poll.h>
#include <linux/rcuwait.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/workqueue.h>

#include "compat.h"
#include "include/uapi/usrloop.h"

#undef pr_fmt
#define pr_fmt(fmt)	KBUILD_MODNAME ": " fmt

#define USRLOOP_MAX_DEVICES	1024u
#define USRLOOP_MAX_QUEUES	64u
#define USRLOOP_MAX_DEPTH	1024u
#define USRLOOP_MAX_IO		(4u << 20)
#define USRLOOP_MAX_SESSION	BIT_ULL(30)
#define USRLOOP_MAX_POLL_US	1000u
#define USRLOOP_MAX_SEGMENTS	4096u
/* with claims of PCI functions in the kernel, data need not be copied */
#if IS_ENABLED(CONFIG_USRDRV)
#define USRLOOP_BLK_CLAIM	USRLOOP_BLK_ZERO_COPY
#define USRLOOP_NET_CLAIM	USRLOOP_NET_ZERO_COPY
#else
#define USRLOOP_BLK_CLAIM	0
#define USRLOOP_NET_CLAIM	0
#endif
#define USRLOOP_BLK_FEATURES	(USRLOOP_BLK_READ_ONLY | USRLOOP_BLK_CACHE | USRLOOP_BLK_FUA | \
				 USRLOOP_BLK_DISCARD | USRLOOP_BLK_ZEROES | \
				 USRLOOP_BLK_ROTATIONAL | USRLOOP_BLK_CLAIM)
#define USRLOOP_NET_FEATURES	(USRLOOP_NET_CSUM | USRLOOP_NET_TSO | USRLOOP_COMPAT_USO | \
				 USRLOOP_NET_CLAIM)
#define USRLOOP_FLAGS		(USRLOOP_PERSIST | USRLOOP_OWNER)
#define USRLOOP_POLICIES	4u
/* header, Ethernet header with tags, 64 KiB; whole pages */
#define USRLOOP_PACKET_MAX	(68u << 10)

struct mm_struct;
struct usrloop_dev;
struct usrloop_finish_steps;
struct usrloop_queue;
struct usrloop_session;
struct usrloop_zc;
struct usrloop_zc_ops;
struct vm_area_struct;

/* Where a slot's request is; the low bits of its word, above them the count of its uses. */
enum usrloop_slot_state {
	SLOT_FREE,		/* no request, or one that has just been ended */
	SLOT_SERVED,		/* a server has the request; seq tells which use this is */
	SLOT_HELD,		/* there is no server: waits for the next one */
	SLOT_BUSY,		/* the module is at it */
};

#define SLOT_STATE		3u
#define SLOT_SEQ_SHIFT		2

struct usrloop_slot {
	atomic_t word;
	void *request;		/* blk: struct request; set before SLOT_SERVED or SLOT_HELD is */
	unsigned long since;	/* blk: usrloop_clock() when it was sent; likewise */
	u8 points;		/* blk: for servers that died with it (alone.c); likewise */
	bool pushed;		/* blk: the server can see it; likewise */
};

static inline u32 usrloop_slot_word(u32 seq, enum usrloop_slot_state state)
{
	return seq << SLOT_SEQ_SHIFT | state;
}

static inline enum usrloop_slot_state usrloop_slot_state(u32 word)
{
	return word & SLOT_STATE;
}

static inline u32 usrloop_slot_seq(u32 word)
{
	return word >> SLOT_SEQ_SHIFT;
}

/* Take the slot from one state to another; false: it has left @from, or it was another use. */
static inline bool usrloop_slot_move(struct usrloop_slot *slot, u32 seq,
				     enum usrloop_slot_state from, enum usrloop_slot_state to)
{
	u32 word = usrloop_slot_word(seq, from);

	return atomic_cmpxchg(&slot->word, word, usrloop_slot_word(seq, to)) == word;
}

/* What becomes of a request for which there is no server. */
enum usrloop_mode {
	MODE_FAIL,
	MODE_HOLD,
};

/* How a device goes on when its server dies; the table of README.md. */
struct usrloop_policy {
	const char *name;
	bool fail_lost;			/* requests in flight fail, or are sent again */
	enum usrloop_mode mode;		/* of new requests */
	u32 state;			/* of the device, until the next server */
};

extern const struct usrloop_policy usrloop_policies[USRLOOP_POLICIES];

/* Another file's eventfd that ends ENTER's sleep. */
struct usrloop_event {
	struct usrloop_end *end;
	unsigned int index;
	struct file *file;		/* NULL: not registered */
	struct eventfd_ctx *ctx;
	struct eventfd_ctx *ack;	/* or NULL */
	wait_queue_entry_t entry;
	poll_table table;
};

/* A server's end of a queue. */
struct usrloop_end {
	struct usrloop_queue *queue;
	struct usrloop_session *session;
	/* what follows is shared with the server: believe nothing */
	struct usrloop_ring *ring;
	struct usrloop_sqe *sq;
	struct usrloop_cqe *cq;
	struct usrloop_rxe *rx;
	void *data;
	u32 mask;			/* entries of a ring - 1 */
	u32 slot_size;
	struct usrloop_zc *zc;		/* the session's */

	u32 sq_tail;			/* queue->lock */

	/* of the thread in ENTER, which owns bit 0 of entered */
	unsigned long entered ____cacheline_aligned_in_smp;
	u32 cq_head;
	u32 rx_head;
	struct rcuwait wait;
	unsigned long events;		/* bit n: eventfd n was signalled */
	unsigned long reported;		/* those that ENTER returned last */
	struct usrloop_event event[USRLOOP_EVENTFDS];
	struct usrloop_finish_steps *finish;	/* or NULL */
};

/* The kernel's own account of a queue. */
struct usrloop_queue {
	struct usrloop_dev *dev;
	unsigned int index;
	spinlock_t lock;		/* end and mode; end->sq_tail */
	struct usrloop_end __rcu *end;	/* NULL: no server */
	enum usrloop_mode mode;
	bool told;			/* ENTER has told the server of work */
	struct usrloop_slot *slot;	/* depth of them */
	struct usrloop_netq *net;	/* what net.c keeps for a queue, or NULL */
};

/* Sizes and places of a session's memory, as ATTACH reports them. */
struct usrloop_layout {
	u32 ring_stride, sq, cq, rx, slot_size;
	u64 data, data_stride, size;
};

/* Pages that count against a process's RLIMIT_MEMLOCK. */
struct usrloop_charge {
	struct mm_struct *mm;		/* NULL: none do */
	unsigned long pages;
};

struct usrloop_session {
	struct usrloop_dev *dev;	/* counted */
	u32 generation;
	struct pid *pid;
	/* the device is not its any more; written under dev->lock */
	bool revoked;
	struct usrloop_layout layout;
	void *mem;
	wait_queue_head_t poll;
	struct usrloop_charge charge;	/* for mem */
	struct usrloop_zc *zc;		/* NULL: data are copied */
	struct usrloop_end end[];	/* one for each queue */
};

/* What disk.c and net.c do for device.c; process context, dev->lock held but for free and enter. */
struct usrloop_kind {
	const char *name;
	/* Check parameters and make what lasts until the device is freed. */
	int (*create)(struct usrloop_dev *dev);
	void (*free)(struct usrloop_dev *dev);
	/* Show the kernel a disk or interface. A name that is taken: -EEXIST. */
	int (*start)(struct usrloop_dev *dev);
	/* Take it away. Queues are in MODE_FAIL. */
	void (*stop)(struct usrloop_dev *dev);
	bool (*in_use)(struct usrloop_dev *dev);
	/* A queue has a server: send what was held. */
	void (*attached)(struct usrloop_queue *queue);
	/* A queue has none any more: end with EIO what was in flight (lost) or held, or keep it. */
	void (*detached)(struct usrloop_queue *queue, bool fail_lost, bool fail_held);
	/* Whether the kernel took it away by itself, after usrloop_dev_vanish(). May be NULL. */
	bool (*vanished)(struct usrloop_dev *dev);
	/* These may be NULL: the kind has none. */
	int (*resize)(struct usrloop_dev *dev, u64 size);
	/* After resize() said 1, without dev->lock. */
	void (*resized)(struct usrloop_dev *dev);
	void (*carrier)(struct usrloop_dev *dev, u32 speed);
	/* started: where it is now, counted; NULL: on its way out of a namespace that ends */
	struct net *(*netns)(struct usrloop_dev *dev, u32 *ifindex);
	/*
	 * Take completions and packets that the server published; no lock. Returns 0 or
	 * USRLOOP_READY_REFUSED.
	 */
	unsigned int (*collect)(struct usrloop_end *end);
	/*
	 * Complete one request with 0. Any context, in the claim of a function. Returns whether it
	 * was in flight. May be NULL.
	 */
	bool (*finish)(struct usrloop_end *end, u32 tag, u32 seq);
	/* How its data are mapped for a server's device. NULL: they never are. */
	const struct usrloop_zc_ops *zc;
};

extern const struct usrloop_kind usrloop_blk_kind;
extern const struct usrloop_kind usrloop_net_kind;

struct usrloop_dev {
	struct kref ref;
	const struct usrloop_kind *kind;
	struct usrloop_info info;	/* what CREATE asked for, and the state; dev->lock */
	kuid_t owner;
	kuid_t payer;			/* in whose count of devices it is */
	bool privileged;		/* made with CAP_SYS_ADMIN */
	struct usrloop_charge charge;	/* for what the block layer keeps; the creator's */
	struct mutex lock;		/* state, session, what the kind starts and stops */
	bool deleted;			/* no longer to be found */
	bool stopping;			/* ENTER returns USRLOOP_READY_STOP */
	bool kind_made;			/* kind->create() succeeded */
	u32 overdue;			/* generation of the server that revoke is for */
	struct usrloop_session *session;
	atomic_t changes;		/* for poll() of the controller */
	wait_queue_head_t changed;
	atomic64_t refused;
	struct delayed_work recovery;
	unsigned long recover_by;	/* usrloop_clock(); dev->lock */
	struct work_struct revoke;	/* a server did not answer in time */
	struct work_struct vanish;	/* the interface was taken away by the kernel */
	/* blk: the server has ended a request */
	bool worked;
	/* blk: only a request that must be alone is sent; written under dev->lock */
	bool alone;
	struct delayed_work resend;	/* blk: what is held though there is a server */
	struct usrloop_queue *queue;
	union {
		struct usrloop_blk *blk;
		struct usrloop_net *net;
	};
};

/* device.c */
int usrloop_dev_create(struct usrloop_info *info, struct usrloop_dev **out);
int usrloop_dev_attach(struct usrloop_dev *dev, int claim_fd, struct usrloop_session **out);
void usrloop_dev_detach(struct usrloop_session *session);
int usrloop_dev_start(struct usrloop_dev *dev);
int usrloop_dev_stop(struct usrloop_dev *dev, bool force);
int usrloop_dev_delete(struct usrloop_dev *dev, bool force);
int usrloop_dev_resize(struct usrloop_dev *dev, u64 size);
int usrloop_dev_carrier(struct usrloop_dev *dev, u64 speed);
struct net *usrloop_dev_netns(struct usrloop_dev *dev, u32 *ifindex);
int usrloop_dev_revoke(struct usrloop_dev *dev);
int usrloop_dev_query(struct usrloop_dev *dev, struct usrloop_info *info);
void usrloop_dev_continue(void);

static inline bool usrloop_zero_copy(const struct usrloop_info *info)
{
	return info->features &
	       (info->type == USRLOOP_NET ? USRLOOP_NET_ZERO_COPY : USRLOOP_BLK_ZERO_COPY);
}

/* object.c */
struct workqueue_struct *usrloop_wq(const struct usrloop_dev *dev);
void usrloop_dev_get(struct usrloop_dev *dev);
void usrloop_dev_put(struct usrloop_dev *dev);
void usrloop_dev_overdue(struct usrloop_dev *dev, u32 generation);
void usrloop_dev_vanish(struct usrloop_dev *dev);
void usrloop_dev_resend(struct usrloop_dev *dev, unsigned long delay);
int usrloop_work_init(void);
void usrloop_work_exit(void);

/* registry.c */
int usrloop_dev_publish(struct usrloop_dev *dev);
void usrloop_dev_forget(struct usrloop_dev *dev);
struct usrloop_dev *usrloop_dev_find(u32 type, u32 id);
void usrloop_dev_each(void (*act)(struct usrloop_dev *dev));
void usrloop_registry_exit(void);

/* clock.c */
unsigned long usrloop_clock(void);
bool usrloop_clock_stopped(void);
void usrloop_clock_sleep(unsigned long action);
int usrloop_clock_init(void (*on_continue)(void));
void usrloop_clock_exit(void);

/* check.c */
int usrloop_check_info(const struct usrloop_info *info);
int usrloop_check_disk(struct usrloop_info *info);
int usrloop_check_rights(const struct usrloop_info *info, struct usrloop_dev *dev);
int usrloop_charge(struct usrloop_charge *charge, unsigned long pages);
void usrloop_uncharge(struct usrloop_charge *charge);

/* session.c */
int usrloop_layout(const struct usrloop_info *info, struct usrloop_layout *layout);
struct usrloop_session *usrloop_session_alloc(struct usrloop_dev *dev, int claim_fd);
int usrloop_session_mmap(struct usrloop_session *session, struct vm_area_struct *vma);
void usrloop_session_free(struct usrloop_session *session);

static inline void *usrloop_data(const struct usrloop_end *end, u32 slot)
{
	return end->data + (size_t)slot * end->slot_size;
}

/* finish.c, zerocopy.c; zc_blk.c and zc_net.c are in the headers of the two kinds */
#if IS_ENABLED(CONFIG_USRDRV)
int usrloop_finish_set(struct usrloop_session *session, const struct usrloop_finish *want);
void usrloop_finish_clear(struct usrloop_end *end);
unsigned long usrloop_zc_pages(const struct usrloop_dev *dev);
int usrloop_zc_begin(struct usrloop_session *session, int claim_fd);
void usrloop_zc_end(struct usrloop_session *session);
void usrloop_zc_recall(struct usrloop_session *session);
int usrloop_zc_enter(struct usrloop_zc *zc);
void usrloop_zc_exit(struct usrloop_zc *zc, int index);
#else	/* no device has the feature */
static inline int usrloop_finish_set(struct usrloop_session *session,
				     const struct usrloop_finish *want)
{
	return -EOPNOTSUPP;
}

static inline void usrloop_finish_clear(struct usrloop_end *end) {}

static inline unsigned long usrloop_zc_pages(const struct usrloop_dev *dev)
{
	return 0;
}

static inline int usrloop_zc_begin(struct usrloop_session *session, int claim_fd)
{
	return -EOPNOTSUPP;
}

static inline void usrloop_zc_end(struct usrloop_session *session) {}

static inline void usrloop_zc_recall(struct usrloop_session *session) {}

static inline int usrloop_zc_enter(struct usrloop_zc *zc)
{
	return -ENODEV;
}

static inline void usrloop_zc_exit(struct usrloop_zc *zc, int index) {}
#endif

/* wait.c */
long usrloop_enter(struct usrloop_session *session, unsigned long arg);
int usrloop_event_set(struct usrloop_session *session, const struct usrloop_eventfd *want);
void usrloop_events_clear(struct usrloop_session *session);
__poll_t usrloop_session_poll(struct usrloop_session *session, struct file *file, poll_table *wait);

/*
 * Put a submission into the ring. Context: any; queue->lock, under which queue->end was seen to
 * be @end.
 */
static inline void usrloop_push(struct usrloop_end *end, const struct usrloop_sqe *sqe)
{
	end->sq[end->sq_tail & end->mask] = *sqe;
	WRITE_ONCE(end->sq_tail, end->sq_tail + 1);	/* ready() reads it without the lock */
	smp_store_release(&end->ring->sq_tail, end->sq_tail);
}

/* Let the server know of what was pushed. Context: any; under RCU. */
static inline void usrloop_wake(struct usrloop_end *end)
{
	/* a full barrier: a thread that goes to sleep sees what was pushed */
	rcuwait_wake_up(&end->wait);
	/* That barrier serves here too. */
	if (waitqueue_active(&end->session->poll))
		wake_up_poll(&end->session->poll, EPOLLIN);
}

/* ctl.c */
int usrloop_ctl_init(void);
void usrloop_ctl_exit(void);

/* sysfs.c: the group "usrloop" of a disk and of an interface */
extern const struct attribute_group *usrloop_disk_groups[];
extern const struct attribute_group usrloop_group;

/* net.c */
int usrloop_net_init(void);
void usrloop_net_exit(void);

#ifdef USRLOOP_SELFTEST
int usrloop_selftest(void);
#else
static inline int usrloop_selftest(void)
{
	return 0;
}
#endif

#endif
