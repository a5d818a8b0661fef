// SPDX-License-Identifier: MIT
#include "stress_rig.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends.h"
#include "cmd680/cmd680.h"
#include "usrdrv/block.h"

static struct usrdrv_model *model;

/* The control plane's part: memory, I/O and bus mastering on; 133 MHz, UDMA 6 (docs/hardware/cmd680.md, section 8). */
static int bring_up(struct usrdrv_dev *dev, unsigned int drives)
{
	static const struct { uint16_t offset; uint8_t width; uint32_t value; } chip[] = {
		{ 0x04, 2, 7 }, { 0x8a, 1, 0x10 }, { 0x80, 1, 0x33 }, { 0x84, 1, 0x33 },
		{ 0xac, 4, 0x40014001 }, { 0xbc, 4, 0x40014001 },
	};
	static const struct { uint16_t offset; uint8_t value; } drive[] = {
		{ 0x86, 0xa0 }, { 0x81, 0x03 }, { 0x82, 0x46 }, { 0x87, 0xef },
	};
	int ret = 0;

	for (unsigned int i = 0; i < sizeof(chip) / sizeof(chip[0]) && !ret; i++)
		ret = usrdrv_write(dev, USRDRV_REGION_CONFIG, chip[i].offset, chip[i].width, chip[i].value);
	for (unsigned int d = 0; d < drives; d++) {
		unsigned int channel = d / 2 * 0x40;
		uint32_t status;

		for (unsigned int i = 0; i < sizeof(drive) / sizeof(drive[0]) && !ret; i++)
			ret = usrdrv_write(dev, 5, drive[i].offset + channel, 1,
					   drive[i].value | (i ? 0 : d % 2 << 4));
		if (!ret)
			ret = usrdrv_read(dev, 5, 0x87 + channel, 1, &status);
		if (!ret && status != 0x50)
			ret = -EIO;
		if (!ret)
			ret = usrdrv_write(dev, 5, d / 2 * 8 + 2, 1, 4);
	}
	return ret;
}

struct usrdrv_dev *stress_open(unsigned int drives, uint64_t sectors)
{
	struct cmd680_config config = { .cable80 = { 1, 1 }, .pci_class = 0x0180, .strict = 1 };
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
		ret = bring_up(dev, drives);
	if (ret) {
		fprintf(stderr, "rig: %s\n", strerror(-ret));
		return NULL;
	}
	return dev;
}

void stress_close(struct usrdrv_dev *dev)
{
	struct cmd680_counters counters;

	cmd680_counters(model, &counters);
	if (counters.refused_timings || counters.refused_accesses || counters.refused_prds) {
		fprintf(stderr, "rig: the driver broke a rule of the chip\n");
		exit(1);
	}
	dev->ops->close(dev);
	model->ops->destroy(model);
}
