/* SPDX-License-Identifier: MIT */
/*
 * The access layer: what the C part of a driver is written against.
 *
 * A struct usrdrv_dev is one claimed PCI function. Back ends (VFIO, the usrdrv system calls,
 * vfio-user, a model in the process) fill in the operations;
 * a driver never knows which one it has.
 *
 * Units: offsets, lengths and bus addresses are bytes. Errors are -errno.
 * Thread-safety: every function may be called from any thread at any time
 * between open and close; two accesses by one thread reach the device in
 * program order, as PCI keeps posted writes in order.
 */
#ifndef USRDRV_DEV_H
#define USRDRV_DEV_H

#include <stddef.h>
#include <stdint.h>

/* cffi: begin */
#define USRDRV_NUM_BARS		6
#define USRDRV_REGION_CONFIG	7	/* regions 0-5 are the BARs, 6 the ROM (numbers of linux/vfio.h) */

#define USRDRV_BAR_IO		1	/* I/O ports, else memory */
#define USRDRV_BAR_64		2
#define USRDRV_BAR_PREFETCH	4

/* Kinds of interrupts (numbers of linux/vfio.h) */
#define USRDRV_IRQ_INTX		0
#define USRDRV_IRQ_MSI		1
#define USRDRV_IRQ_MSIX		2
#define USRDRV_IRQ_KINDS	3

struct usrdrv_bar {
	uint64_t size;		/* bytes; 0: not implemented */
	uint32_t flags;		/* USRDRV_BAR_* */
	void *map;		/* CPU mapping, or NULL: only through the operations */
};

struct usrdrv_dma {
	void *cpu;		/* page-aligned CPU address */
	uint64_t bus;		/* address that the device uses, aligned like the request */
	size_t len;		/* bytes */
	int id;			/* of the backend */
};

/* One element of a list of register writes, done in order. */
struct usrdrv_write {
	uint64_t offset;
	uint64_t value;
	uint8_t region;
	uint8_t width;		/* 1, 2, 4 or 8 bytes */
};

struct usrdrv_dev;

struct usrdrv_dev_ops {
	/*
	 * width is 1, 2, 4 or, in a memory BAR, 8; returns 0 or -errno; -ENODEV when the device is gone. n
	 * posted writes (w may be NULL if 0) go in front of it and travel with it. A conventional PCI device
	 * is reached in pieces of at most 4 bytes, the lower address first.
	 */
	int (*read)(struct usrdrv_dev *dev, const struct usrdrv_write *w, unsigned int n,
		    unsigned int region, uint64_t offset, unsigned int width, uint64_t *value);
	/* Posted: may return before the device has seen them; a read flushes. */
	int (*write_list)(struct usrdrv_dev *dev, const struct usrdrv_write *w, unsigned int n);
	/* FIFO access: count reads (writes) of width bytes at one offset */
	int (*read_rep)(struct usrdrv_dev *dev, unsigned int region, uint64_t offset,
			unsigned int width, void *buf, unsigned int count);
	int (*write_rep)(struct usrdrv_dev *dev, unsigned int region, uint64_t offset,
			 unsigned int width, const void *buf, unsigned int count);
	/*
	 * Zeroed memory the device can reach: bus + len - 1 <= limit, bus a multiple of align (power of two).
	 * Ask for pieces of at most 1 MiB: without an IOMMU, each must be contiguous in memory. Where the
	 * kernel chooses the place, a limit below 4 GiB is met by chance, or else it is -ENOSPC.
	 */
	int (*dma_alloc)(struct usrdrv_dev *dev, size_t len, size_t align, uint64_t limit,
			 struct usrdrv_dma *dma);
	void (*dma_free)(struct usrdrv_dev *dev, struct usrdrv_dma *dma);
	/*
	 * Let the device reach memory that the caller has mapped, whole pages, in the same terms. dma_free
	 * takes it from the device and leaves it to the caller. NULL: the backend cannot.
	 */
	int (*dma_map)(struct usrdrv_dev *dev, void *cpu, size_t len, size_t align, uint64_t limit,
		       struct usrdrv_dma *dma);
	/*
	 * Have interrupts of a kind signalled, vector by vector, on the eventfds fds[0] to fds[n - 1], which stay
	 * the caller's, in place of all interrupts before; n = 0: have none. A vector has the same eventfd in each
	 * call, whatever the kind; that of the first is irq_fd. -EINVAL: the function has fewer of that kind.
	 * After another error it has none: those before are gone.
	 */
	int (*irq_connect)(struct usrdrv_dev *dev, unsigned int kind, const int *fds, unsigned int n);
	/*
	 * Let the (level, auto-masked) interrupt through again; n register writes go in front of it. MSI and
	 * MSI-X are not masked: only the writes are done.
	 */
	int (*irq_unmask)(struct usrdrv_dev *dev, const struct usrdrv_write *w, unsigned int n);
	/*
	 * INTx that is raised between hold and release is latched and not signalled
	 * on irq_fd; release returns 1 if the caller must service one itself, 0 if
	 * not. Backends that cannot do it cheaply leave both NULL.
	 */
	void (*irq_hold)(struct usrdrv_dev *dev);
	int (*irq_release)(struct usrdrv_dev *dev);
	/*
	 * Registers start anew; interrupts stay connected. Configuration space is as before, but of a model, which
	 * has no system that puts it back.
	 */
	int (*reset)(struct usrdrv_dev *dev);
	/* Bus mastering off, reset, then mappings, interrupt and connection are given back. Frees dev. */
	void (*close)(struct usrdrv_dev *dev);
};

struct usrdrv_dev {
	const struct usrdrv_dev_ops *ops;
	struct usrdrv_bar bar[USRDRV_NUM_BARS];
	unsigned int vectors[USRDRV_IRQ_KINDS];	/* interrupts that the function has, of each kind; 0: none */
	unsigned int irq_kind;	/* of those that are connected: at first INTx, if there is one; USRDRV_IRQ_KINDS: none */
	/* eventfd of INTx: signalled once per interrupt, which is then masked until irq_unmask. Else of vector 0. */
	int irq_fd;
	int unmask_fd;		/* eventfd that unmasks INTx, for who can signal it cheaply; -1: none */
	int claim_fd;		/* file of usr_pci_open(), for those in the kernel who map memory for the device; -1: none */
	int hangup_fd;		/* reports hangup_events when the device is going or gone; -1: there is none */
	uint32_t hangup_events;	/* EPOLL* */
	int gone;		/* set for good when the device or its server vanished */
};
/* cffi: end */

/* A register of at most 32 bits; ops->read has wider ones. */
static inline int usrdrv_read(struct usrdrv_dev *dev, unsigned int region, uint64_t offset,
			      unsigned int width, uint32_t *value)
{
	uint64_t wide;
	int ret = dev->ops->read(dev, NULL, 0, region, offset, width, &wide);

	*value = (uint32_t)wide;
	return ret;
}

static inline int usrdrv_write(struct usrdrv_dev *dev, unsigned int region, uint64_t offset,
			       unsigned int width, uint64_t value)
{
	struct usrdrv_write w = {
		.region = (uint8_t)region, .width = (uint8_t)width, .offset = offset, .value = value,
	};

	return dev->ops->write_list(dev, &w, 1);
}

#endif
