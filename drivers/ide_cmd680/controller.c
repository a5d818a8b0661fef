// SPDX-License-Identifier: MIT
/* Life of the data path: channels and tables made and given back, drives configured. */
#include <errno.h>
#include <stdlib.h>

#include "ide.h"
#include "usrdrv/cmd680_regs.h"

#define BELOW_4G 0xffffffffu	/* the bus master has 32 address bits, section 6.1 */

/* BAR5 shows everything; without it the I/O BARs do (sections 2 and 3). */
static struct ide_ports find_ports(int mmio, unsigned int channel)
{
	if (mmio)
		return (struct ide_ports){
			.tf_region = 5, .ctl_region = 5, .bm_region = 5,
			.tf = (uint16_t)(CMD680_TF_DATA + channel * CMD680_CH_STRIDE),
			.ctl = (uint16_t)(CMD680_TF_CONTROL + channel * CMD680_CH_STRIDE),
			.bm = (uint16_t)(channel * CMD680_BM_STRIDE),
		};
	return (struct ide_ports){
		.tf_region = (uint8_t)(channel * 2), .ctl_region = (uint8_t)(channel * 2 + 1), .bm_region = 4,
		.tf = 0, .ctl = 2, .bm = (uint16_t)(channel * CMD680_BM_STRIDE),
	};
}

static int init_channel(struct ide *ide, unsigned int number)
{
	struct ide_channel *ch = &ide->channel[number];
	struct usrdrv_dev *dev = ide->front.dev;

	ch->ide = ide;
	ch->ports = find_ports(ide->mmio, number);
	ch->device_reg = ch->features_reg = ch->bm_cmd = -1;
	/* a table aligned to its size cannot cross 64 KiB */
	return block_add_channel(&ide->front, &ch->block, 1, IDE_SEGMENTS) ?:
	       dev->ops->dma_alloc(dev, 4096, 4096, BELOW_4G, &ch->prd_dma);
}

/**
 * ide_create - make the data path of a controller
 * @dev:	claimed function; stays the caller's
 * @mmio:	1: registers through BAR5, 0: through BAR0-4
 * @out:	result, both channels frozen
 *
 * Return: 0 or -errno.
 */
int ide_create(struct usrdrv_dev *dev, int mmio, struct ide **out)
{
	const struct block_abilities can = {
		.dma_limit = BELOW_4G, .trim_bytes = IDE_TRIM_BYTES, .max_pieces = IDE_PRDS, .joins = 1,
	};
	struct ide *ide = calloc(1, sizeof(*ide));
	int ret;

	if (!ide)
		return -ENOMEM;
	ide->mmio = mmio;
	ret = block_init(&ide->front, dev, &ide_chip_ops, &can);
	for (unsigned int i = 0; i < IDE_CHANNELS && !ret; i++)
		ret = init_channel(ide, i);
	if (ret) {
		ide_destroy(ide);
		return ret;
	}
	*out = ide;
	return 0;
}

/**
 * ide_front - the front end of a controller
 * @ide:	controller
 *
 * Return: owned by @ide.
 */
struct block_front *ide_front(struct ide *ide)
{
	return &ide->front;
}

/**
 * ide_destroy - give everything back
 * @ide:	controller, stopped, its bus master off; no new request may come
 */
void ide_destroy(struct ide *ide)
{
	struct usrdrv_dev *dev = ide->front.dev;

	block_free(&ide->front);
	for (unsigned int i = 0; i < IDE_CHANNELS; i++)
		if (ide->channel[i].prd_dma.cpu)
			dev->ops->dma_free(dev, &ide->channel[i].prd_dma);
	free(ide);
}

/**
 * ide_configure - say what a drive is
 * @ide:	controller
 * @drive:	0 to 3; its channel is frozen or not started
 * @conf:	copied
 *
 * Return: 0, -EINVAL for a bad number.
 */
int ide_configure(struct ide *ide, unsigned int drive, const struct ide_drive_conf *conf)
{
	struct block_unit *u;

	if (drive >= IDE_DRIVES)
		return -EINVAL;
	ide->conf[drive] = *conf;
	u = block_add_unit(&ide->front, drive, drive / 2, 1);
	u->max_sectors = conf->lba48 ? IDE_MAX_SECTORS : IDE_MAX_SECTORS_28;
	u->by_cpu = !conf->dma;
	u->block.sectors = conf->sectors;
	u->block.physical_block = conf->physical_block;
	u->block.read_only = conf->read_only;
	u->block.rotational = conf->rotational;
	u->block.can_flush = conf->flush;
	/* natively, or as a write and a flush that the data path does itself */
	u->block.can_fua = conf->fua || conf->flush;
	u->block.can_trim = conf->trim && conf->dma && conf->lba48;
	return 0;
}

/**
 * ide_set_protocol - change between DMA and PIO
 * @ide:	controller
 * @drive:	0 to 3, configured; its channel is frozen
 * @dma:	1 or 0
 *
 * Return: 0, -EINVAL for a bad number.
 */
int ide_set_protocol(struct ide *ide, unsigned int drive, int dma)
{
	if (drive >= IDE_DRIVES)
		return -EINVAL;
	ide->conf[drive].dma = (uint8_t)dma;
	ide->front.unit[drive].by_cpu = !dma;
	return 0;
}

/**
 * ide_get_error - what the registers said when the command failed that froze a channel
 * @ide:	controller
 * @channel:	0 or 1, frozen
 * @out:	copied
 */
void ide_get_error(struct ide *ide, unsigned int channel, struct ide_error *out)
{
	*out = ide->channel[channel].error;
}
