// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include "regions.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bounds.h"

#define PCI_COMMAND		4
#define PCI_COMMAND_MASTER	4

static struct regions *of(struct usrdrv_dev *dev)
{
	return (struct regions *)dev;
}

static int failed(struct regions *r)
{
	if (errno == ENODEV)
		r->dev.gone = 1;
	return -errno;
}

/* The mapped register, or NULL. The region and its end were checked. */
static volatile void *mapped(const struct regions *r, unsigned int region, uint64_t offset)
{
	if (region >= USRDRV_NUM_BARS || !r->dev.bar[region].map)
		return NULL;
	return (uint8_t *)r->dev.bar[region].map + offset;
}

static int check(const struct regions *r, unsigned int region, uint64_t offset, unsigned int width)
{
	return bounds_check(&r->dev, r->config_size, region, offset, width);
}

static int get(struct regions *r, unsigned int region, uint64_t offset, unsigned int width, uint64_t *value)
{
	volatile void *at = mapped(r, region, offset);
	ssize_t got;

	*value = 0;
	if (at) {
		*value = width == 1 ? *(volatile uint8_t *)at :
			 width == 2 ? *(volatile uint16_t *)at :
			 width == 4 ? *(volatile uint32_t *)at : *(volatile uint64_t *)at;
		return 0;
	}
	got = pread(r->fd, value, width, (off_t)(r->offset[region] + offset));
	return got < 0 ? failed(r) : got == (ssize_t)width ? 0 : -EIO;
}

static int put(struct regions *r, unsigned int region, uint64_t offset, unsigned int width, uint64_t value)
{
	volatile void *at = mapped(r, region, offset);
	ssize_t put;

	if (at) {
		if (width == 1)
			*(volatile uint8_t *)at = (uint8_t)value;
		else if (width == 2)
			*(volatile uint16_t *)at = (uint16_t)value;
		else if (width == 4)
			*(volatile uint32_t *)at = (uint32_t)value;
		else
			*(volatile uint64_t *)at = value;
		return 0;
	}
	put = pwrite(r->fd, &value, width, (off_t)(r->offset[region] + offset));
	return put < 0 ? failed(r) : put == (ssize_t)width ? 0 : -EIO;
}

int regions_write_list(struct usrdrv_dev *dev, const struct usrdrv_write *w, unsigned int n)
{
	struct regions *r = of(dev);
	int ret = 0;

	/* What is in DMA memory is there before the device is told to look. */
	__atomic_thread_fence(__ATOMIC_RELEASE);
	for (unsigned int i = 0; i < n; i++) {
		int err = check(r, w[i].region, w[i].offset, w[i].width);

		if (!err)
			err = put(r, w[i].region, w[i].offset, w[i].width, w[i].value);
		ret = ret ? ret : err;
	}
	return ret;
}

int regions_read(struct usrdrv_dev *dev, const struct usrdrv_write *w, unsigned int n, unsigned int region,
		   uint64_t offset, unsigned int width, uint64_t *value)
{
	struct regions *r = of(dev);
	int ret = n ? regions_write_list(dev, w, n) : 0, err = check(r, region, offset, width);

	if (!err)
		err = get(r, region, offset, width, value);
	else
		*value = 0;
	/* What the device put into memory before is read after. */
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return ret ? ret : err;
}

int regions_read_rep(struct usrdrv_dev *dev, unsigned int region, uint64_t offset, unsigned int width,
		       void *buf, unsigned int count)
{
	uint8_t *p = buf;
	int ret = check(of(dev), region, offset, width);

	for (; count && !ret; count--, p += width) {
		uint64_t value;

		ret = get(of(dev), region, offset, width, &value);
		memcpy(p, &value, width);
	}
	return ret;
}

int regions_write_rep(struct usrdrv_dev *dev, unsigned int region, uint64_t offset, unsigned int width,
			const void *buf, unsigned int count)
{
	const uint8_t *p = buf;
	int ret = check(of(dev), region, offset, width);

	for (; count && !ret; count--, p += width) {
		uint64_t value = 0;

		memcpy(&value, p, width);
		ret = put(of(dev), region, offset, width, value);
	}
	return ret;
}

/* Map a memory BAR; without a mapping it is accessed through the file. */
void regions_map(struct regions *r, unsigned int bar)
{
	struct usrdrv_bar *b = &r->dev.bar[bar];
	void *map = mmap(NULL, b->size, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, (off_t)r->offset[bar]);

	if (map != MAP_FAILED)
		b->map = map;
}

void regions_unmap(struct regions *r)
{
	for (unsigned int i = 0; i < USRDRV_NUM_BARS; i++) {
		if (r->dev.bar[i].map)
			munmap(r->dev.bar[i].map, r->dev.bar[i].size);
		r->dev.bar[i].map = NULL;
	}
}

/* Take bus mastering away. */
void regions_no_master(struct regions *r)
{
	uint64_t command;

	if (!regions_read(&r->dev, NULL, 0, USRDRV_REGION_CONFIG, PCI_COMMAND, 2, &command))
		put(r, USRDRV_REGION_CONFIG, PCI_COMMAND, 2, command & ~(uint64_t)PCI_COMMAND_MASTER);
}
