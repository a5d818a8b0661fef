/* SPDX-License-Identifier: MIT */
/*
 * The block top end for threads that submit and wait: nbdkit's plugin, tests. usrloop brings orders
 * through a port instead (block_port.h). One of them is one disk.
 *
 * Sectors are 512 bytes. Errors are -errno: -EIO the drive failed these sectors,
 * -ENODEV the device is gone, -EROFS, -EINVAL misaligned or beyond the end,
 * -ENOSPC, -EOPNOTSUPP.
 */
#ifndef USRDRV_BLOCK_H
#define USRDRV_BLOCK_H

#include <stddef.h>
#include <stdint.h>

/* cffi: begin */
#define USRDRV_SECTOR		512

enum usrdrv_block_op {
	USRDRV_BLOCK_READ,
	USRDRV_BLOCK_WRITE,
	USRDRV_BLOCK_FLUSH,
	USRDRV_BLOCK_TRIM,
};

#define USRDRV_BLOCK_FUA	1	/* write: on the medium before it completes */

struct usrdrv_block;

/*
 * A lock of the caller's (Python's GIL) that it need not give up for a request
 * which completes at once. Whoever is about to sleep calls leave() first, once;
 * the caller looks at left afterwards and takes its lock again.
 */
struct usrdrv_gate {
	void (*leave)(struct usrdrv_gate *gate);
	int left;
	void *state;		/* the caller's */
};

struct usrdrv_block_ops {
	/*
	 * Do one request and wait for it. buf: len bytes (read, write; NULL else); offset and len are
	 * bytes, multiples of 512. gate: NULL if there is none. Any number of threads may call it at once.
	 */
	int (*submit_wait)(struct usrdrv_block *b, enum usrdrv_block_op op, uint64_t offset, uint64_t len,
			   void *buf, unsigned int flags, struct usrdrv_gate *gate);
};

struct usrdrv_block {
	const struct usrdrv_block_ops *ops;
	uint64_t sectors;
	uint64_t max_trim;		/* bytes of a trim that need not be cut */
	uint32_t physical_block;	/* bytes */
	uint8_t read_only;
	uint8_t can_flush;
	uint8_t can_fua;
	uint8_t can_trim;
	uint8_t rotational;
};
/* cffi: end */

/* As a function, which is cheaper to call from Python than a pointer. */
static inline int usrdrv_block_submit(struct usrdrv_block *b, int op, uint64_t offset, uint64_t len,
				      void *buf, unsigned int flags)
{
	return b->ops->submit_wait(b, (enum usrdrv_block_op)op, offset, len, buf, flags, NULL);
}

static inline void usrdrv_gate_leave(struct usrdrv_gate *gate)
{
	if (gate && !gate->left) {
		gate->left = 1;
		gate->leave(gate);
	}
}

#endif
