/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * PCI device drivers in user space: usr_pci_open() and usr_pci_map().
 * See Documentation/driver-api/usrdrv.rst.
 *
 * Every structure may grow at its end: the kernel is told the size that the
 * caller knows. What the caller does not know is taken as zero.
 */
#ifndef _UAPI_LINUX_USRDRV_H
#define _UAPI_LINUX_USRDRV_H

#include <linux/types.h>

/* usr_pci_open(): flags */
#define USR_PCI_CLOEXEC		(1 << 0)

#define USR_PCI_NAME_MAX	32	/* with the NUL */

/**
 * struct usr_pci_open_how - which function is claimed, and how
 * @domain:	PCI domain (segment)
 * @bus:	bus number
 * @device:	device (slot) on the bus, 0 to 31
 * @function:	function of the device, 0 to 7
 * @reserved:	must be 0
 * @dma_mask:	addresses that the function can put on the bus, 2^n - 1;
 *		0 stands for 32 bits
 * @name:	pointer to a string of up to 31 characters for people to see, after
 *		"usrdrv:", in /proc/interrupts and /proc/iomem; 0: "usrdrv"
 * @flags:	USR_PCI_CLOEXEC
 */
struct usr_pci_open_how {
	__u32 domain;
	__u8 bus;
	__u8 device;
	__u8 function;
	__u8 reserved;
	__aligned_u64 dma_mask;
	__aligned_u64 name;
	__aligned_u64 flags;
};

#define USR_PCI_OPEN_HOW_SIZE_VER0	32

/* usr_pci_map(): what it does */
enum usr_pci_op {
	USR_PCI_INFO		= 0,	/* struct usr_pci_info */
	USR_PCI_RESET		= 1,	/* no structure */
	USR_PCI_DMA_ALLOC	= 2,	/* struct usr_pci_dma_alloc */
	USR_PCI_DMA_FREE	= 3,	/* struct usr_pci_dma_id */
	USR_PCI_DMA_MAP		= 4,	/* struct usr_pci_dma_map */
	USR_PCI_DMA_UNMAP	= 5,	/* struct usr_pci_dma_id */
	USR_PCI_DMA_REMAP	= 6,	/* struct usr_pci_dma_map */
	USR_PCI_IRQ_SET		= 7,	/* struct usr_pci_irq */
	USR_PCI_IRQ_UNMASK	= 8,	/* no structure */
};

/* Regions of a function; each has an offset of its own in the file. */
#define USR_PCI_REGION_ROM	6	/* not accessible; size 0 */
#define USR_PCI_REGION_CONFIG	7	/* 0 to 5 are the BARs */
#define USR_PCI_NUM_REGIONS	8

/* struct usr_pci_region: flags */
#define USR_PCI_REGION_IO	(1 << 0)	/* I/O ports, else memory */
#define USR_PCI_REGION_64	(1 << 1)	/* 64-bit memory BAR */
#define USR_PCI_REGION_PREFETCH	(1 << 2)
#define USR_PCI_REGION_MMAP	(1 << 3)	/* mmap() works, not only pread() and pwrite() */

/**
 * struct usr_pci_region - a BAR or configuration space
 * @offset:	in the file, for pread(), pwrite() and mmap()
 * @size:	bytes; 0: there is none
 * @flags:	USR_PCI_REGION_*
 * @reserved:	0
 */
struct usr_pci_region {
	__aligned_u64 offset;
	__aligned_u64 size;
	__u32 flags;
	__u32 reserved;
};

/* struct usr_pci_info: flags */
#define USR_PCI_CAN_RESET	(1 << 0)	/* USR_PCI_RESET works, and close() resets */
#define USR_PCI_TRANSLATED	(1 << 1)	/* an IOMMU confines its DMA to mapped pages */
#define USR_PCI_HAS_INTX	(1 << 2)
#define USR_PCI_INTX_SHARED	(1 << 3)	/* PCI 2.3: may share its line */
#define USR_PCI_HAS_MSI		(1 << 4)

