/* SPDX-License-Identifier: MIT */
/* The DP83820 model: what Python needs to make one and to break it. */
#ifndef USRDRV_DEVICES_DP83820_H
#define USRDRV_DEVICES_DP83820_H

#include <stdint.h>

#include "base/faults.h"
#include "usrdrv/model.h"

/* cffi: begin */
enum dp83820_wire_kind {
	DP83820_WIRE_NONE,	/* nothing plugged in: no link */
	DP83820_WIRE_CABLE,	/* to the other model that names the same cable */
	DP83820_WIRE_TAP,	/* a TAP interface of the host: frames go in and out of wire_fd */
	DP83820_WIRE_PCAP,	/* frames come from wire_fd and go to record_fd */
	DP83820_WIRE_LOOP,	/* a plug that connects transmit to receive */
};

struct dp83820_config {
	uint8_t mac[6];
	uint16_t subvendor, subdevice;
	uint8_t fibre;		/* TBI instead of MII */
	uint8_t phy;		/* its MII address, 1-31 */
	uint8_t reset_all;	/* RST clears the whole register file, section 12.1 */
	uint8_t rev_a;		/* SRR 0x0102 */
	uint8_t pci64;		/* a 64-bit slot */
	uint32_t wire;		/* enum dp83820_wire_kind */
	char cable[100];
	int wire_fd;		/* duplicated; -1: none */
	int record_fd;
	uint8_t replay_paced;	/* with the times of the file, else at once */
	uint32_t rate;		/* Mb/s of the wire; 0: as fast as the other end takes it */
};

struct dp83820_counters {
	uint64_t register_reads;
	uint64_t register_writes;
	uint64_t config_reads;
	uint64_t config_writes;
	uint64_t interrupts;	/* times INTA# was raised */
	uint64_t unexpected;	/* accesses that no driver should make */
	uint64_t master_aborts;
	uint64_t descriptors;	/* fetched */
	uint64_t tx_frames;	/* sent to the wire */
	uint64_t tx_bytes;	/* of them, without FCS */
	uint64_t tx_no_link;	/* lost: no link, or the MAC in another mode than the PHY */
	uint64_t tx_checksums;	/* frames with a checksum put in */
	uint64_t tx_over_fifo;	/* frames longer than the thresholds allow, section 3.7 */
	uint64_t tx_hangs;	/* section 6: transmitter stuck until TXR */
	uint64_t rx_frames;	/* stored in host memory */
	uint64_t rx_bytes;
	uint64_t rx_filtered;	/* not for us */
	uint64_t rx_rejected;	/* runt, long, bad FCS, VLAN or checksum rules */
	uint64_t rx_overruns;	/* no room in the FIFO */
	uint64_t rx_disabled;	/* receiver or filter off, or no link */
	uint64_t pause_sent;
	uint64_t pause_received;
	uint64_t rx_misaligned;	/* receive buffers that are not on 8 bytes */
	uint64_t wakeups;
};

enum dp83820_fault_kind {
	DP83820_FAULT_LOSE,		/* the frame does not arrive */
	DP83820_FAULT_CORRUPT,		/* bits flip on the wire: bad FCS */
	DP83820_FAULT_DAMAGE,		/* bits flip inside the chip: good FCS, bad data */
	DP83820_FAULT_DUPLICATE,
	DP83820_FAULT_DELAY,		/* the frame arrives ms later, after others */
	DP83820_FAULT_FETCH,		/* master abort at a descriptor */
	DP83820_FAULT_OVERRUN,		/* no room in the receive FIFO */
	DP83820_FAULT_LOST_IRQ,		/* INTA# stays down until ISR is read */
	DP83820_FAULT_LINK_DOWN,	/* for ms; 0: until it is cleared */
	DP83820_FAULT_STUCK_TX,		/* the transmitter stops until TXR or RST */
	DP83820_FAULT_STUCK_RESET,	/* CR.RST resets nothing and stays 1, until RST# or a good one */
	DP83820_FAULT_KINDS,
};

#define DP83820_ON_TX	1
#define DP83820_ON_RX	2

struct dp83820_fault {
	struct fault base;	/* kind: enum dp83820_fault_kind; on: mask of DP83820_ON_*, 0: both */
	uint32_t every;		/* hits every n-th time; 0 and 1: each time */
	uint64_t seen;		/* times that it could have hit */
	double ms;
};

int dp83820_create(const struct dp83820_config *config, struct usrdrv_model **model);
void dp83820_counters(struct usrdrv_model *model, struct dp83820_counters *counters);
struct faults *dp83820_faults(struct usrdrv_model *model);
int dp83820_link(struct usrdrv_model *model);	/* Mb/s; 0: down */
/* cffi: end */

#endif
