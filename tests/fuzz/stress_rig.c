// SPDX-License-Identifier: MIT
#include "stress_rig.h"

#include <stdio.h>
#include <string.h>

#include "backends.h"
#include "cmd680.h"
#include "usrdrv/block.h"

static struct usrdrv_model *model;

struct usrdrv_dev *stress_open(unsigned int drives, uint64_t sectors)
{
	struct cmd680_config config = { .cable80 = { 1, 1 }, .pci_class = 0x0180 };
	/* memory and I/O enabled, bus master on */
	const struct usrdrv_write enable = { .region = USRDRV_REGION_CONFIG, .width = 2, .offset = 4, .value = 7 };
	struct usrdrv_dev *dev;
	int ret;

	for (unsigned int i = 0; i < drives; i++) {
		config.drive[i] = (struct cmd680_drive_config){
			.present = 1, .fd = -1, .size = sectors * USRDRV_SECTOR, .max_udma = 6, .max_mwdma = 2,
			.lba48 = 1, .trim = 1, .rpm = 1,
		};
		strcpy(config.drive[i].serial, "S");
		strcpy(config.drive[i].model, "M");
		strcpy(config.drive[i].firmware, "F");
	}
	ret = cmd680_create(&config, &model);
	if (!ret)
		ret = usrdrv_inproc_open(model, &dev);
	if (!ret)
		ret = dev->ops->write_list(dev, &enable, 1);
	if (ret) {
		fprintf(stderr, "rig: %s\n", strerror(-ret));
		return NULL;
	}
	return dev;
}

void stress_close(struct usrdrv_dev *dev)
{
	dev->ops->close(dev);
	model->ops->destroy(model);
}
