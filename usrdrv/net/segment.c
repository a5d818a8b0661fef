// SPDX-License-Identifier: MIT
/* Cutting a large packet of the kernel's into frames (GSO). */
#include <errno.h>
#include <string.h>

#include "offload.h"

#define TCP		6u
#define UDP		17u
#define TCP_FIN		0x01u
#define TCP_PSH		0x08u
#define TCP_CWR		0x80u

static unsigned int be16(const uint8_t *p)
{
	return (unsigned int)p[0] << 8 | p[1];
}

static void put16(uint8_t *p, size_t value)
{
	p[0] = (uint8_t)(value >> 8);
	p[1] = (uint8_t)value;
}

static uint32_t be32(const uint8_t *p)
{
	return (uint32_t)be16(p) << 16 | be16(p + 2);
}

static void put32(uint8_t *p, uint32_t value)
{
	put16(p, value >> 16);
	put16(p + 2, value & 0xffff);
}

/**
 * net_segment_begin - look at a large packet
 * @s:		result
 * @header:	what the kernel says of it
 * @frame:	stays until the last segment is made
 * @have:	bytes of it that are there, with all its headers
 * @len:	bytes of all of it
 *
 * Return: 0, -EINVAL for a packet that makes no sense.
 */
int net_segment_begin(struct net_segmenter *s, const struct usrdrv_net_header *header,
		      const uint8_t *frame, size_t have, size_t len)
{
	unsigned int type = header->gso_type & ~USRDRV_NET_GSO_ECN;
	size_t payload;

	memset(s, 0, sizeof(*s));
	if (!header->gso_size || net_parse(frame, have, len, &s->h) || !s->h.l4 || s->h.payload > NET_HEADERS_MAX)
		return -EINVAL;
	s->udp = type == USRDRV_NET_GSO_UDP_L4;
	if (s->h.protocol != (s->udp ? UDP : TCP) || (type == USRDRV_NET_GSO_TCPV4 && s->h.version != 4) ||
	    (type == USRDRV_NET_GSO_TCPV6 && s->h.version != 6))
		return -EINVAL;
	if (!s->udp && type != USRDRV_NET_GSO_TCPV4 && type != USRDRV_NET_GSO_TCPV6)
		return -EINVAL;
	payload = s->h.end - s->h.payload;
	if (!payload)
		return -EINVAL;
	s->frame = frame;
	s->len = s->h.end;
	s->gso_size = header->gso_size;
	s->segments = (unsigned int)((payload + header->gso_size - 1) / header->gso_size);
	return 0;
}

/* The sum of addresses, protocol and length, not inverted: what CHECKSUM_PARTIAL leaves in the field. */
static uint16_t pseudo(const struct net_segmenter *s, size_t transport_len)
{
	const uint8_t *ip = s->frame + s->h.l3;
	uint8_t tail[4] = { 0, s->h.protocol, (uint8_t)(transport_len >> 8), (uint8_t)transport_len };
	uint64_t sum = net_sum(tail, 4, 0);

	return (uint16_t)~net_fold(s->h.version == 4 ? net_sum(ip + 12, 8, sum) : net_sum(ip + 8, 32, sum));
}

/**
 * net_segment - make one segment's headers
 * @s:		packet
 * @i:		segment, less than s->segments
 * @headers:	result, s->h.payload bytes
 * @offset:	result: where its payload begins in the packet
 * @size:	result: bytes of it
 */
void net_segment(const struct net_segmenter *s, unsigned int i, uint8_t *headers, size_t *offset, size_t *size)
{
	const struct net_headers *h = &s->h;
	uint8_t *ip = headers + h->l3, *l4 = headers + h->l4;
	size_t at = (size_t)i * s->gso_size;
	size_t left = s->len - h->payload - at;
	size_t transport_len;
	uint16_t sum;

	*offset = h->payload + at;
	*size = left < s->gso_size ? left : s->gso_size;
	memcpy(headers, s->frame, h->payload);
	transport_len = h->payload - h->l4 + *size;
	if (h->version == 4) {
		put16(ip + 2, h->l4 - h->l3 + transport_len);
		put16(ip + 4, (be16(ip + 4) + i) & 0xffff);
		memset(ip + 10, 0, 2);
		sum = net_fold(net_sum(ip, h->l4 - h->l3, 0));
		memcpy(ip + 10, &sum, 2);
	} else {
		put16(ip + 4, h->l4 - h->l3 - 40 + transport_len);
	}
	sum = pseudo(s, transport_len);
	if (s->udp) {
		put16(l4 + 4, transport_len);
		memcpy(l4 + 6, &sum, 2);
		return;
	}
	put32(l4 + 4, be32(l4 + 4) + (uint32_t)at);
	if (i + 1 < s->segments)
		l4[13] &= (uint8_t)~(TCP_FIN | TCP_PSH);
	if (i)
		l4[13] &= (uint8_t)~TCP_CWR;
	memcpy(l4 + 16, &sum, 2);
}
