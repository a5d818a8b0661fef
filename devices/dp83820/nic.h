/* SPDX-License-Identifier: MIT */
/*
 * Inside the DP83820 model. Everything here runs with the model's mutex held. Section numbers
 * are those of docs/hardware/dp83820.md.
 *
 * Transmission runs in the thread that writes CR, as far as the wire takes frames; reception,
 * timers and the rest of transmission run in the engine's thread (engine.c).
 *
 * The layers, the highest first. A file calls those in lower layers only: tests/unit/tree/test_layers.py.
 *
 *	nic.c				life, regions
 *	inject.c			faults on request
 *	engine.c config.c		the chip's own thread; configuration space, RST#
 *	regs.c				operational registers
 *	tx.c mii.c			the transmitter; the serial lines
 *	rx.c				the receiver
 *	pause.c				flow control
 *	link.c				PHY, fibre interface, negotiation
 *	wake.c wire.c			wake-on-LAN; the MAC's end of the wire
 *	dma.c mib.c			the host's memory, descriptors; management counters
 *	irq.c				events, INTA#; the engine's kick
 *	fault.c eeprom.c filter.c offload.c
 */
#ifndef USRDRV_DEVICES_NIC_H
#define USRDRV_DEVICES_NIC_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "dp83820.h"
#include "usrdrv/dp83820_regs.h"
#include "usrdrv/net.h"
#include "wire/ring.h"
#include "wire/wire.h"

#define QUEUES		4u
#define FCS		4u		/* bytes */
#define FRAME_MIN	60u		/* bytes without FCS */
#define VLAN		4u		/* bytes of a tag */
#define NEVER		UINT64_MAX

/* A descriptor list as the chip walks it (section 5). */
struct queue {
	uint64_t dp;
	bool active;
	bool done;		/* CTDD, CRDD: the descriptor at dp is completed */
};

struct descriptor {
	uint64_t link, buf;
	uint32_t cmdsts, extsts;
};

/* What the receiver found out about a frame; the head of its record in the FIFO. */
struct rx_meta {
	uint32_t status;	/* of the last descriptor, without SIZE */
	uint32_t extsts;
	uint32_t queue;
	uint32_t reserved;
};

struct delayed {
	uint64_t when;
	size_t len;
	uint8_t *data;
};

struct nic {
	struct usrdrv_model base;
	pthread_mutex_t lock;
	struct dp83820_config config;
	struct dp83820_counters count;
	uint8_t cfg_space[USRDRV_MODEL_CONFIG_SIZE];

	/* Registers that are plain storage */
	uint32_t cfg, ptscr, imr, ier, ihr, txcfg, gpior, rxcfg, pqcr, wcsr, pcr, rfcr, brar, mibc, vrcr, vtcr,
		 vdr, ccsr, tbicr, tbisr, tanar, tanlpar;
	uint32_t txdp_hi, rxdp_hi;
	uint16_t rf[512];	/* what RFADDR reaches */
	uint8_t rf_enable[512];	/* byte enables of the patterns */
	uint32_t mib[DP83820_MIBS];

	/* Interrupt (irq.c) */
	uint32_t isr;
	uint32_t late;		/* events that ISR gets at late_at */
	uint64_t late_at;
	uint64_t holdoff_until;
	bool inta;
	bool muted;		/* lost-irq fault, until ISR is read */
	bool reset_stuck;	/* stuck-reset fault, until a reset that works */

	/* Serial lines (eeprom.c, mii.c) */
	uint32_t mear;
	uint16_t eeprom[DP83820_EE_WORDS];
	uint32_t ee_shift, ee_bits, ee_out;
	bool ee_write_enable, ee_do;
	unsigned int ee_out_bits;
	uint64_t mii_shift;
	unsigned int mii_out_bits;
	uint32_t mii_out;
	unsigned int mii_in_bits;
	unsigned int mii_write_to;	/* register; 32: of another PHY */
	uint16_t phy[32];
	bool link_latched_low;

	/* Link (link.c) */
	struct wire *wire;	/* NULL: nothing plugged in */
	bool link;
	unsigned int speed;	/* Mb/s of the PHY */
	bool full;
	bool negotiating;
	bool negotiated;
	uint64_t negotiated_at;
	struct wire_ability partner;
	uint64_t down_until;	/* link-down fault: NEVER: until cleared; 0: none */

	/* Transmitter */
	struct queue tx[QUEUES];
	unsigned int tx_next;	/* queue, when they take turns */
	unsigned int tx_queue;	/* of the packet in hand */
	struct descriptor tx_desc;	/* its last one, while the frame waits */
	bool tx_in_packet, tx_waiting, tx_hung, tx_bad, tx_want_room;
	uint32_t tx_extsts, tx_first;
	size_t tx_len;
	uint64_t tx_at;		/* when the wire is free again (rate) */
	uint64_t paused_until;
	uint8_t *tx_frame;	/* the finished frame that waits */
	uint8_t tx_space[VLAN + WIRE_FRAME_MAX];	/* a frame is put together behind room for a tag */

	/* Receiver */
	struct queue rx[QUEUES];
	bool rx_on;		/* since RXE, until RXD, RXR or RST */
	size_t rx_at;		/* bytes of the FIFO's first frame that are stored already */
	struct ring *fifo;
	struct ring_end fifo_in, fifo_out;
	size_t fifo_bytes;
	unsigned int fifo_frames;
	bool rx_choked;		/* pause was sent */
	uint64_t held_until;	/* a frame waits in the wire for room in the FIFO; 0: none */
	uint8_t rx_wire[WIRE_FRAME_MAX];	/* a frame as it came */
	uint8_t rx_buf[WIRE_FRAME_MAX + FCS];	/* as it is stored */

