/* SPDX-License-Identifier: MIT */
/* The parts of the QEMU backend, the lowest first. The caller has the lock. */
#ifndef USRDRV_QEMU_DEVICE_H
#define USRDRV_QEMU_DEVICE_H

#include <pthread.h>

#include "areas.h"
#include "qemu.h"
#include "qtest.h"

/* PCI 3.0, 6.2 */
#define COMMAND		0x04
#define COMMAND_MEMORY	0x0002
#define COMMAND_MASTER	0x0004

struct qemu {
	struct usrdrv_dev dev;
	struct usrdrv_qemu machine;
	pthread_mutex_t lock;		/* everything below */
	struct qtest talk;
	struct areas areas;
	uint8_t *memory;
	unsigned int cap[USRDRV_IRQ_KINDS];	/* offset of the capability of MSI and MSI-X */
	unsigned int express;
	unsigned int n;			/* vectors in use */
	unsigned int told;		/* vectors whose eventfds the doorbell has */
	unsigned int echo;		/* number of the next peer that is only to be rung */
	int intx_fd;			/* -1: nobody is told */
	int masked;
	pthread_t listener;
	int has_listener, stop_fd;
	int stop;
};

/* qemu_access.c */
int qemu_result(struct qemu *q, int ret);
int qemu_post(struct qemu *q, const struct usrdrv_write *w, unsigned int n);
int qemu_ask(struct qemu *q, unsigned int region, uint64_t offset, unsigned int width, uint64_t *value);
int qemu_get_config(struct qemu *q, unsigned int offset, unsigned int width, uint32_t *value);
int qemu_set_config(struct qemu *q, unsigned int offset, unsigned int width, uint32_t value);
int qemu_change_config(struct qemu *q, unsigned int offset, uint32_t clear, uint32_t set);

/* qemu_irqs.c */
int qemu_learn_irqs(struct qemu *q);
int qemu_tell_vectors(struct qemu *q, const int *fds, unsigned int n);
int qemu_set_irqs(struct qemu *q);
void qemu_deliver(struct qemu *q);
void *qemu_listen(void *device);	/* a thread's; takes the lock */

#endif
