// SPDX-License-Identifier: MIT
/* What stands for a PCI function: memory that "the device" reaches, and an interrupt. There are no registers. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "null.h"

static int no_read(struct usrdrv_dev *dev, const struct usrdrv_write *w, unsigned int n, unsigned int region,
		   uint64_t offset, unsigned int width, uint64_t *value)
{
	return -EOPNOTSUPP;
}

/* An empty list is what the front end has to hand over. */
static int write_list(struct usrdrv_dev *dev, const struct usrdrv_write *w, unsigned int n)
{
	return n ? -EOPNOTSUPP : 0;
}

static int dma_alloc(struct usrdrv_dev *dev, size_t len, size_t align, uint64_t limit, struct usrdrv_dma *dma)
{
	*dma = (struct usrdrv_dma){ .len = (len + align - 1) / align * align };
	dma->cpu = aligned_alloc(align, dma->len);
	if (!dma->cpu)
		return -ENOMEM;
	memset(dma->cpu, 0, dma->len);
	dma->bus = (uintptr_t)dma->cpu;
	dma->id = 1;
	return 0;
}

static void dma_free(struct usrdrv_dev *dev, struct usrdrv_dma *dma)
{
	if (dma->id)
		free(dma->cpu);
	dma->cpu = NULL;
}

static int dma_map(struct usrdrv_dev *dev, void *cpu, size_t len, size_t align, uint64_t limit, struct usrdrv_dma *dma)
{
	*dma = (struct usrdrv_dma){ .cpu = cpu, .bus = (uintptr_t)cpu, .len = len };
	return 0;
}

static void close_device(struct usrdrv_dev *dev)
{
	close(dev->irq_fd);
	free(dev);
}

static const struct usrdrv_dev_ops ops = {
	.read = no_read, .write_list = write_list, .dma_alloc = dma_alloc, .dma_free = dma_free, .dma_map = dma_map,
	.irq_unmask = write_list, .close = close_device,
};

/**
 * null_device - make what stands for a device
 *
 * Return: for its close operation; NULL with errno set.
 */
struct usrdrv_dev *null_device(void)
{
	struct usrdrv_dev *dev = calloc(1, sizeof(*dev));

	if (!dev)
		return NULL;
	dev->ops = &ops;
	dev->unmask_fd = dev->claim_fd = dev->hangup_fd = -1;
	dev->irq_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (dev->irq_fd >= 0)
		return dev;
	free(dev);
	return NULL;
}
