// SPDX-License-Identifier: MIT
/* Life of the data path: memory and locks made and given back, drives configured. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "ide.h"
#include "usrdrv/cmd680_regs.h"

#define BELOW_4G 0xffffffffu	/* the bus master has 32 address bits, section 6.1 */

extern const struct usrdrv_block_ops ide_block_ops;

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

static int init_channel(struct ide_channel *ch, struct ide *ide, unsigned int number)
{
	struct usrdrv_dev *dev = ide->dev;
	int ret;

	ch->ide = ide;
	ch->number = number;
	ch->state = IDE_FROZEN;
	ch->ports = find_ports(ide->mmio, number);
	ch->queue_tail = &ch->queue;
	ch->device_reg = ch->features_reg = ch->bm_cmd = -1;
	pthread_mutex_init(&ch->lock, NULL);
	pthread_cond_init(&ch->pool_cond, NULL);

	/* a table aligned to its size cannot cross 64 KiB, nor can an aligned page */
	ret = dev->ops->dma_alloc(dev, 4096, 4096, BELOW_4G, &ch->prd_dma);
	if (ret)
		return ret;
	ret = dev->ops->dma_alloc(dev, (size_t)IDE_SEGMENTS * IDE_SEGMENT_BYTES, IDE_SEGMENT_BYTES, BELOW_4G,
				  &ch->page_dma);
	if (ret)
		return ret;
	for (int i = IDE_SEGMENTS - 1; i >= 0; i--) {
		struct ide_segment *s = &ch->segment[i];

		s->page = (uint8_t *)ch->page_dma.cpu + (size_t)i * IDE_SEGMENT_BYTES;
		s->bus = (uint32_t)ch->page_dma.bus + (uint32_t)i * IDE_SEGMENT_BYTES;
		s->next = ch->free;
		ch->free = s;
	}
	for (unsigned int d = 0; d < 2; d++) {
		ch->drive[d].channel = ch;
		ch->drive[d].device = d;
		ch->drive[d].block.ops = &ide_block_ops;
	}
	return 0;
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
	struct ide *ide = calloc(1, sizeof(*ide));
	int ret = 0;

	if (!ide)
		return -ENOMEM;
	ide->dev = dev;
	ide->mmio = mmio;
	ide->limits = (struct ide_limits){ .rw_ms = 10000, .flush_ms = 30000, .lost_ms = 500 };
	pthread_mutex_init(&ide->event_lock, NULL);
	pthread_cond_init(&ide->event_cond, NULL);
	ide->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	ide->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (ide->epoll_fd < 0 || ide->kick_fd < 0)
		ret = -errno;
	for (unsigned int i = 0; i < IDE_CHANNELS && !ret; i++)
		ret = init_channel(&ide->channel[i], ide, i);
	if (ret) {
		ide_destroy(ide);
		return ret;
	}
	*out = ide;
	return 0;
}

/* Stopped channels fail every request at once, so their threads are on the way out. */
static void wait_for_users(struct ide *ide)
{
	const struct timespec pause = { .tv_nsec = 1000000 };

	for (unsigned int i = 0; i < IDE_CHANNELS; i++) {
		struct ide_channel *ch = &ide->channel[i];

		pthread_mutex_lock(&ch->lock);
		while (ch->users) {
			ide_unlock(ch);
			nanosleep(&pause, NULL);
			pthread_mutex_lock(&ch->lock);
		}
		ide_unlock(ch);
	}
}

/**
 * ide_destroy - give everything back
 * @ide:	controller, stopped, its bus master off; no new request may come
 */
void ide_destroy(struct ide *ide)
{
	struct usrdrv_dev *dev = ide->dev;

	wait_for_users(ide);
	if (atomic_load(&ide->serve))
		ide_serve_free(atomic_load(&ide->serve));
	if (ide->left)
		ide_serve_free(ide->left);
	for (unsigned int i = 0; i < IDE_CHANNELS; i++) {
		if (ide->channel[i].prd_dma.cpu)
			dev->ops->dma_free(dev, &ide->channel[i].prd_dma);
		if (ide->channel[i].page_dma.cpu)
			dev->ops->dma_free(dev, &ide->channel[i].page_dma);
	}
	if (ide->epoll_fd >= 0)
		close(ide->epoll_fd);
	if (ide->kick_fd >= 0)
		close(ide->kick_fd);
	free(ide);
}

static struct ide_drive *find_drive(struct ide *ide, unsigned int drive)
{
	return drive < IDE_DRIVES ? &ide->channel[drive / 2].drive[drive % 2] : NULL;
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
	struct ide_drive *d = find_drive(ide, drive);

	if (!d)
		return -EINVAL;
	d->conf = *conf;
	d->present = 1;
	d->offline = 0;
	d->block.sectors = conf->sectors;
	d->block.physical_block = conf->physical_block;
	d->block.read_only = conf->read_only;
	d->block.rotational = conf->rotational;
	d->block.can_flush = conf->flush;
	/* natively, or as a write and a flush that the data path does itself */
	d->block.can_fua = conf->fua || conf->flush;
	d->block.can_trim = conf->trim && conf->dma && conf->lba48;
	return 0;
}

/**
 * ide_set_protocol - change between DMA and PIO
 * @ide:	controller
 * @drive:	0 to 3; its channel is frozen
 * @dma:	1 or 0
 *
 * Return: 0, -EINVAL for a bad number.
 */
int ide_set_protocol(struct ide *ide, unsigned int drive, int dma)
{
	struct ide_drive *d = find_drive(ide, drive);

	if (!d)
		return -EINVAL;
	d->conf.dma = (uint8_t)dma;
	return 0;
}

/**
 * ide_offline - fail every request of a drive from now on
 * @ide:	controller
 * @drive:	0 to 3; its channel is frozen
 * @err:	-errno for each; 0: the drive is back
 *
 * Return: 0, -EINVAL for a bad number.
 */
int ide_offline(struct ide *ide, unsigned int drive, int err)
{
	struct ide_drive *d = find_drive(ide, drive);

	if (!d)
		return -EINVAL;
	pthread_mutex_lock(&d->channel->lock);
	d->offline = err;
	if (err)
		ide_fail_queue(d->channel, (int)d->device, err);
	ide_unlock(d->channel);
	return 0;
}

/**
 * ide_set_limits - set the time-outs of commands issued from now on
 * @ide:	controller
 * @limits:	copied
 */
void ide_set_limits(struct ide *ide, const struct ide_limits *limits)
{
	ide->limits = *limits;
}

/**
 * ide_block - the top end of a drive
 * @ide:	controller
 * @drive:	0 to 3
 *
 * Return: owned by @ide; NULL if there is no such drive.
 */
struct usrdrv_block *ide_block(struct ide *ide, unsigned int drive)
{
	struct ide_drive *d = find_drive(ide, drive);

	return d && d->present ? &d->block : NULL;
}

/**
 * ide_get_counters - read a channel's statistics
 * @ide:	controller
 * @channel:	0 or 1
 * @out:	copied as they stand, without a lock
 */
void ide_get_counters(struct ide *ide, unsigned int channel, struct ide_counters *out)
{
	*out = ide->channel[channel].count;
}
