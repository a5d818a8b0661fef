/* SPDX-License-Identifier: MIT */
/*
 * A PCI function whose regions lie at offsets of one file, as the kernel's VFIO
 * and usrdrv have them. Memory BARs are mapped where the kernel allows it: an
 * access is a load or a store. Ports and configuration space are pread and pwrite.
 */
#ifndef USRDRV_REGIONS_H
#define USRDRV_REGIONS_H

#include "usrdrv/dev.h"

struct regions {
	struct usrdrv_dev dev;
	int fd;
	uint64_t offset[USRDRV_REGION_CONFIG + 1];
	uint64_t config_size;	/* bytes; of a PCI Express function 4096 */
};

/* Operations of struct usrdrv_dev */
int regions_read(struct usrdrv_dev *dev, const struct usrdrv_write *w, unsigned int n, unsigned int region,
		 uint64_t offset, unsigned int width, uint64_t *value);
int regions_write_list(struct usrdrv_dev *dev, const struct usrdrv_write *w, unsigned int n);
int regions_read_rep(struct usrdrv_dev *dev, unsigned int region, uint64_t offset, unsigned int width,
		     void *buf, unsigned int count);
int regions_write_rep(struct usrdrv_dev *dev, unsigned int region, uint64_t offset, unsigned int width,
		      const void *buf, unsigned int count);

void regions_map(struct regions *r, unsigned int bar);
void regions_unmap(struct regions *r);
void regions_no_master(struct regions *r);

#endif
