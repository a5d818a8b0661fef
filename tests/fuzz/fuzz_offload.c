// SPDX-License-Identifier: MIT
/*
 * Frames and headers of random shape through cutting and coalescing. Frames lie in memory of exactly
 * their size, so that a sanitizer sees every byte too far. As a program: fuzz_offload SECONDS SEED
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "offload.h"

static uint32_t any(uint32_t below)
{
	return (uint32_t)random() % below;
}

static void put16(uint8_t *p, size_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

/* A TCP or UDP frame over IPv4 or IPv6, then a few bytes of it spoilt. */
static uint8_t *make(size_t *len, uint32_t *seq, unsigned int spoil)
{
	uint8_t head[128] = { 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2 };
	size_t l3 = 14, ip, l4, payload = any(any(4) ? 1500 : 60000);
	bool v6 = any(2), tcp = any(4);
	uint8_t *frame;

	if (!any(3)) {
		put16(head + 12, any(2) ? 0x8100 : 0x88a8);
		l3 += 4;
	}
	put16(head + l3 - 2, v6 ? 0x86dd : 0x0800);
	ip = v6 ? 40 : 20 + 4 * any(3);
	l4 = l3 + ip;
	if (v6) {
		head[l3] = 0x60;
		head[l3 + 6] = tcp ? 6 : 17;
		put16(head + l3 + 4, (tcp ? 20 : 8) + payload);
	} else {
		head[l3] = (uint8_t)(0x40 | ip / 4);
		head[l3 + 9] = tcp ? 6 : 17;
		put16(head + l3 + 2, ip + (tcp ? 20 : 8) + payload);
	}
	if (tcp) {
		head[l4 + 12] = 0x50;
		head[l4 + 13] = any(4) ? 0x10 : (uint8_t)any(256);
		put16(head + l4 + 4, *seq >> 16);
		put16(head + l4 + 6, *seq & 0xffff);
		*seq += (uint32_t)payload;
	}
	*len = l4 + (tcp ? 20 : 8) + payload;
	frame = malloc(*len);
	if (!frame)
		abort();
	memset(frame, 0x5a, *len);
	memcpy(frame, head, *len < sizeof(head) ? *len : l4 + (tcp ? 20 : 8));
	for (unsigned int i = 0; i < spoil; i++)
		frame[any(*len < 80 ? (uint32_t)*len : 80)] = (uint8_t)any(256);
	return frame;
}

static void cut(void)
{
	struct usrdrv_net_header header = {
		.flags = (uint8_t)any(4), .gso_type = (uint8_t)(any(3) ? (any(2) ? 1 : 4) : any(256)),
		.gso_size = (uint16_t)any(any(2) ? 2000 : 65536), .csum_start = (uint16_t)any(300),
		.csum_offset = (uint16_t)any(any(4) ? 20 : 65536),
	};
	uint32_t seq = 1;
	size_t len;
	uint8_t *frame = make(&len, &seq, any(3)), headers[NET_HEADERS_MAX];
	struct net_segmenter s;

	net_fill_checksum(frame, len, &header);
	if (!net_segment_begin(&s, &header, frame, len, len)) {
		size_t total = 0, offset, size;

		for (unsigned int i = 0; i < s.segments; i++) {
			net_segment(&s, i, headers, &offset, &size);
			if (offset + size > len || size > header.gso_size || !size)
				abort();
			net_sum(frame + offset, size, 0);
			total += size;
		}
		if (total != s.h.end - s.h.payload)
			abort();
	}
	free(frame);
}

static void join(void)
{
	static struct net_coalescer c;
	uint8_t *frames[80];
	unsigned int n = 1 + any(80);
	uint32_t seq = any(2) ? 1 : UINT32_MAX - 3000;

	net_coalesce_reset(&c);
	for (unsigned int i = 0; i < n; i++) {
		struct iovec iov[2];
		size_t len, at;
		int pieces = 1;

		frames[i] = make(&len, &seq, any(8) ? 0 : 2);
		at = any(2) && len > 200 ? 150 : len;
		iov[0] = (struct iovec){ frames[i], at };
		if (at < len)
			iov[pieces++] = (struct iovec){ frames[i] + at, len - at };
		if (!net_coalesce_add(&c, iov, pieces, any(8), any(4) ? -1 : 5)) {
			size_t total = 0;

			net_coalesce_end(&c);
			for (int k = 0; k < c.iovs; k++) {
				net_sum(c.iov[k].iov_base, c.iov[k].iov_len, 0);
				total += c.iov[k].iov_len;
			}
			if (total > USRDRV_NET_PACKET_MAX || (unsigned int)c.iovs > sizeof(c.iov) / sizeof(c.iov[0]))
				abort();
			net_coalesce_reset(&c);
			if (!net_coalesce_add(&c, iov, pieces, true, -1))
				abort();
		}
	}
	for (unsigned int i = 0; i < n; i++)
		free(frames[i]);
}

int main(int argc, char **argv)
{
	time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 5);
	unsigned long runs = 0;

	srandom(argc > 2 ? (unsigned int)atoi(argv[2]) : 1);
	while (time(NULL) < end) {
		for (unsigned int i = 0; i < 50; i++)
			cut();
		join();
		runs++;
	}
	printf("%lu runs\n", runs);
	return 0;
}
