// SPDX-License-Identifier: MIT
/*
 * Sits between a driver and its device and, while armed, sends the controller
 * to a PRD table at an address that was never mapped. In C: the driver's
 * threads may not wait for Python here.
 */
#include <stdatomic.h>
#include <string.h>

#include "usrdrv/dev.h"

#define STRAY		0x66660000u
#define MAX_LIST	64

static const struct usrdrv_dev_ops *real;
static struct usrdrv_dev_ops ops;
static atomic_int armed, diverted;

/* BAR 5, the PRD table address of both channels (hardware document, section 5). */
static int is_prd_table(const struct usrdrv_write *w)
{
	return w->region == 5 && w->width == 4 && (w->offset == 4 || w->offset == 12);
}

static const struct usrdrv_write *divert(struct usrdrv_write *to, const struct usrdrv_write *from, unsigned int n)
{
	if (!armed || n > MAX_LIST)
		return from;
	for (unsigned int i = 0; i < n; i++) {
		to[i] = from[i];
		if (is_prd_table(&to[i])) {
			to[i].value = STRAY;
			diverted++;
		}
	}
	return to;
}

static int write_list(struct usrdrv_dev *dev, const struct usrdrv_write *w, unsigned int n)
{
	struct usrdrv_write list[MAX_LIST];

	return real->write_list(dev, divert(list, w, n), n);
}

static int read(struct usrdrv_dev *dev, const struct usrdrv_write *w, unsigned int n, unsigned int region,
		uint64_t offset, unsigned int width, uint64_t *value)
{
	struct usrdrv_write list[MAX_LIST];

	return real->read(dev, divert(list, w, n), n, region, offset, width, value);
}

void stray_install(struct usrdrv_dev *dev)
{
	real = dev->ops;
	ops = *real;
	ops.write_list = write_list;
	ops.read = read;
	dev->ops = &ops;
}

void stray_arm(int on)
{
	armed = on;
}

int stray_count(void)
{
	return diverted;
}
