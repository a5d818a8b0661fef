// SPDX-License-Identifier: MIT
/*
 * The VFIO backend: a PCI function of this machine, behind its IOMMU.
 * Registers, configuration space and the interrupt are had from the device's
 * file (Linux, Documentation/driver-api/vfio.rst, include/uapi/linux/vfio.h).
 *
 * Getting at the file (group, container, errors worth telling) is Python's,
 * usrdrv/vfio.py.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/vfio.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "areas.h"
#include "backends.h"
#include "regions.h"

#define PCI_BASE_ADDRESS_0	0x10
#define MAX_VECTORS		2048	/* of MSI-X (PCI 3.0, 6.8.2.3) */

struct vfio {
	struct regions r;	/* its file is the device's */
	int container;
	int group;
	pthread_mutex_t lock;				/* areas, interrupts */
	struct areas areas;				/* those without memory are not ours to use */
};

static struct vfio *of(struct usrdrv_dev *dev)
{
	return (struct vfio *)dev;
}

static int failed(struct vfio *v)
{
	if (errno == ENODEV)
		v->r.dev.gone = 1;
	return -errno;
}

/* cpu: memory of the caller's, or NULL: new one. */
static int do_dma_map(struct usrdrv_dev *dev, void *cpu, size_t len, size_t align, uint64_t limit,
		      struct usrdrv_dma *dma)
{
	struct vfio *v = of(dev);
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map), .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
	};
	struct area a = { .cpu = cpu, .foreign = cpu != NULL };
	int at, ret;

	pthread_mutex_lock(&v->lock);
	at = areas_place(&v->areas, len, align, limit, &a);
	ret = at < 0 ? at : 0;
	if (!ret && !a.foreign) {
		a.cpu = mmap(NULL, a.len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		ret = a.cpu == MAP_FAILED ? -errno : 0;
	}
	if (!ret) {
		/* A child's writes must not leave us with copies that the device does not see. */
		madvise(a.cpu, a.len, MADV_DONTFORK);
		map.vaddr = (uintptr_t)a.cpu;
		map.iova = a.bus;
		map.size = a.len;
		if (ioctl(v->container, VFIO_IOMMU_MAP_DMA, &map)) {
			ret = -errno;
			if (!a.foreign)
				munmap(a.cpu, a.len);
		}
	}
	if (!ret) {
		areas_insert(&v->areas, at, &a);
		*dma = (struct usrdrv_dma){ .cpu = a.cpu, .bus = a.bus, .len = a.len };
	}
	pthread_mutex_unlock(&v->lock);
	return ret;
}

static int do_dma_alloc(struct usrdrv_dev *dev, size_t len, size_t align, uint64_t limit, struct usrdrv_dma *dma)
{
	return do_dma_map(dev, NULL, len, align, limit, dma);
}

static void withdraw(struct vfio *v, struct area *a)
{
	struct vfio_iommu_type1_dma_unmap unmap = { .argsz = sizeof(unmap), .iova = a->bus, .size = a->len };

	if (a->cpu) {
		ioctl(v->container, VFIO_IOMMU_UNMAP_DMA, &unmap);
		if (!a->foreign)
			munmap(a->cpu, a->len);
	}
}

static void do_dma_free(struct usrdrv_dev *dev, struct usrdrv_dma *dma)
{
	struct vfio *v = of(dev);
	struct area *a;

	pthread_mutex_lock(&v->lock);
	a = areas_find(&v->areas, dma->bus);
	if (a) {
		withdraw(v, a);
		areas_remove(&v->areas, a);
	}
	pthread_mutex_unlock(&v->lock);
	memset(dma, 0, sizeof(*dma));
}

/*
 * action: VFIO_IRQ_SET_ACTION_*. fds: the eventfds of vectors 0 to n - 1, which the kernel signals, or does the
 * action upon; NULL: it does it now, or, to the trigger of 0 vectors, has no interrupts any more.
 */
static int set_irqs(struct vfio *v, unsigned int index, unsigned int action, const int *fds, unsigned int n)
{
	union {
		struct vfio_irq_set set;
		uint8_t space[sizeof(struct vfio_irq_set) + MAX_VECTORS * sizeof(*fds)];
	} arg;
	size_t size = fds ? n * sizeof(*fds) : 0;
	int ret;

	arg.set = (struct vfio_irq_set){
		.argsz = (uint32_t)(sizeof(arg.set) + size), .index = index, .count = n,
		.flags = action | (fds ? VFIO_IRQ_SET_DATA_EVENTFD : VFIO_IRQ_SET_DATA_NONE),
	};
	if (size)
		memcpy(arg.space + sizeof(arg.set), fds, size);
	ret = ioctl(v->r.fd, VFIO_DEVICE_SET_IRQS, &arg);
	return ret < 0 ? -errno : ret ? -ENOSPC : 0;	/* above 0: so many vectors could be had */
}