	/* Engine */
	pthread_t engine;
	bool started, stop, asleep;
	int epoll_fd, kick_fd;
	struct delayed delayed[16];
	unsigned int delays;

	struct dp83820_fault fault[FAULTS_ROOM];
	struct faults faults;
};

static inline struct nic *to_nic(struct usrdrv_model *m)
{
	return (struct nic *)m;
}

/* In D3 the function answers nothing but configuration accesses. */
static inline bool nic_powered(const struct nic *n)
{
	return (n->cfg_space[DP83820_CFG_PMCSR] & DP83820_PM_STATE) == 0;
}

static inline uint32_t nic_config_read(const struct nic *n, uint32_t offset, unsigned int width)
{
	uint32_t value = 0;

	memcpy(&value, n->cfg_space + offset, width);
	return value;
}

/* engine.c */
int nic_engine_start(struct nic *n);
void nic_engine_stop(struct nic *n);

/* config.c */
void nic_config_write(struct nic *n, uint32_t offset, unsigned int width, uint32_t value);
void nic_reset(struct nic *n);

/* regs.c */
uint32_t nic_reg_read(struct nic *n, uint32_t offset, unsigned int width);
void nic_reg_write(struct nic *n, uint32_t offset, unsigned int width, uint32_t value);
void nic_soft_reset(struct nic *n, bool all);

/* tx.c */
void nic_tx_command(struct nic *n, unsigned int queues, bool enable, bool disable);
void nic_tx_reset(struct nic *n);
bool nic_tx_active(const struct nic *n);
bool nic_tx_run(struct nic *n);
uint64_t nic_tx_timer(const struct nic *n);

/* mii.c */
void nic_mear_write(struct nic *n, uint32_t value);
uint32_t nic_mear_read(struct nic *n);

/* rx.c */
void nic_rx_command(struct nic *n, unsigned int queues, bool enable, bool disable);
void nic_rx_reset(struct nic *n);
bool nic_rx_active(const struct nic *n);
bool nic_rx_work(struct nic *n, uint64_t now);
bool nic_rx_wants_frames(const struct nic *n);
void nic_rx_frame(struct nic *n, const uint8_t *frame, size_t len, bool bad_fcs, bool looped);

/* pause.c */
bool nic_pause_receive(struct nic *n, const uint8_t *frame, size_t len);
void nic_pause_send(struct nic *n, uint16_t time);
void nic_pause_levels(struct nic *n);

/* link.c */
void nic_phy_reset(struct nic *n);
uint16_t nic_phy_read(struct nic *n, unsigned int reg);
void nic_phy_write(struct nic *n, unsigned int reg, uint16_t value);
void nic_tbi_write(struct nic *n, uint32_t value);
void nic_link_update(struct nic *n, uint64_t now);
uint64_t nic_link_timer(const struct nic *n);
uint32_t nic_link_pins(const struct nic *n);
bool nic_carries(const struct nic *n);

/* wake.c, wire.c */
void nic_wake(struct nic *n, const uint8_t *frame, size_t len);
bool nic_wire_put(struct nic *n, const void *frame, size_t len, uint32_t flags);
bool nic_wire_send(struct nic *n, uint8_t *frame, size_t len, uint32_t flags);
void nic_wire_due(struct nic *n, uint64_t now);
uint64_t nic_wire_timer(const struct nic *n);

/* dma.c */
bool nic_can_master(const struct nic *n);
int nic_dma_read(struct nic *n, uint64_t addr, void *buf, size_t len);
int nic_dma_write(struct nic *n, uint64_t addr, const void *buf, size_t len);
int nic_fetch(struct nic *n, uint64_t at, struct descriptor *d);
int nic_store_status(struct nic *n, uint64_t at, uint32_t cmdsts, const uint32_t *extsts);
int nic_refresh(struct nic *n, struct queue *q, bool *there);

/* mib.c */
void nic_mib(struct nic *n, unsigned int counter);
uint32_t nic_mib_read(struct nic *n, unsigned int counter);
uint32_t nic_mibc_read(const struct nic *n);
void nic_mibc_write(struct nic *n, uint32_t value);

/* irq.c */
uint64_t nic_now(void);
void nic_kick(struct nic *n);
void nic_raise(struct nic *n, uint32_t bits);
void nic_raise_late(struct nic *n, uint32_t bits);
void nic_irq_update(struct nic *n);

/* inject.c */
void nic_faults_init(struct nic *n);

/* fault.c */
bool nic_fault(struct nic *n, unsigned int kind, unsigned int direction);
double nic_fault_ms(struct nic *n, unsigned int kind, unsigned int direction);

/* eeprom.c */
void nic_eeprom_init(struct nic *n);
bool nic_eeprom_good(const struct nic *n);
void nic_eeprom_load(struct nic *n);
void nic_eeprom_lines(struct nic *n, uint32_t before, uint32_t now);

/* filter.c */
unsigned int nic_filter(const struct nic *n, const uint8_t *frame, size_t len, bool *accept);
bool nic_pattern(const struct nic *n, unsigned int pattern, const uint8_t *frame, size_t len);
bool nic_is_us(const struct nic *n, const uint8_t *address);
uint32_t nic_crc(const uint8_t *data, size_t len);

/* offload.c */
bool nic_wants_checksum(const struct nic *n, uint32_t extsts);
void nic_put_checksums(struct nic *n, uint8_t *frame, size_t len, uint32_t extsts);
uint32_t nic_check(const uint8_t *frame, size_t len);

#endif
