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

/* cffi: begin */
#define USRDRV_MODEL_CONFIG_SIZE	256

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
	/* Level of the INTx line, called on every change. */
	void (*irq)(void *ctx, int level);
};

struct usrdrv_model_bar {
	uint32_t size;		/* bytes, power of two; 0: none */
	uint32_t io;		/* 1: I/O ports, 0: memory */
};

struct usrdrv_model_ops {
	/* region: a BAR number or USRDRV_REGION_CONFIG; width 1, 2 or 4. All-ones when nothing answers. */
	uint32_t (*read)(struct usrdrv_model *m, unsigned int region, uint32_t offset, unsigned int width);
	void (*write)(struct usrdrv_model *m, unsigned int region, uint32_t offset, unsigned int width,
		      uint32_t value);
	void (*reset)(struct usrdrv_model *m);	/* RST# */
	void (*destroy)(struct usrdrv_model *m);	/* waits for background work, frees m */
};

struct usrdrv_model {
	const struct usrdrv_model_ops *ops;
	struct usrdrv_model_bar bar[6];
	struct usrdrv_model_host host;
};
/* cffi: end */

#endif
