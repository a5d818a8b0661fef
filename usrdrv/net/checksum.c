// SPDX-License-Identifier: MIT
/* The internet checksum (RFC 1071), and where the headers of a frame are. */
#include <errno.h>
#include <string.h>

#include "offload.h"

#define VLAN_C	0x8100u
#define VLAN_S	0x88a8u
#define TCP	6u
#define UDP	17u

static unsigned int be16(const uint8_t *p)
{
	return (unsigned int)p[0] << 8 | p[1];
}

/**
 * net_sum - add 16-bit words as they lie in memory
 * @data:	any alignment
 * @len:	bytes; odd only in the last piece
 * @sum:	of what came before; 0 to begin with
 *
 * Return: the sum, for net_fold().
 */
uint64_t net_sum(const void *data, size_t len, uint64_t sum)
{
	const uint8_t *p = data;
	uint64_t a = 0, b = 0;

	/* Words of 32 bits in 64-bit sums: no carry is lost for any length that a frame has. */
	for (; len >= 32; p += 32, len -= 32) {
		uint32_t w[8];

		memcpy(w, p, sizeof(w));
		a += (uint64_t)w[0] + w[1] + w[2] + w[3];
		b += (uint64_t)w[4] + w[5] + w[6] + w[7];
	}
	for (; len >= 4; p += 4, len -= 4) {
		uint32_t w;

		memcpy(&w, p, sizeof(w));
		a += w;
	}
	if (len) {
		uint32_t w = 0;

		memcpy(&w, p, len);
		b += w;
	}
	return sum + a + b;
}

/**
 * net_fold - make a checksum of a sum
 * @sum:	from net_sum()
 *
 * Return: what goes into a header, in memory order.
 */
uint16_t net_fold(uint64_t sum)
{
	sum = (sum & UINT32_MAX) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

static int parse_v4(const uint8_t *f, size_t len, size_t total, struct net_headers *h)
{
	size_t header, ip_len;

	if (len < h->l3 + 20u)
		return -EINVAL;
	header = (f[h->l3] & 15) * 4u;
	ip_len = be16(f + h->l3 + 2);
	/* A large packet may have 0 there: it is as long as the frame. */
	if (!ip_len)
		ip_len = total - h->l3;
	if (f[h->l3] >> 4 != 4 || header < 20 || ip_len < header || h->l3 + ip_len > total ||
	    h->l3 + header > len)
		return -EINVAL;
	h->version = 4;
	h->protocol = f[h->l3 + 9];
	h->end = (uint32_t)(h->l3 + ip_len);
	h->l4 = be16(f + h->l3 + 6) & 0x3fff ? 0 : (uint16_t)(h->l3 + header);
	return 0;
}

static int parse_v6(const uint8_t *f, size_t len, size_t total, struct net_headers *h)
{
	size_t at = h->l3 + 40u, ip_len;
	uint8_t next;

	if (len < at || f[h->l3] >> 4 != 6)
		return -EINVAL;
	ip_len = be16(f + h->l3 + 4);
	if (!ip_len)
		ip_len = total - at;
	if (at + ip_len > total)
		return -EINVAL;
	h->version = 6;
	h->end = (uint32_t)(at + ip_len);
	next = f[h->l3 + 6];
	while (next == 0 || next == 60) {	/* hop-by-hop and destination options */
		if (at + 8 > len || at + 8 > h->end)
			return -EINVAL;
		next = f[at];
		at += (f[at + 1] + 1u) * 8;
		if (at > h->end || at > len)
			return -EINVAL;
	}
	h->protocol = next;
	h->l4 = next == TCP || next == UDP ? (uint16_t)at : 0;
	return 0;
}

/**
 * net_parse - find the headers of a frame
 * @frame:	from the destination address on
 * @len:	bytes of it that are here, with all its headers
 * @total:	bytes of all of it
 * @h:		result
 *
 * What is neither IPv4 nor IPv6 has l3 = 0; a fragment and what is neither TCP nor UDP l4 = 0.
 *
 * Return: 0, -EINVAL if headers do not fit in @len or lengths contradict each other.
 */
int net_parse(const uint8_t *frame, size_t len, size_t total, struct net_headers *h)
{
	size_t at = 12, header;
	unsigned int type;
	int ret;

	memset(h, 0, sizeof(*h));
	h->end = (uint32_t)total;
	for (unsigned int tags = 0; ; tags++) {
		if (len < at + 2)
			return -EINVAL;
		type = be16(frame + at);
		if ((type != VLAN_C && type != VLAN_S) || tags == 2)
			break;
		at += 4;
	}
	at += 2;
	h->payload = (uint16_t)at;
	if (type != 0x0800 && type != 0x86dd)
		return 0;
	h->l3 = (uint16_t)at;
	ret = type == 0x0800 ? parse_v4(frame, len, total, h) : parse_v6(frame, len, total, h);
	if (ret)
		return ret;
	if (h->protocol != TCP && h->protocol != UDP)
		h->l4 = 0;
	if (!h->l4)
		return 0;
	if (h->l4 + (h->protocol == TCP ? 20u : 8u) > len)
		return -EINVAL;
	header = h->protocol == TCP ? (frame[h->l4 + 12] >> 4) * 4u : 8;
	if (header < (h->protocol == TCP ? 20u : 8u) || h->l4 + header > len || h->l4 + header > h->end)
		return -EINVAL;
	h->payload = (uint16_t)(h->l4 + header);
	return 0;
}

/**
 * net_fill_checksum - do what USRDRV_NET_NEEDS_CSUM asks for
 * @frame:	whole
 * @len:	bytes
 * @header:	csum_start and csum_offset; the field has the pseudo-header's sum
 *
 * Return: 0, -EINVAL if the field is not inside the frame.
 */
int net_fill_checksum(uint8_t *frame, size_t len, const struct usrdrv_net_header *header)
{
	size_t start = header->csum_start, at = start + header->csum_offset;
	uint16_t value;

	if (start > len || at + 2 > len)
		return -EINVAL;
	value = net_fold(net_sum(frame + start, len - start, 0));
	/* In UDP, zero says that there is none; a TCP checksum may be either. */
	if (!value && header->csum_offset == 6)
		value = 0xffff;
	memcpy(frame + at, &value, 2);
	return 0;
}
