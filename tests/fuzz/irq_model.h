/* SPDX-License-Identifier: MIT */
/*
 * A PCI Express function that does nothing but interrupt, with as many vectors as asked for: a model for tests.
 * BAR 0, of 64 bits, prefetchable:
 */
#ifndef USRDRV_TESTS_IRQ_MODEL_H
#define USRDRV_TESTS_IRQ_MODEL_H

#include "usrdrv/model.h"

#define IRQ_MODEL_SIZE		0x20000u
#define IRQ_MODEL_MESSAGE	0x00	/* written: send the message of that vector */
#define IRQ_MODEL_LEVEL		0x04	/* of INTx */
#define IRQ_MODEL_WIDE		0x08	/* 8 bytes to keep; the same at IRQ_MODEL_LAST */
#define IRQ_MODEL_LAST		(IRQ_MODEL_SIZE - 8)

/* BAR 2 is memory, with MSI-X's table and, behind it, the pending bits. */
#define IRQ_MODEL_TABLE_SIZE	0x10000u
#define IRQ_MODEL_PENDING	0x8000u

struct usrdrv_model *irq_model_create(unsigned int intx, unsigned int msi, unsigned int msix);

#endif