static void disconnect(struct vfio *v)
{
	if (v->r.dev.irq_kind != USRDRV_IRQ_KINDS)
		set_irqs(v, v->r.dev.irq_kind, VFIO_IRQ_SET_ACTION_TRIGGER, NULL, 0);
	v->r.dev.irq_kind = USRDRV_IRQ_KINDS;
}

/* Kinds have VFIO's numbers. All vectors at once: kernels before 6.5, and some interrupt controllers, add none later. */
static int do_irq_connect(struct usrdrv_dev *dev, unsigned int kind, const int *fds, unsigned int n)
{
	struct vfio *v = of(dev);
	int ret = 0;

	if (kind >= USRDRV_IRQ_KINDS || n > dev->vectors[kind])
		return -EINVAL;
	pthread_mutex_lock(&v->lock);
	disconnect(v);
	if (n)
		ret = set_irqs(v, kind, VFIO_IRQ_SET_ACTION_TRIGGER, fds, n);
	if (n && !ret)
		dev->irq_kind = kind;
	if (dev->irq_kind == USRDRV_IRQ_INTX) {
		ret = set_irqs(v, kind, VFIO_IRQ_SET_ACTION_UNMASK, &dev->unmask_fd, 1);
		if (ret)
			disconnect(v);
	}
	pthread_mutex_unlock(&v->lock);
	return ret;
}

static int do_irq_unmask(struct usrdrv_dev *dev, const struct usrdrv_write *w, unsigned int n)
{
	struct vfio *v = of(dev);
	int ret = n ? regions_write_list(dev, w, n) : 0, err;

	if (dev->irq_kind != USRDRV_IRQ_INTX)
		return ret;
	err = set_irqs(v, USRDRV_IRQ_INTX, VFIO_IRQ_SET_ACTION_UNMASK, NULL, 1);
	if (err == -ENODEV)
		dev->gone = 1;
	return err ? err : ret;
}

static int do_reset(struct usrdrv_dev *dev)
{
	struct vfio *v = of(dev);

	return ioctl(v->r.fd, VFIO_DEVICE_RESET) ? failed(v) : 0;
}

static void quiesce(struct vfio *v)
{
	regions_no_master(&v->r);
	do_reset(&v->r.dev);	/* a function that knows no reset has at least lost the bus */
}

static void do_close(struct usrdrv_dev *dev)
{
	struct vfio *v = of(dev);

	quiesce(v);
	regions_unmap(&v->r);
	for (unsigned int i = 0; i < v->areas.n; i++)
		withdraw(v, &v->areas.area[i]);
	close(v->r.fd);
	close(v->group);
	close(v->container);
	if (dev->irq_fd >= 0)
		close(dev->irq_fd);
	if (dev->unmask_fd >= 0)
		close(dev->unmask_fd);
	if (dev->hangup_fd >= 0)
		close(dev->hangup_fd);
	pthread_mutex_destroy(&v->lock);
	free(v);
}

static const struct usrdrv_dev_ops ops = {
	.read = regions_read, .write_list = regions_write_list, .read_rep = regions_read_rep,
	.write_rep = regions_write_rep,
	.dma_alloc = do_dma_alloc, .dma_free = do_dma_free, .dma_map = do_dma_map,
	.irq_connect = do_irq_connect, .irq_unmask = do_irq_unmask, .reset = do_reset,
	.close = do_close,
};

/* Size, kind (PCI 2.2, 6.2.5.1) and, where the kernel allows it, a mapping. */
static int learn_bar(struct vfio *v, unsigned int i, const struct vfio_region_info *info)
{
	struct usrdrv_bar *bar = &v->r.dev.bar[i];
	uint32_t base;
	int ret = usrdrv_read(&v->r.dev, USRDRV_REGION_CONFIG, PCI_BASE_ADDRESS_0 + 4 * i, 4, &base);

	if (ret || !info->size)
		return ret;
	bar->size = info->size;
	if (base & 1) {
		bar->flags = USRDRV_BAR_IO;
		return 0;
	}
	bar->flags = ((base & 6) == 4 ? USRDRV_BAR_64 : 0) | (base & 8 ? USRDRV_BAR_PREFETCH : 0);
	if (!(info->flags & VFIO_REGION_INFO_FLAG_MMAP))
		return 0;	/* a BAR smaller than a page may share it with others */
	regions_map(&v->r, i);
	return 0;
}

