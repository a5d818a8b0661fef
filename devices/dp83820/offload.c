// SPDX-License-Identifier: MIT
/* IPv4, TCP and UDP checksums, put in and verified (section 6); never of fragments or IPv6. */
#include <string.h>

#include "nic.h"

#define TCP	6u
#define UDP	17u

/* Where things are in a frame whose lengths were checked. */
struct ipv4 {
	size_t l3, l4, end;
	unsigned int protocol;
	bool whole;		/* not a fragment, and the transport header is there */
};

static unsigned int be16(const uint8_t *p)
{
	return (unsigned int)p[0] << 8 | p[1];
}

static uint64_t add(const uint8_t *p, size_t len, uint64_t sum)
{
	for (; len >= 4; p += 4, len -= 4) {
		uint32_t w;

		memcpy(&w, p, 4);
		sum += w;
	}
	if (len >= 2) {
		uint16_t w;

		memcpy(&w, p, 2);
		sum += w;
		p += 2;
		len -= 2;
	}
	return len ? sum + *p : sum;
}

static uint16_t fold(uint64_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

static bool find(const uint8_t *frame, size_t len, struct ipv4 *ip)
{
	size_t l3 = 14, header, total;

	if (len >= 18 && (be16(frame + 12) == 0x8100))
		l3 += VLAN;
	if (len < l3 + 20 || be16(frame + l3 - 2) != 0x0800 || frame[l3] >> 4 != 4)
		return false;
	header = (frame[l3] & 15) * 4u;
	total = be16(frame + l3 + 2);
	if (header < 20 || total < header || l3 + total > len)
		return false;
	*ip = (struct ipv4){ .l3 = l3, .l4 = l3 + header, .end = l3 + total, .protocol = frame[l3 + 9] };
	ip->whole = !(be16(frame + l3 + 6) & 0x3fff) &&
		((ip->protocol == TCP && total >= header + 20) || (ip->protocol == UDP && total >= header + 8));
	return true;
}

static uint64_t pseudo(const uint8_t *frame, const struct ipv4 *ip)
{
	unsigned int len = (unsigned int)(ip->end - ip->l4);
	uint8_t tail[4] = { 0, (uint8_t)ip->protocol, (uint8_t)(len >> 8), (uint8_t)len };

	return add(tail, 4, add(frame + ip->l3 + 12, 8, 0));
}

bool nic_wants_checksum(const struct nic *n, uint32_t extsts)
{
	return (n->vtcr & DP83820_VTCR_GCHK) ||
		((n->vtcr & DP83820_VTCR_PPCHK) && (n->cfg & DP83820_CFG_EXTSTS_EN) &&
		 (extsts & (DP83820_IPPKT | DP83820_TCPPKT | DP83820_UDPPKT)));
}

/* Replace the checksums that are asked for. */
void nic_put_checksums(struct nic *n, uint8_t *frame, size_t len, uint32_t extsts)
{
	bool all = n->vtcr & DP83820_VTCR_GCHK;
	struct ipv4 ip;
	uint16_t sum;

	if (!find(frame, len, &ip))
		return;
	if (all || (extsts & DP83820_IPPKT)) {
		memset(frame + ip.l3 + 10, 0, 2);
		sum = fold(add(frame + ip.l3, ip.l4 - ip.l3, 0));
		memcpy(frame + ip.l3 + 10, &sum, 2);
	}
	if (ip.whole && ip.protocol == TCP && (all || (extsts & DP83820_TCPPKT))) {
		memset(frame + ip.l4 + 16, 0, 2);
		sum = fold(add(frame + ip.l4, ip.end - ip.l4, pseudo(frame, &ip)));
		memcpy(frame + ip.l4 + 16, &sum, 2);
	}
	if (ip.whole && ip.protocol == UDP && (all || (extsts & DP83820_UDPPKT))) {
		memset(frame + ip.l4 + 6, 0, 2);
		sum = fold(add(frame + ip.l4, ip.end - ip.l4, pseudo(frame, &ip)));
		sum = sum ? sum : 0xffff;
		memcpy(frame + ip.l4 + 6, &sum, 2);
	}
}

/* What extsts says about a received frame: a PKT bit for what was verified, an ERR bit if it is wrong. */
uint32_t nic_check(const uint8_t *frame, size_t len)
{
	uint32_t found;
	struct ipv4 ip;

	if (!find(frame, len, &ip))
		return 0;
	found = DP83820_IPPKT;
	if (fold(add(frame + ip.l3, ip.l4 - ip.l3, 0)))
		return found | DP83820_IPERR;
	/* A fragment with IPPKT would count as verified for the kernel's driver (section 6). */
	if (!ip.whole)
		return 0;
	if (ip.protocol == UDP && !be16(frame + ip.l4 + 6))
		return found;	/* sent without */
	found |= ip.protocol == TCP ? DP83820_TCPPKT : DP83820_UDPPKT;
	if (fold(add(frame + ip.l4, ip.end - ip.l4, pseudo(frame, &ip))))
		found |= ip.protocol == TCP ? DP83820_TCPERR : DP83820_UDPERR;
	return found;
}
