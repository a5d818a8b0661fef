// SPDX-License-Identifier: MIT
/*
 * Frames of one TCP flow become one large packet (GRO). They are merged only if the kernel could cut the
 * packet back into exactly these frames: then whoever it forwards them to sees no difference.
 */
#include <string.h>

#include "offload.h"

#define TCP		6u
#define TCP_PSH		0x08u
#define TCP_ACK		0x10u
#define PACKET_MAX	65535u	/* bytes of an IP packet */

static unsigned int be16(const uint8_t *p)
{
	return (unsigned int)p[0] << 8 | p[1];
}

static uint32_t be32(const uint8_t *p)
{
	return (uint32_t)be16(p) << 16 | be16(p + 2);
}

static void put16(uint8_t *p, size_t value)
{
	p[0] = (uint8_t)(value >> 8);
	p[1] = (uint8_t)value;
}

/* A TCP segment with data that may be part of a larger one. */
static bool mergeable(const uint8_t *f, const struct net_headers *h)
{
	return h->l4 && h->protocol == TCP && h->payload <= NET_HEADERS_MAX - 4 && h->end > h->payload &&
		(f[h->l4 + 13] & ~TCP_PSH) == TCP_ACK && (h->version == 6 || h->l4 - h->l3 == 20);
}

/* Whether the frame is the packet's continuation; c->headers has the first frame's headers, without tag. */
static bool continues(const struct net_coalescer *c, const uint8_t *f, const struct net_headers *h)
{
	const uint8_t *first = c->first;
	size_t payload = h->end - h->payload, l3 = h->l3, l4 = h->l4;

	if (c->closed || !c->mergeable || c->frames == NET_COALESCE_FRAMES || h->l3 != c->h.l3 || h->l4 != c->h.l4 ||
	    h->payload != c->h.payload || h->version != c->h.version || payload > c->segment ||
	    c->h.payload - c->h.l3 + c->data + payload > PACKET_MAX)
		return false;
	if (memcmp(f, first, l3))
		return false;
	if (h->version == 4) {
		/* All but length, identification and checksum; the id goes up by one. */
		if (memcmp(f + l3, first + l3, 2) || memcmp(f + l3 + 6, first + l3 + 6, 4) ||
		    memcmp(f + l3 + 12, first + l3 + 12, 8) ||
		    be16(f + l3 + 4) != ((be16(first + l3 + 4) + c->frames) & 0xffff))
			return false;
	} else if (memcmp(f + l3, first + l3, 4) || memcmp(f + l3 + 6, first + l3 + 6, l4 - l3 - 6)) {
		return false;
	}
	/* Ports, acknowledgement and length of the header; window, urgent pointer, options; not flags. */
	return !memcmp(f + l4, first + l4, 4) && be32(f + l4 + 4) == c->next_seq &&
		!memcmp(f + l4 + 8, first + l4 + 8, 5) && !memcmp(f + l4 + 14, first + l4 + 14, 2) &&
		!memcmp(f + l4 + 18, first + l4 + 18, h->payload - l4 - 18);
}

/* Append bytes skip to skip + len of the frame's pieces. */
static void append(struct net_coalescer *c, const struct iovec *frame, int n, size_t skip, size_t len)
{
	for (int i = 0; i < n && len; i++) {
		size_t size = frame[i].iov_len, use;

		if (skip >= size) {
			skip -= size;
			continue;
		}
		use = size - skip < len ? size - skip : len;
		c->iov[c->iovs++] = (struct iovec){ (uint8_t *)frame[i].iov_base + skip, use };
		len -= use;
		skip = 0;
	}
}