static int learn_regions(struct vfio *v)
{
	struct vfio_region_info info[USRDRV_REGION_CONFIG + 1];
	int ret = 0;

	for (unsigned int i = 0; i <= USRDRV_REGION_CONFIG; i++) {
		info[i] = (struct vfio_region_info){ .argsz = sizeof(*info), .index = i };
		if (!ioctl(v->r.fd, VFIO_DEVICE_GET_REGION_INFO, &info[i]))
			v->r.offset[i] = info[i].offset;
		else if (i == USRDRV_REGION_CONFIG)
			return -errno;
		else
			info[i].size = 0;
	}
	v->r.config_size = info[USRDRV_REGION_CONFIG].size;
	for (unsigned int i = 0; i < USRDRV_NUM_BARS && !ret; i++)
		ret = learn_bar(v, i, &info[i]);
	return ret;
}

/* Note what lies between the ranges that the IOMMU can use, below 4 GiB, as taken. */
static int reserve(struct vfio *v, const struct vfio_iommu_type1_info_cap_iova_range *cap)
{
	uint64_t from = 0;

	for (uint32_t i = 0; i <= cap->nr_iovas && from <= UINT32_MAX; i++) {
		uint64_t to = i < cap->nr_iovas ? cap->iova_ranges[i].start : UINT64_MAX;

		if (to > (uint64_t)UINT32_MAX + 1)
			to = (uint64_t)UINT32_MAX + 1;
		if (to > from) {
			struct area a = { .bus = from, .len = to - from };

			if (v->areas.n == MAX_AREAS / 2)
				return -ENOSPC;
			areas_insert(&v->areas, (int)v->areas.n, &a);
		}
		if (i < cap->nr_iovas)
			from = cap->iova_ranges[i].end + 1;
		if (!from)
			break;	/* the range went up to the last address */
	}
	return 0;
}

static int learn_bus_addresses(struct vfio *v)
{
	struct vfio_iommu_type1_info *info = calloc(1, 4096);
	int ret = 0;

	if (!info)
		return -ENOMEM;
	info->argsz = 4096;
	if (ioctl(v->container, VFIO_IOMMU_GET_INFO, info)) {
		ret = -errno;
	} else if (info->flags & VFIO_IOMMU_INFO_CAPS && info->argsz <= 4096) {
		for (uint32_t at = info->cap_offset; at && !ret;) {
			struct vfio_info_cap_header *h = (void *)((uint8_t *)info + at);

			if (h->id == VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE)
				ret = reserve(v, (void *)h);
			at = h->next;
		}
	}
	free(info);
	return ret;
}

/* How many interrupts there are of each kind; INTx is connected. */
static int learn_interrupts(struct vfio *v)
{
	struct usrdrv_dev *dev = &v->r.dev;

	for (unsigned int kind = 0; kind < USRDRV_IRQ_KINDS; kind++) {
		struct vfio_irq_info info = { .argsz = sizeof(info), .index = kind };
		uint32_t wanted = VFIO_IRQ_INFO_EVENTFD;

		if (kind == USRDRV_IRQ_INTX)
			wanted |= VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED;
		if (ioctl(v->r.fd, VFIO_DEVICE_GET_IRQ_INFO, &info))
			return -errno;
		if ((info.flags & wanted) == wanted)
			dev->vectors[kind] = info.count < MAX_VECTORS ? info.count : MAX_VECTORS;
	}
	/* The kernel asks for the device back: it is unplugged, or unbound. Older kernels cannot. */
	set_irqs(v, VFIO_PCI_REQ_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER, &dev->hangup_fd, 1);
	return do_irq_connect(dev, USRDRV_IRQ_INTX, &dev->irq_fd, dev->vectors[USRDRV_IRQ_INTX]);
}

/**
 * usrdrv_vfio_open - make a device of a VFIO device's file
 * @container:	with its IOMMU set to type 1 v2
 * @group:	of the device, in @container
 * @device:	the device's file
 * @out:	result; it closes all three files when it is closed
 *
 * Return: 0 or -errno. The files are closed after an error too.
 */
int usrdrv_vfio_open(int container, int group, int device, struct usrdrv_dev **out)
{
	struct vfio *v = calloc(1, sizeof(*v));
	int ret;

	if (!v) {
		close(device);
		close(group);
		close(container);
		return -ENOMEM;
	}
	v->container = container;
	v->group = group;
	v->r.fd = device;
	pthread_mutex_init(&v->lock, NULL);
	v->r.dev.ops = &ops;
	v->r.dev.irq_kind = USRDRV_IRQ_KINDS;
	v->r.dev.irq_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	v->r.dev.claim_fd = -1;
	v->r.dev.unmask_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	v->r.dev.hangup_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	v->r.dev.hangup_events = EPOLLIN;
	ret = v->r.dev.irq_fd < 0 || v->r.dev.unmask_fd < 0 || v->r.dev.hangup_fd < 0 ? -errno : learn_regions(v);
	if (!ret)
		ret = learn_bus_addresses(v);
	if (!ret)
		ret = learn_interrupts(v);
	if (ret)
		do_close(&v->r.dev);
	else
		*out = &v->r.dev;
	return ret;
}
