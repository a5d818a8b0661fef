// SPDX-License-Identifier: MIT
/*
 * The usrdrv backend: a PCI function of this machine, through the system calls
 * of usrdrv-patch. It needs no IOMMU. All that the kernel knows of the function
 * hangs off one file, and is undone when that is closed, or we are killed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "areas.h"
#include "backends.h"
#include "regions.h"
#include "usr_pci.h"

/* x86-64 and the generic table */
#ifndef __NR_usr_pci_open
#define __NR_usr_pci_open	548
#define __NR_usr_pci_map	549
#endif

struct usr {
	struct regions r;
	pthread_mutex_t lock;		/* areas, kind of interrupts */
	struct areas areas;		/* mapped by us */
};

static struct usr *of(struct usrdrv_dev *dev)
{
	return (struct usr *)dev;
}

static int control(struct usr *u, unsigned int op, void *arg, size_t size)
{
	if (!syscall(__NR_usr_pci_map, u->r.fd, op, arg, size))
		return 0;
	if (errno == ENODEV)
		u->r.dev.gone = 1;
	return -errno;
}

/* Note what was mapped, for do_close(). */
static int note(struct usr *u, const struct area *a)
{
	int at = 0, ret = -ENOSPC;

	pthread_mutex_lock(&u->lock);
	if (u->areas.n < MAX_AREAS) {
		while (at < (int)u->areas.n && u->areas.area[at].bus < a->bus)
			at++;
		areas_insert(&u->areas, at, a);
		ret = 0;
	}
	pthread_mutex_unlock(&u->lock);
	return ret;
}

static int do_dma_alloc(struct usrdrv_dev *dev, size_t len, size_t align, uint64_t limit, struct usrdrv_dma *dma)
{
	struct usr *u = of(dev);
	/* It is aligned to the power of two that its length fits in. */
	struct usr_pci_dma_alloc alloc = { .len = len < align ? align : len };
	struct area a;
	int ret;

	if (!len || align & (align - 1))
		return -EINVAL;
	ret = control(u, USR_PCI_DMA_ALLOC, &alloc, sizeof(alloc));
	if (ret)
		return ret;
	a = (struct area){ .bus = alloc.bus, .len = alloc.len, .cpu = MAP_FAILED };
	ret = alloc.bus + len - 1 > limit ? -ENOSPC : 0;
	if (!ret) {
		a.cpu = mmap(NULL, a.len, PROT_READ | PROT_WRITE, MAP_SHARED, u->r.fd, (off_t)alloc.offset);
		ret = a.cpu == MAP_FAILED ? -errno : note(u, &a);
	}
	if (ret) {
		struct usr_pci_dma_id id = { .id = alloc.id };

		if (a.cpu == MAP_FAILED)
			control(u, USR_PCI_DMA_FREE, &id, sizeof(id));
		else
			munmap(a.cpu, a.len);
		return ret;
	}
	*dma = (struct usrdrv_dma){ .cpu = a.cpu, .bus = a.bus, .len = a.len, .id = (int)alloc.id };
	return 0;
}

static void do_dma_free(struct usrdrv_dev *dev, struct usrdrv_dma *dma)
{
	struct usr *u = of(dev);
	struct area *a;

	pthread_mutex_lock(&u->lock);
	a = areas_find(&u->areas, dma->bus);
	if (a) {
		munmap(a->cpu, a->len);		/* the kernel frees it */
		areas_remove(&u->areas, a);
	}
	pthread_mutex_unlock(&u->lock);
	memset(dma, 0, sizeof(*dma));
}

/* The kernel has switched the earlier ones off when it fails. */
static int do_irq_connect(struct usrdrv_dev *dev, unsigned int kind, const int *fds, unsigned int n)
{
	struct usr *u = of(dev);
	struct usr_pci_irq irq = { .kind = USR_PCI_IRQ_NONE, .eventfd = -1, .unmask = -1 };
	int ret;

	if (kind >= USRDRV_IRQ_KINDS || n > dev->vectors[kind])
		return -EINVAL;
	if (n) {
		irq.kind = kind == USRDRV_IRQ_INTX ? USR_PCI_IRQ_INTX : USR_PCI_IRQ_MSI;
		irq.eventfd = fds[0];
		irq.unmask = kind == USRDRV_IRQ_INTX ? dev->unmask_fd : -1;
	}
	pthread_mutex_lock(&u->lock);
	ret = control(u, USR_PCI_IRQ_SET, &irq, sizeof(irq));
	dev->irq_kind = n && !ret ? kind : USRDRV_IRQ_KINDS;
	pthread_mutex_unlock(&u->lock);
	return ret;
}

static int do_irq_unmask(struct usrdrv_dev *dev, const struct usrdrv_write *w, unsigned int n)
{
	int ret = n ? regions_write_list(dev, w, n) : 0;
	int err = dev->irq_kind == USRDRV_IRQ_INTX ? control(of(dev), USR_PCI_IRQ_UNMASK, NULL, 0) : 0;

	return err ? err : ret;
}

