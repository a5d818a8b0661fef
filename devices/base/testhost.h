/* SPDX-License-Identifier: MIT */
/* A machine for a model under test: flat memory at one bus address, an interrupt level. */
#ifndef USRDRV_DEVICES_TESTHOST_H
#define USRDRV_DEVICES_TESTHOST_H

#include <stdint.h>

#include "usrdrv/model.h"

/* cffi: begin */
struct usrdrv_testhost {
	uint8_t *mem;		/* the caller's */
	uint64_t base;		/* its bus address */
	uint64_t len;
	uint64_t split;		/* dma_ptr is contiguous only up to multiples of it; 0: everywhere */
	volatile int level;
	volatile uint64_t raised;
};

void usrdrv_testhost_attach(struct usrdrv_testhost *host, struct usrdrv_model *model);
/* cffi: end */

#endif
