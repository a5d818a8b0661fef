// SPDX-License-Identifier: MIT
/* The receive filter (section 3.12) and CRC-32. */
#include <string.h>

#include "nic.h"

enum { REJECTED, TO_US, TO_GROUP, TO_ALL };	/* DEST field */

static uint32_t table[256];
static pthread_once_t table_once = PTHREAD_ONCE_INIT;

static void make_table(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;

		for (int k = 0; k < 8; k++)
			c = c & 1 ? c >> 1 ^ 0xedb88320u : c >> 1;
		table[i] = c;
	}
}

/* CRC-32 as the FCS has it. */
uint32_t nic_crc(const uint8_t *data, size_t len)
{
	uint32_t c = UINT32_MAX;

	pthread_once(&table_once, make_table);
	while (len--)
		c = c >> 8 ^ table[(c ^ *data++) & 0xff];
	return ~c;
}

/* The same CRC with the other bit order, not inverted: its top 11 bits choose the hash bit. */
static bool hashed(const struct nic *n, const uint8_t *address)
{
	uint32_t c = ~nic_crc(address, 6), h = 0;

	for (int i = 0; i < 11; i++)
		h = h << 1 | (c >> i & 1);
	return n->rf[DP83820_RF_HASH / 2 + (h >> 4)] >> (h & 15) & 1;
}

bool nic_is_us(const struct nic *n, const uint8_t *address)
{
	uint8_t differs = 0;

	for (unsigned int i = 0; i < 6; i++) {
		uint8_t bits = (uint8_t)(address[i] ^ n->rf[DP83820_RF_PMATCH / 2 + i / 2] >> (i % 2 * 8));

		if (i == 0 && (n->rfcr & DP83820_RFCR_ULM))
			bits &= ~2u;	/* universal or local does not matter */
		differs |= bits;
	}
	return !differs;
}

/* Whether a pattern's first bytes, those that are enabled, are the frame's; none of them: no match. */
bool nic_pattern(const struct nic *n, unsigned int pattern, const uint8_t *frame, size_t len)
{
	static const uint16_t at[4] = {
		DP83820_RF_PATTERN0, DP83820_RF_PATTERN1, DP83820_RF_PATTERN2, DP83820_RF_PATTERN3,
	};
	unsigned int count = n->rf[DP83820_RF_COUNTS / 2 + pattern / 2] >> (pattern % 2 * 8) & 0xff;

	if (!count || count > 128 || count > len)
		return false;
	for (unsigned int i = 0; i < count; i++) {
		unsigned int word = at[pattern] / 2 + i / 2;

		if ((n->rf_enable[word] >> i % 2 & 1) && frame[i] != (uint8_t)(n->rf[word] >> i % 2 * 8))
			return false;
	}
	return true;
}

/**
 * nic_filter() - who a frame is for
 * @n: chip; RFEN is set
 * @frame: from the destination address on
 * @len: its bytes
 * @accept: whether it passes
 *
 * Return: the DEST field for it.
 */
unsigned int nic_filter(const struct nic *n, const uint8_t *frame, size_t len, bool *accept)
{
	static const uint8_t all[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	uint32_t f = n->rfcr;
	bool us, broadcast, multicast;

	*accept = false;
	if (len < 6)
		return REJECTED;
	broadcast = !memcmp(frame, all, 6);
	multicast = !broadcast && (frame[0] & 1);
	us = !broadcast && !multicast && nic_is_us(n, frame);
	if (broadcast)
		*accept = f & DP83820_RFCR_AAB;
	else if (multicast)
		*accept = (f & DP83820_RFCR_AAM) || ((f & DP83820_RFCR_MHEN) && hashed(n, frame));
	else
		*accept = (f & DP83820_RFCR_AAU) || ((f & DP83820_RFCR_APM) && us) ||
			((f & DP83820_RFCR_UHEN) && hashed(n, frame));
	if ((f & DP83820_RFCR_AARP) && len >= 14 && frame[12] == 0x08 && frame[13] == 0x06 &&
	    (broadcast || us))
		*accept = true;
	for (unsigned int i = 0; i < 4 && !*accept; i++)
		*accept = (f & DP83820_RFCR_APAT0 << i) && nic_pattern(n, i, frame, len);
	return broadcast ? TO_ALL : multicast ? TO_GROUP : us ? TO_US : REJECTED;
}
