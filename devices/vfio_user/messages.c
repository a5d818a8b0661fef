// SPDX-License-Identifier: MIT
/*
 * What each vfio-user message asks for. Every length, count, offset and
 * descriptor in one is checked here: the peer is hostile.
 */
#include "server.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The next descriptor of the message in hand, or -1. */
int vu_take_fd(struct vu_server *s)
{
	int fd = s->fds[0];

	if (!s->nfds || s->fd_end[0] > s->message_end)
		return -1;
	s->nfds--;
	memmove(s->fds, s->fds + 1, s->nfds * sizeof(s->fds[0]));
	memmove(s->fd_end, s->fd_end + 1, s->nfds * sizeof(s->fd_end[0]));
	return fd;
}

static uint32_t bar_size(const struct vu_server *s, uint32_t region)
{
	if (region == VU_CONFIG_REGION)
		return USRDRV_MODEL_CONFIG_SIZE;
	return region < 6 ? s->model->bar[region].size : 0;
}

/* One access of any length, as naturally aligned ones of up to 4 bytes. */
static int access_region(struct vu_server *s, const struct vu_region_access *a, uint8_t *data, int write)
{
	const struct usrdrv_model_ops *ops = s->model->ops;
	uint32_t size = bar_size(s, a->region);
	uint64_t at = a->offset, end;

	if (!a->count || a->count > VU_MAX_XFER || a->offset >= size || a->count > size - a->offset)
		return -EINVAL;
	for (end = at + a->count; at < end;) {
		unsigned int width = 4;
		uint32_t value = 0;

		while (at % width || width > end - at)
			width /= 2;
		if (write) {
			memcpy(&value, data, width);
			ops->write(s->model, a->region, (uint32_t)at, width, value);
		} else {
			value = ops->read(s->model, a->region, (uint32_t)at, width);
			memcpy(data, &value, width);
		}
		at += width;
		data += width;
	}
	if (a->region != VU_CONFIG_REGION)
		vu_irq_touched(&s->irq);
	return 0;
}

/* Replies: bytes after the header, or -errno. `in` is the payload, `len` its size, `out` has room enough. */

static int do_version(struct vu_server *s, const uint8_t *in, size_t len, uint8_t *out)
{
	struct vu_version v;

	if (len < sizeof(v))
		return -EINVAL;
	memcpy(&v, in, sizeof(v));
	if (s->negotiated || v.major != VU_VERSION_MAJOR)
		return -EINVAL;
	if (len > sizeof(v) && in[len - 1])
		return -EINVAL;
	s->negotiated = 1;
	v.minor = VU_VERSION_MINOR;
	memcpy(out, &v, sizeof(v));
	return (int)sizeof(v) + 1 +
	       sprintf((char *)out + sizeof(v),
		       "{\"capabilities\":{\"max_msg_fds\":%d,\"max_data_xfer_size\":%u,\"write_multiple\":true}}",
		       VU_MAX_FDS, VU_MAX_XFER);
}

static int do_dma_map(struct vu_server *s, const uint8_t *in, size_t len)
{
	struct vu_dma_map m;
	int fd, ret;

	if (len != sizeof(m))
		return -EINVAL;
	memcpy(&m, in, sizeof(m));
	fd = vu_take_fd(s);
	ret = vu_dma_map(&s->dma, fd, &m);
	if (fd >= 0)
		close(fd);
	return ret;
}

static int do_dma_unmap(struct vu_server *s, const uint8_t *in, size_t len, uint8_t *out)
{
	struct vu_dma_unmap m;
	int ret;

	if (len < sizeof(m))
		return -EINVAL;
	memcpy(&m, in, sizeof(m));
	if (m.flags & ~2u || (m.flags & 2 && (m.address || m.size)))
		return -EINVAL;
	ret = vu_dma_unmap(&s->dma, m.address, m.size, !!(m.flags & 2));
	if (ret)
		return ret;
	memcpy(out, &m, sizeof(m));
	return sizeof(m);
}

static int do_get_info(const uint8_t *in, size_t len, uint8_t *out)
{
	const struct vu_device_info info = {
		.argsz = sizeof(info), .flags = 3, .regions = VU_REGIONS, .irqs = VU_IRQS,
	};
	uint32_t argsz;

	if (len < sizeof(argsz))
		return -EINVAL;
	memcpy(&argsz, in, sizeof(argsz));
	if (argsz < sizeof(info))
		return -EINVAL;
	memcpy(out, &info, sizeof(info));
	return sizeof(info);
}

static int do_region_info(struct vu_server *s, const uint8_t *in, size_t len, uint8_t *out)
{
	struct vu_region_info info;

	if (len < sizeof(info))
		return -EINVAL;
	memcpy(&info, in, sizeof(info));
	if (info.argsz < sizeof(info) || info.index >= VU_REGIONS)
		return -EINVAL;
	info = (struct vu_region_info){
		.argsz = sizeof(info), .index = info.index, .size = bar_size(s, info.index),
	};
	info.flags = info.size ? 3 : 0;
	memcpy(out, &info, sizeof(info));
	return sizeof(info);
}