/**
 * struct usr_pci_info - what USR_PCI_INFO returns
 * @dma_mask:	as set
 * @flags:	USR_PCI_CAN_RESET ...
 * @irq:	number of the interrupt, for /proc/irq/<irq>/irq; 0: it has none
 * @region:	BARs, ROM, configuration space
 */
struct usr_pci_info {
	__aligned_u64 dma_mask;
	__u32 flags;
	__u32 irq;
	struct usr_pci_region region[USR_PCI_NUM_REGIONS];
};

/**
 * struct usr_pci_dma_alloc - consistent memory, USR_PCI_DMA_ALLOC
 * @len:	in: bytes wanted; out: whole pages
 * @flags:	must be 0
 * @bus:	out: address for the function
 * @offset:	out: for mmap() of @len bytes of the file
 * @id:		out: names the memory until it is freed
 * @reserved:	must be 0
 *
 * The memory is zeroed, and aligned to the power of two that @len fits in. It
 * is freed by the munmap() of its last mapping, or by USR_PCI_DMA_FREE once it
 * is not mapped.
 */
struct usr_pci_dma_alloc {
	__aligned_u64 len;
	__aligned_u64 flags;
	__aligned_u64 bus;
	__aligned_u64 offset;
	__u32 id;
	__u32 reserved;
};

#define USR_PCI_DMA_ALLOC_SIZE_VER0	40

/**
 * struct usr_pci_dma_id - names a mapping
 * @id:		of usr_pci_dma_alloc or usr_pci_dma_map
 * @reserved:	must be 0
 */
struct usr_pci_dma_id {
	__u32 id;
	__u32 reserved;
};

#define USR_PCI_DMA_ID_SIZE_VER0	8

/* struct usr_pci_dma_map: flags; one or both */
#define USR_PCI_DMA_TO_DEVICE	(1 << 0)	/* the function reads */
#define USR_PCI_DMA_FROM_DEVICE	(1 << 1)	/* the function writes */

/**
 * struct usr_pci_segment - a piece that is contiguous for the function
 * @bus:	address
 * @len:	bytes
 *
 * It does not grow.
 */
struct usr_pci_segment {
	__aligned_u64 bus;
	__aligned_u64 len;
};

/**
 * struct usr_pci_dma_map - memory of the caller for DMA, USR_PCI_DMA_MAP and _REMAP
 * @addr:	where it starts; any alignment
 * @len:	bytes
 * @segment:	pointer to room for @nr struct usr_pci_segment
 * @nr:		in: room; out: how many there are, also with E2BIG
 * @flags:	USR_PCI_DMA_TO_DEVICE, USR_PCI_DMA_FROM_DEVICE
 * @id:		out: names the mapping; in, of USR_PCI_DMA_REMAP: the mapping that
 *		is undone first, whatever becomes of the new one
 * @reserved:	must be 0
 */
struct usr_pci_dma_map {
	__aligned_u64 addr;
	__aligned_u64 len;
	__aligned_u64 segment;
	__u32 nr;
	__u32 flags;
	__u32 id;
	__u32 reserved;
};

#define USR_PCI_DMA_MAP_SIZE_VER0	40

/* struct usr_pci_irq: kind */
#define USR_PCI_IRQ_NONE	0
#define USR_PCI_IRQ_INTX	1	/* what a function has after usr_pci_open(), if it can */
#define USR_PCI_IRQ_MSI		2

/**
 * struct usr_pci_irq - which interrupt, and how it is told of; USR_PCI_IRQ_SET
 * @kind:	USR_PCI_IRQ_*
 * @eventfd:	is signalled once for each interrupt; -1: /proc/irq/<irq>/irq is used
 * @unmask:	an eventfd that stands for USR_PCI_IRQ_UNMASK when it is written; -1: none
 * @irq:	out: number of the interrupt, 0 for USR_PCI_IRQ_NONE
 *
 * INTx is masked from an interrupt on until it is unmasked. MSI is not masked.
 */
struct usr_pci_irq {
	__u32 kind;
	__s32 eventfd;
	__s32 unmask;
	__u32 irq;
};

#define USR_PCI_IRQ_SIZE_VER0	16

#endif /* _UAPI_LINUX_USRDRV_H */
