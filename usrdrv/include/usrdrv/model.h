/* SPDX-License-Identifier: MIT */
/*
 * What a device model is, to the shells that run it: the vfio-user server and
 * the in-process backend. A model is a plain C library; it owns no socket.
 *
 * Thread-safety: every operation may be called from any thread; the model has
 * its own lock. It may call back into its host from any thread, also from
 * inside an operation, so a host callback must not call a model operation.
 */
#ifndef USRDRV_MODEL_H
#define USRDRV_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "usrdrv/dev.h"

/* cffi: begin */
#define USRDRV_MODEL_CONFIG_SIZE	256	/* of a conventional function */
#define USRDRV_MODEL_EXPRESS_SIZE	4096	/* of a PCI Express function */

struct usrdrv_model;

/* What the machine around the device offers. Set once, before the first access. */
struct usrdrv_model_host {
	void *ctx;
	/*
	 * Copy len bytes from/to bus address addr; may span mappings. 0, or -EFAULT when
	 * any byte is not mapped (or not writable): a PCI master abort, nothing is promised
	 * about the bytes before it.
	 */
	int (*dma_read)(void *ctx, uint64_t addr, void *buf, size_t len);
	int (*dma_write)(void *ctx, uint64_t addr, const void *buf, size_t len);
	/*
	 * CPU address of addr and, in *avail, how many of the len bytes are contiguous there; NULL:
	 * not mapped. Only to be handed to system calls (pread, pwrite), which survive a peer that
	 * truncates the memory (EFAULT); valid until the operation in hand returns, or, in a thread of
	 * the model's, as long as that keeps register accesses waiting.
	 */
	void *(*dma_ptr)(void *ctx, uint64_t addr, size_t len, int device_writes, size_t *avail);
	/*
	 * Interrupts: the level of the INTx line, called on every change; the message of an MSI or MSI-X
	 * vector. A model that has several kinds calls both, whatever its configuration space says: the
	 * host passes on the kind that the driver has connected. Masks and pending bits are the host's, as
	 * in VFIO: MSI-X's table in a BAR is memory that nobody consults. A message to a vector that is not
	 * connected waits until it is, once; a reset forgets it.
	 */
	void (*irq)(void *ctx, int level);
	void (*message)(void *ctx, unsigned int vector);
};

/* One of 64 bits has the next one's register as well, whose size is 0. */
struct usrdrv_model_bar {
	uint64_t size;		/* bytes, power of two; 0: none */
	uint32_t flags;		/* USRDRV_BAR_* */
};

struct usrdrv_model_ops {
	/* region: a BAR number or USRDRV_REGION_CONFIG; width 1, 2 or 4. All-ones when nothing answers. */
	uint32_t (*read)(struct usrdrv_model *m, unsigned int region, uint64_t offset, unsigned int width);
	void (*write)(struct usrdrv_model *m, unsigned int region, uint64_t offset, unsigned int width,
		      uint32_t value);
	void (*reset)(struct usrdrv_model *m);	/* RST#; no interrupt comes after it before the next access */
	void (*destroy)(struct usrdrv_model *m);	/* waits for background work, frees m */
};

struct usrdrv_model {
	const struct usrdrv_model_ops *ops;
	struct usrdrv_model_bar bar[USRDRV_NUM_BARS];
	uint32_t config_size;	/* USRDRV_MODEL_*_SIZE */
	unsigned int vectors[USRDRV_IRQ_KINDS];	/* interrupts of each kind; 0: none */
	struct usrdrv_model_host host;
};
/* cffi: end */

#endif