static int do_irq_info(const uint8_t *in, size_t len, uint8_t *out)
{
	struct vu_irq_info info;

	if (len < sizeof(info))
		return -EINVAL;
	memcpy(&info, in, sizeof(info));
	if (info.argsz < sizeof(info) || info.index >= VU_IRQS)
		return -EINVAL;
	/* INTx: eventfd, maskable, masked by each trigger */
	info.flags = info.index ? 0 : 7;
	info.count = info.index ? 0 : 1;
	memcpy(out, &info, sizeof(info));
	return sizeof(info);
}

static int do_set_irqs(struct vu_server *s, const uint8_t *in, size_t len)
{
	struct vu_irq_set set;
	uint32_t data, action;
	int on = 1;

	if (len < sizeof(set))
		return -EINVAL;
	memcpy(&set, in, sizeof(set));
	data = set.flags & 0x07;
	action = set.flags & 0x38;
	if (set.index || set.start > 1 || set.count > 1 - set.start || set.flags & ~0x3fu ||
	    (data != VU_IRQ_DATA_NONE && data != VU_IRQ_DATA_BOOL && data != VU_IRQ_DATA_EVENTFD) ||
	    (action != VU_IRQ_MASK && action != VU_IRQ_UNMASK && action != VU_IRQ_TRIGGER))
		return -EINVAL;
	if (data == VU_IRQ_DATA_BOOL) {
		if (len < sizeof(set) + set.count)
			return -EINVAL;
		on = set.count && in[sizeof(set)];
	}
	if (data == VU_IRQ_DATA_EVENTFD && action != VU_IRQ_TRIGGER)
		return -EOPNOTSUPP;

	if (action == VU_IRQ_TRIGGER && (data == VU_IRQ_DATA_EVENTFD || !set.count))
		return vu_irq_connect(&s->irq, set.count ? vu_take_fd(s) : -1);
	if (set.count && on)
		vu_irq_act(&s->irq, action);
	return 0;
}

static int do_region_read(struct vu_server *s, const uint8_t *in, size_t len, uint8_t *out)
{
	struct vu_region_access a;
	int ret;

	if (len != sizeof(a))
		return -EINVAL;
	memcpy(&a, in, sizeof(a));
	ret = access_region(s, &a, out + sizeof(a), 0);
	if (ret)
		return ret;
	memcpy(out, &a, sizeof(a));
	return (int)(sizeof(a) + a.count);
}

static int do_region_write(struct vu_server *s, uint8_t *in, size_t len, uint8_t *out)
{
	struct vu_region_access a;
	int ret;

	if (len < sizeof(a))
		return -EINVAL;
	memcpy(&a, in, sizeof(a));
	if (len - sizeof(a) != a.count)
		return -EINVAL;
	ret = access_region(s, &a, in + sizeof(a), 1);
	if (ret)
		return ret;
	memcpy(out, &a, sizeof(a));
	return sizeof(a);
}

static int do_write_multi(struct vu_server *s, const uint8_t *in, size_t len, uint8_t *out)
{
	struct vu_write_multi m;
	struct vu_multi w;
	int ret;

	if (len < sizeof(m))
		return -EINVAL;
	memcpy(&m, in, sizeof(m));
	if (m.count != (len - sizeof(m)) / sizeof(w) || (len - sizeof(m)) % sizeof(w))
		return -EINVAL;
	for (uint64_t i = 0; i < m.count; i++) {
		struct vu_region_access a;

		memcpy(&w, in + sizeof(m) + i * sizeof(w), sizeof(w));
		if (w.count > sizeof(w.data))
			return -EINVAL;
		a = (struct vu_region_access){ .offset = w.offset, .region = w.region, .count = w.count };
		ret = access_region(s, &a, w.data, 1);
		if (ret)
			return ret;
	}
	memcpy(out, &m, sizeof(m));
	return sizeof(m);
}

/**
 * vu_dispatch - do what a message asks
 * @s:		server
 * @command:	from its header
 * @in:		payload; clobbered
 * @len:	its bytes
 * @out:	room for the payload of the reply
 *
 * Return: bytes of the reply's payload, or -errno.
 */
int vu_dispatch(struct vu_server *s, uint16_t command, uint8_t *in, size_t len, uint8_t *out)
{
	if (!s->negotiated && command != VU_VERSION)
		return -EINVAL;
	switch (command) {
	case VU_VERSION:
		return do_version(s, in, len, out);
	case VU_DMA_MAP:
		return do_dma_map(s, in, len);
	case VU_DMA_UNMAP:
		return do_dma_unmap(s, in, len, out);
	case VU_GET_INFO:
		return do_get_info(in, len, out);
	case VU_GET_REGION_INFO:
		return do_region_info(s, in, len, out);
	case VU_GET_IRQ_INFO:
		return do_irq_info(in, len, out);
	case VU_SET_IRQS:
		return do_set_irqs(s, in, len);
	case VU_REGION_READ:
		return do_region_read(s, in, len, out);
	case VU_REGION_WRITE:
		return do_region_write(s, in, len, out);
	case VU_REGION_WRITE_MULTI:
		return do_write_multi(s, in, len, out);
	case VU_RESET:
		s->model->ops->reset(s->model);
		return 0;
	default:
		return -EOPNOTSUPP;
	}
}
