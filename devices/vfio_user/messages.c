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

static uint64_t region_size(const struct vu_server *s, uint32_t region)
{
	if (region == VU_CONFIG_REGION)
		return s->model->config_size;
	return region < USRDRV_NUM_BARS ? s->model->bar[region].size : 0;
}

/* One access of any length, as naturally aligned ones of up to 4 bytes. */
static int access_region(struct vu_server *s, const struct vu_region_access *a, uint8_t *data, int write)
{
	const struct usrdrv_model_ops *ops = s->model->ops;
	uint64_t size = region_size(s, a->region), at = a->offset, end;

	if (!a->count || a->count > VU_MAX_XFER || a->offset >= size || a->count > size - a->offset)
		return -EINVAL;
	for (end = at + a->count; at < end;) {
		unsigned int width = 4;
		uint32_t value = 0;

		while (at % width || width > end - at)
			width /= 2;
		if (write) {
			memcpy(&value, data, width);
			ops->write(s->model, a->region, at, width, value);
		} else {
			value = ops->read(s->model, a->region, at, width);
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
		.argsz = sizeof(info), .index = info.index, .size = region_size(s, info.index),
	};
	info.flags = info.size ? 3 : 0;
	memcpy(out, &info, sizeof(info));
	return sizeof(info);
}

/* Interrupts of a kind that the device has. */
static unsigned int interrupts(const struct vu_server *s, uint32_t index)
{
	return index < USRDRV_IRQ_KINDS ? s->model->vectors[index] : 0;
}

static int do_irq_info(struct vu_server *s, const uint8_t *in, size_t len, uint8_t *out)
{
	struct vu_irq_info info;

	if (len < sizeof(info))
		return -EINVAL;
	memcpy(&info, in, sizeof(info));
	if (info.argsz < sizeof(info) || info.index >= VU_IRQS)
		return -EINVAL;
	info.count = interrupts(s, info.index);
	info.flags = info.count ? VU_IRQ_INFO_EVENTFD : 0;
	if (info.count && info.index == USRDRV_IRQ_INTX)
		info.flags |= VU_IRQ_INFO_MASKABLE | VU_IRQ_INFO_AUTOMASKED;
	memcpy(out, &info, sizeof(info));
	return sizeof(info);
}

/**
 * vu_disconnect_irqs - signal no interrupts of any kind any more
 * @s:	server
 */
void vu_disconnect_irqs(struct vu_server *s)
{
	s->irq_kind = USRDRV_IRQ_KINDS;
	vu_irq_connect(&s->irq, -1);
	vu_vectors_connect(&s->vectors, 0, s->vectors.n, NULL);
}

/* A message has an eventfd for each interrupt of its range, or none: then they are taken away. */
static int connect_irqs(struct vu_server *s, const struct vu_irq_set *set)
{
	int fds[VU_MAX_FDS], fits = 1;
	unsigned int n = 0;

	for (int fd; (fd = vu_take_fd(s)) >= 0; n++) {
		fds[n] = fd;
		fits = fits && peer_signal_fits(fd);
	}
	/* of one kind at a time, as in VFIO */
	if (!fits || (n && n != set->count) || (s->irq_kind != USRDRV_IRQ_KINDS && s->irq_kind != set->index)) {
		while (n)
			close(fds[--n]);
		return -EINVAL;
	}
	s->irq_kind = set->index;
	if (set->index == USRDRV_IRQ_INTX)
		vu_irq_connect(&s->irq, n ? fds[0] : -1);
	else
		vu_vectors_connect(&s->vectors, set->start, set->count, n ? fds : NULL);
	return 0;
}

static int do_set_irqs(struct vu_server *s, const uint8_t *in, size_t len)
{
	struct vu_irq_set set;
	uint32_t data, action, room;

	if (len < sizeof(set))
		return -EINVAL;
	memcpy(&set, in, sizeof(set));
	data = set.flags & 0x07;
	action = set.flags & 0x38;
	room = interrupts(s, set.index);
	if (!room || set.start > room || set.count > room - set.start || set.flags & ~0x3fu ||
	    (data != VU_IRQ_DATA_NONE && data != VU_IRQ_DATA_BOOL && data != VU_IRQ_DATA_EVENTFD) ||
	    (action != VU_IRQ_MASK && action != VU_IRQ_UNMASK && action != VU_IRQ_TRIGGER))
		return -EINVAL;
	if (data == VU_IRQ_DATA_BOOL && len - sizeof(set) < set.count)
		return -EINVAL;
	if (action != VU_IRQ_TRIGGER && (data == VU_IRQ_DATA_EVENTFD || set.index != USRDRV_IRQ_INTX))
		return -EOPNOTSUPP;

	if (action == VU_IRQ_TRIGGER && !set.count) {
		if (s->irq_kind == set.index)
			vu_disconnect_irqs(s);
		return 0;
	}
	if (data == VU_IRQ_DATA_EVENTFD)
		return connect_irqs(s, &set);
	for (uint32_t i = 0; i < set.count; i++) {
		if (data == VU_IRQ_DATA_BOOL && !in[sizeof(set) + i])
			continue;
		if (set.index == USRDRV_IRQ_INTX)
			vu_irq_act(&s->irq, action);
		else
			vu_vectors_message(&s->vectors, set.start + i);
	}
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
 * vu_reset - RST#
 * @s:	server
 */
void vu_reset(struct vu_server *s)
{
	s->model->ops->reset(s->model);
	vu_vectors_forget(&s->vectors);
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
		return do_irq_info(s, in, len, out);
	case VU_SET_IRQS:
		return do_set_irqs(s, in, len);
	case VU_REGION_READ:
		return do_region_read(s, in, len, out);
	case VU_REGION_WRITE:
		return do_region_write(s, in, len, out);
	case VU_REGION_WRITE_MULTI:
		return do_write_multi(s, in, len, out);
	case VU_RESET:
		vu_reset(s);
		return 0;
	default:
		return -EOPNOTSUPP;
	}
}
