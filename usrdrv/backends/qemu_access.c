// SPDX-License-Identifier: MIT
/* Registers and configuration space of a device of QEMU's. The caller has its lock. */
#include "qemu_device.h"

#include <errno.h>

#include "bounds.h"

#define CONFIG_SIZE	4096

/* -ENODEV is for good. */
int qemu_result(struct qemu *q, int ret)
{
	if (ret == -ENODEV)
		q->dev.gone = 1;
	return ret;
}

/* Where a register is in the machine. */
static int locate(struct qemu *q, unsigned int region, uint64_t offset, unsigned int width, uint64_t *at, int *port)
{
	int ret = bounds_check(&q->dev, CONFIG_SIZE, region, offset, width);

	*at = *port = 0;
	if (ret)
		return ret;
	if (region == USRDRV_REGION_CONFIG) {
		*at = q->machine.config + offset;
	} else {
		*at = q->machine.bar[region].base + offset;
		*port = !!(q->dev.bar[region].flags & USRDRV_BAR_IO);
	}
	return 0;
}

int qemu_post(struct qemu *q, const struct usrdrv_write *w, unsigned int n)
{
	int ret = 0;

	for (; n--; w++) {
		uint64_t at;
		int port, err = locate(q, w->region, w->offset, w->width, &at, &port);

		if (!err)
			err = qemu_result(q, qtest_write(&q->talk, port, w->width, at, w->value));
		ret = ret ? ret : err;
	}
	return ret;
}

int qemu_ask(struct qemu *q, unsigned int region, uint64_t offset, unsigned int width, uint64_t *value)
{
	uint64_t at;
	int port, ret = locate(q, region, offset, width, &at, &port);

	*value = 0;
	if (!ret)
		ret = qtest_read(&q->talk, port, width, at);
	if (!ret)
		ret = qtest_settle(&q->talk);
	if (!ret)
		*value = q->talk.value;
	return qemu_result(q, ret);
}

int qemu_get_config(struct qemu *q, unsigned int offset, unsigned int width, uint32_t *value)
{
	uint64_t wide;
	int ret = qemu_ask(q, USRDRV_REGION_CONFIG, offset, width, &wide);

	*value = (uint32_t)wide;
	return ret;
}

int qemu_set_config(struct qemu *q, unsigned int offset, unsigned int width, uint32_t value)
{
	const struct usrdrv_write w = {
		.region = USRDRV_REGION_CONFIG, .offset = offset, .width = (uint8_t)width, .value = value,
	};

	return qemu_post(q, &w, 1);
}

/* Change bits of a register of 16 bits. */
int qemu_change_config(struct qemu *q, unsigned int offset, uint32_t clear, uint32_t set)
{
	uint32_t value;
	int ret = qemu_get_config(q, offset, 2, &value);

	return ret ? ret : qemu_set_config(q, offset, 2, (value & ~clear) | set);
}
