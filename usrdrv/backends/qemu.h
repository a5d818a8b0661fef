/* SPDX-License-Identifier: MIT */
/* A device of QEMU's, in a machine that usrdrv/qemu.py has started and set up. */
#ifndef USRDRV_QEMU_H
#define USRDRV_QEMU_H

#include "usrdrv/dev.h"

/* cffi: begin */
struct usrdrv_qemu_bar {
	uint64_t base;		/* in the machine; 0: there is none */
	uint64_t size;		/* bytes */
	uint32_t flags;		/* USRDRV_BAR_* */
};

/* Addresses are the machine's. Descriptors belong to the device once it is open. */
struct usrdrv_qemu {
	int qtest_fd;		/* socket of `-qtest`, with no answer owed; inputs of the I/O APIC are intercepted */
	int memory_fd;		/* the machine's memory, from address 0 */
	uint64_t memory;	/* bytes */
	int peers_fd;		/* socket of the ivshmem-doorbell, whose number is USRDRV_QEMU_ITSELF */
	uint64_t doorbell;	/* its doorbell register */
	uint64_t config;	/* extended configuration space of the function */
	uint64_t bridge;	/* that of the root port above it */
	struct usrdrv_qemu_bar bar[USRDRV_NUM_BARS];
};

#define USRDRV_QEMU_LOW		0x100000	/* memory below is not for DMA: a PC has holes there */
#define USRDRV_QEMU_ITSELF	8	/* behind the peers that have our vectors, 256 each */

int usrdrv_qemu_open(const struct usrdrv_qemu *machine, struct usrdrv_dev **out);
/* cffi: end */

#endif
