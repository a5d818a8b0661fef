// SPDX-License-Identifier: MIT
/* Flow control with 802.3x pause frames (sections 3.11 and 8). */
#include <string.h>

#include "nic.h"

#define QUANTUM_BITS	512u

static const uint8_t group[6] = { 0x01, 0x80, 0xc2, 0x00, 0x00, 0x01 };

/* A MAC control frame for this station: obeyed, not passed to the host. */
bool nic_pause_receive(struct nic *n, const uint8_t *frame, size_t len)
{
	bool ours;

	if (len < 18 || frame[12] != 0x88 || frame[13] != 0x08 || !(n->pcr & DP83820_PCR_PSEN))
		return false;
	ours = ((n->pcr & DP83820_PCR_PS_MCAST) && !memcmp(frame, group, 6)) ||
		((n->pcr & DP83820_PCR_PS_DA) && nic_is_us(n, frame));
	if (!ours)
		return false;
	if (frame[14] || frame[15] != 1) {
		nic_mib(n, DP83820_MIB_OPCODE);
		return true;
	}
	n->paused_until = nic_now() + (uint64_t)(frame[16] << 8 | frame[17]) * QUANTUM_BITS * 1000 /
		(n->speed ? n->speed : 1000);
	n->pcr |= DP83820_PCR_PS_RCVD;
	n->count.pause_received++;
	nic_mib(n, DP83820_MIB_PAUSE_RX);
	return true;
}

void nic_pause_send(struct nic *n, uint16_t time)
{
	uint8_t frame[FRAME_MIN] = { 0 };

	memcpy(frame, group, 6);
	for (unsigned int i = 0; i < 6; i++)
		frame[6 + i] = (uint8_t)(n->rf[DP83820_RF_PMATCH / 2 + i / 2] >> (i % 2 * 8));
	frame[12] = 0x88;
	frame[13] = 0x08;
	frame[15] = 1;
	frame[16] = (uint8_t)(time >> 8);
	frame[17] = (uint8_t)time;
	if (!nic_carries(n) || !nic_wire_put(n, frame, sizeof(frame), 0))
		return;
	n->count.pause_sent++;
	nic_mib(n, DP83820_MIB_PAUSE_TX);
}

/* Coded 0: off, else 1 << code, in units */
static size_t level(uint32_t pcr, unsigned int shift, size_t unit)
{
	unsigned int code = pcr >> shift & 3;

	return code ? unit << code : 0;
}

/* The receive FIFO got fuller or emptier. */
void nic_pause_levels(struct nic *n)
{
	size_t data_high = level(n->pcr, 20, 1024), data_low = level(n->pcr, 18, 1024);
	size_t frames_high = level(n->pcr, 24, 1), frames_low = level(n->pcr, 22, 1);

	if (!n->rx_choked && ((data_high && n->fifo_bytes > data_high) ||
			      (frames_high && n->fifo_frames > frames_high))) {
		n->rx_choked = true;
		nic_pause_send(n, n->pcr & DP83820_PCR_TIME);
	} else if (n->rx_choked && n->fifo_bytes <= data_low && n->fifo_frames <= frames_low) {
		n->rx_choked = false;
		nic_pause_send(n, 0);
	}
}
