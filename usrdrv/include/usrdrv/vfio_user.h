/* SPDX-License-Identifier: MIT */
/*
 * The vfio-user protocol, version 0.0, as QEMU and libvfio-user speak it: what client
 * and server share. Source: QEMU's docs/interop/vfio-user. Little-endian, as the host.
 */
#ifndef USRDRV_VFIO_USER_H
#define USRDRV_VFIO_USER_H

#include <stdint.h>

#define VU_VERSION_MAJOR	0
#define VU_VERSION_MINOR	0
#define VU_MAX_XFER		(1u << 20)	/* bytes of data in one message */
#define VU_MAX_FDS		8

enum {
	VU_VERSION = 1, VU_DMA_MAP, VU_DMA_UNMAP, VU_GET_INFO, VU_GET_REGION_INFO, VU_GET_REGION_IO_FDS,
	VU_GET_IRQ_INFO, VU_SET_IRQS, VU_REGION_READ, VU_REGION_WRITE, VU_DMA_READ, VU_DMA_WRITE,
	VU_RESET, VU_REGION_WRITE_MULTI = 15,
};

#define VU_TYPE_MASK		0x0f
#define VU_REPLY		0x01
#define VU_NO_REPLY		0x10
#define VU_ERROR		0x20

#define VU_REGIONS		9
#define VU_CONFIG_REGION	7
#define VU_IRQS			5

struct vu_header {
	uint16_t id;
	uint16_t command;
	uint32_t size;		/* with this header */
	uint32_t flags;
	uint32_t error;		/* errno, in replies with VU_ERROR */
};

struct vu_version {
	uint16_t major;
	uint16_t minor;
	/* JSON, with its NUL */
};

struct vu_dma_map {
	uint32_t argsz;
	uint32_t flags;		/* 1 read, 2 write */
	uint64_t offset;	/* into the fd */
	uint64_t address;
	uint64_t size;
};

struct vu_dma_unmap {
	uint32_t argsz;
	uint32_t flags;		/* 2: everything */
	uint64_t address;
	uint64_t size;
};

struct vu_device_info {
	uint32_t argsz;
	uint32_t flags;		/* 1 reset, 2 PCI */
	uint32_t regions;
	uint32_t irqs;
};

struct vu_region_info {
	uint32_t argsz;
	uint32_t flags;		/* 1 read, 2 write */
	uint32_t index;
	uint32_t cap_offset;
	uint64_t size;
	uint64_t offset;
};

struct vu_irq_info {
	uint32_t argsz;
	uint32_t flags;		/* VU_IRQ_INFO_* */
	uint32_t index;
	uint32_t count;
};

#define VU_IRQ_INFO_EVENTFD	0x01
#define VU_IRQ_INFO_MASKABLE	0x02
#define VU_IRQ_INFO_AUTOMASKED	0x04	/* by each signal */

struct vu_irq_set {
	uint32_t argsz;
	uint32_t flags;		/* VU_IRQ_* */
	uint32_t index;
	uint32_t start;
	uint32_t count;
};

#define VU_IRQ_DATA_NONE	0x01
#define VU_IRQ_DATA_BOOL	0x02
#define VU_IRQ_DATA_EVENTFD	0x04
#define VU_IRQ_MASK		0x08
#define VU_IRQ_UNMASK		0x10
#define VU_IRQ_TRIGGER		0x20

/* DMA_READ: the server asks, for what it cannot reach itself. */
struct vu_dma_access {
	uint64_t address;
	uint64_t count;
};

struct vu_region_access {
	uint64_t offset;
	uint32_t region;
	uint32_t count;		/* bytes; data follows */
};

struct vu_write_multi {
	uint64_t count;		/* of struct vu_multi */
};

struct vu_multi {
	uint64_t offset;
	uint32_t region;
	uint32_t count;
	uint8_t data[8];
};

#endif