static bool begin(struct net_coalescer *c, const struct iovec *frame, int n, size_t total, bool checked, int vlan,
		  const struct net_headers *h, bool parsed)
{
	const uint8_t *f = frame[0].iov_base;
	size_t copied;
	uint8_t *out = c->headers;

	c->h = *h;
	c->mergeable = checked && parsed && mergeable(f, h);
	c->checked = checked;
	c->vlan = vlan;
	/* Headers are copied where they change: for a tag, or if more frames may follow. */
	copied = c->mergeable ? h->payload : vlan >= 0 ? 12 : 0;
	c->header = (struct usrdrv_net_header){ .flags = checked ? USRDRV_NET_DATA_VALID : 0 };
	c->iov[0] = (struct iovec){ &c->header, sizeof(c->header) };
	c->iovs = 1;
	if (copied) {
		memcpy(out, f, 12);
		out += 12;
		if (vlan >= 0) {
			put16(out, 0x8100);
			put16(out + 2, (unsigned int)vlan);
			out += 4;
		}
		memcpy(out, f + 12, copied - 12);
		out += copied - 12;
		c->iov[c->iovs++] = (struct iovec){ c->headers, (size_t)(out - c->headers) };
	}
	c->h.payload = c->mergeable ? h->payload : (uint16_t)copied;
	append(c, frame, n, copied, total - copied);
	c->frames = 1;
	c->closed = !c->mergeable;
	if (c->mergeable) {
		memcpy(c->first, f, h->payload);
		c->data = h->end - h->payload;
		c->segment = (uint32_t)c->data;
		c->next_seq = be32(f + h->l4 + 4) + (uint32_t)c->data;
		c->closed = f[h->l4 + 13] & TCP_PSH;
		c->padding = total - h->end;
		c->psh = f[h->l4 + 13] & TCP_PSH;
	}
	return true;
}

/**
 * net_coalesce_add - let a frame be part of the packet
 * @c:		packet
 * @frame:	pieces of memory that stay until the packet is pushed; the headers are in the first
 * @n:		pieces
 * @checked:	its checksums were verified
 * @vlan:	tag that was taken out of it (TCI, host order), or -1
 *
 * Return: true if it is part of the packet; false: end, push and reset it first. An empty one
 * takes any frame.
 */
bool net_coalesce_add(struct net_coalescer *c, const struct iovec *frame, int n, bool checked, int vlan)
{
	const uint8_t *f = frame[0].iov_base;
	struct net_headers h;
	size_t total = 0;
	bool parsed;

	for (int i = 0; i < n; i++)
		total += frame[i].iov_len;
	parsed = !net_parse(f, frame[0].iov_len, total, &h);
	if (!c->frames) {
		if (vlan >= 0 && (frame[0].iov_len < 14 || total < 14))
			vlan = -1;
		return begin(c, frame, n, total, checked, vlan, &h, parsed);
	}
	if (!parsed || !checked || vlan != c->vlan || c->padding || !mergeable(f, &h) || !continues(c, f, &h) ||
	    c->iovs + n > (int)(sizeof(c->iov) / sizeof(c->iov[0])))
		return false;
	append(c, frame, n, h.payload, h.end - h.payload);
	c->data += h.end - h.payload;
	c->next_seq += (uint32_t)(h.end - h.payload);
	c->frames++;
	c->psh = f[h.l4 + 13] & TCP_PSH;
	c->closed = c->psh || h.end - h.payload < c->segment;
	return true;
}

/**
 * net_coalesce_end - make the packet ready for the port
 * @c:	with at least one frame
 *
 * iov[0] to iov[iovs - 1] is the packet then.
 */
void net_coalesce_end(struct net_coalescer *c)
{
	size_t tag = c->vlan >= 0 ? 4 : 0;
	uint8_t *ip = c->headers + c->h.l3 + tag, *tcp = c->headers + c->h.l4 + tag;
	size_t header_len = c->h.payload - c->h.l4, ip_header = c->h.l4 - c->h.l3;
	uint8_t tail[4];
	uint64_t sum;
	uint16_t value;

	if (c->frames < 2)
		return;
	if (c->h.version == 4) {
		put16(ip + 2, ip_header + header_len + c->data);
		memset(ip + 10, 0, 2);
		value = net_fold(net_sum(ip, ip_header, 0));
		memcpy(ip + 10, &value, 2);
	} else {
		put16(ip + 4, ip_header - 40 + header_len + c->data);
	}
	tcp[13] = (uint8_t)((tcp[13] & ~TCP_PSH) | c->psh);
	tail[0] = 0;
	tail[1] = TCP;
	put16(tail + 2, header_len + c->data);
	sum = net_sum(tail, 4, 0);
	sum = c->h.version == 4 ? net_sum(ip + 12, 8, sum) : net_sum(ip + 8, 32, sum);
	value = (uint16_t)~net_fold(sum);
	memcpy(tcp + 16, &value, 2);
	c->header = (struct usrdrv_net_header){
		.flags = USRDRV_NET_NEEDS_CSUM,
		.gso_type = c->h.version == 4 ? USRDRV_NET_GSO_TCPV4 : USRDRV_NET_GSO_TCPV6,
		.hdr_len = (uint16_t)(c->h.payload + tag),
		.gso_size = (uint16_t)c->segment,
		.csum_start = (uint16_t)(c->h.l4 + tag),
		.csum_offset = 16,
	};
}