static int do_reset(struct usrdrv_dev *dev)
{
	return control(of(dev), USR_PCI_RESET, NULL, 0);
}

/* In this order: munmap() frees memory that the function must not use any more. */
static void do_close(struct usrdrv_dev *dev)
{
	struct usr *u = of(dev);

	if (u->r.fd >= 0) {
		regions_no_master(&u->r);
		do_reset(dev);	/* a function that knows no reset has at least lost the bus */
		regions_unmap(&u->r);
		for (unsigned int i = 0; i < u->areas.n; i++)
			munmap(u->areas.area[i].cpu, u->areas.area[i].len);
		close(u->r.fd);
	}
	if (dev->irq_fd >= 0)
		close(dev->irq_fd);
	if (dev->unmask_fd >= 0)
		close(dev->unmask_fd);
	pthread_mutex_destroy(&u->lock);
	free(u);
}

static const struct usrdrv_dev_ops ops = {
	.read = regions_read, .write_list = regions_write_list, .read_rep = regions_read_rep,
	.write_rep = regions_write_rep, .dma_alloc = do_dma_alloc, .dma_free = do_dma_free,
	.irq_connect = do_irq_connect, .irq_unmask = do_irq_unmask, .reset = do_reset, .close = do_close,
};

static int learn(struct usr *u)
{
	struct usr_pci_info info;
	int ret = control(u, USR_PCI_INFO, &info, sizeof(info));

	for (unsigned int i = 0; i <= USRDRV_REGION_CONFIG && !ret; i++) {
		const struct usr_pci_region *from = &info.region[i];
		struct usrdrv_bar *bar = &u->r.dev.bar[i];

		u->r.offset[i] = from->offset;
		if (i == USRDRV_REGION_CONFIG)
			u->r.config_size = from->size;
		if (i >= USRDRV_NUM_BARS || !from->size)
			continue;
		bar->size = from->size;
		bar->flags = (from->flags & USR_PCI_REGION_IO ? USRDRV_BAR_IO : 0) |
			     (from->flags & USR_PCI_REGION_64 ? USRDRV_BAR_64 : 0) |
			     (from->flags & USR_PCI_REGION_PREFETCH ? USRDRV_BAR_PREFETCH : 0);
		if (from->flags & USR_PCI_REGION_MMAP)
			regions_map(&u->r, i);
	}
	if (!ret) {
		u->r.dev.vectors[USRDRV_IRQ_INTX] = !!(info.flags & USR_PCI_HAS_INTX);
		u->r.dev.vectors[USRDRV_IRQ_MSI] = !!(info.flags & USR_PCI_HAS_MSI);
	}
	return ret;
}

/**
 * usrdrv_usr_available - tell whether this kernel has the system calls
 *
 * Return: 1 if so, else 0.
 */
int usrdrv_usr_available(void)
{
	return syscall(__NR_usr_pci_open, NULL, (size_t)0) < 0 && errno != ENOSYS;
}

/**
 * usrdrv_usr_open - claim a function through the usrdrv system calls
 * @domain:	PCI domain
 * @bus:	its number
 * @slot:	device on the bus
 * @function:	of the device
 * @out:	result
 *
 * Return: 0; -EPERM, -EACCES, -ENODEV, -EBUSY: of usr_pci_open(); -errno.
 */
int usrdrv_usr_open(unsigned int domain, unsigned int bus, unsigned int slot, unsigned int function,
		    struct usrdrv_dev **out)
{
	struct usr_pci_open_how how = {
		.domain = domain, .bus = (uint8_t)bus, .device = (uint8_t)slot, .function = (uint8_t)function,
		.flags = USR_PCI_CLOEXEC,
	};
	struct usr *u = calloc(1, sizeof(*u));
	int ret;

	if (!u)
		return -ENOMEM;
	pthread_mutex_init(&u->lock, NULL);
	u->r.dev.ops = &ops;
	u->r.dev.irq_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	u->r.dev.unmask_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	u->r.fd = u->r.dev.irq_fd < 0 || u->r.dev.unmask_fd < 0 ? -1 : (int)syscall(__NR_usr_pci_open, &how, sizeof(how));
	ret = u->r.fd < 0 ? -errno : learn(u);
	u->r.dev.claim_fd = u->r.dev.hangup_fd = u->r.fd;
	u->r.dev.hangup_events = EPOLLHUP;
	/* The claim has reset it, as with VFIO; some functions know no reset. */
	if (!ret)
		ret = do_irq_connect(&u->r.dev, USRDRV_IRQ_INTX, &u->r.dev.irq_fd, u->r.dev.vectors[USRDRV_IRQ_INTX]);
	if (ret)
		do_close(&u->r.dev);
	else
		*out = &u->r.dev;
	return ret;
}
