/* SPDX-License-Identifier: MIT */
/* How each backend opens a device; all the rest is in the operations of struct usrdrv_dev. */
#ifndef USRDRV_BACKENDS_H
#define USRDRV_BACKENDS_H

#include "usrdrv/dev.h"
#include "usrdrv/model.h"

/* cffi: begin */
int usrdrv_inproc_open(struct usrdrv_model *m, struct usrdrv_dev **out);
int usrdrv_vfio_user_open(const char *path, int timeout_ms, struct usrdrv_dev **out);
int usrdrv_vfio_open(int container, int group, int device, struct usrdrv_dev **out);
int usrdrv_usr_available(void);
int usrdrv_usr_open(unsigned int domain, unsigned int bus, unsigned int slot, unsigned int function,
		    struct usrdrv_dev **out);
/* cffi: end */

#endif
