// SPDX-License-Identifier: MIT
/*
 * Random register accesses and descriptor lists of random shape against the DP83820 model, whose wire
 * or MAC loops frames back. As a program: fuzz_nic SECONDS SEED
 */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fuzz_nic.h"

/* A list from `at` on: mostly sane, in either format. */
static void list(uint32_t at, bool wide, bool receive)
{
	uint32_t stride = 32, n = 1 + any(12);

	for (uint32_t i = 0; i < n; i++) {
		uint32_t next = i + 1 < n ? BASE + at + (i + 1) * stride : any(2) ? BASE + at : 0;
		uint32_t buffer = BASE + any(any(20) ? MEM : MEM + 8192), cmdsts = any(any(4) ? 200 : 20000);
		uint32_t w[6];

		if (!any(50))
			next = bits32();
		cmdsts |= (any(3) ? 0 : DP83820_MORE) | (any(2) ? DP83820_INTR : 0) | (any(20) ? 0 : DP83820_SUPCRC);
		if (receive ? !any(10) : any(10))
			cmdsts |= DP83820_OWN;
		w[0] = next;
		w[wide ? 1 : 4] = 0;
		w[wide ? 2 : 1] = buffer;
		w[wide ? 3 : 5] = 0;
		w[wide ? 4 : 2] = cmdsts;
		w[wide ? 5 : 3] = bits32() & 0x3bffff;
		memcpy(memory + at + i * stride, w, sizeof(w));
	}
}

/* Something like an IPv4 packet somewhere in memory, so that checksums and filters have work. */
static void packet(void)
{
	static const uint8_t start[] = {
		0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 0x08, 0x00, 0x45, 0, 0, 60, 0, 0, 0, 0, 64, 6,
	};
	uint32_t at = any(MEM - 256) & ~7u;

	memcpy(memory + at, start, sizeof(start));
	memory[at + 12 + any(16)] ^= (uint8_t)any(256);
	memory[at + any(12)] ^= any(2) ? 0 : 0xff;
}

static void step(struct usrdrv_model *m)
{
	bool wide = any(2);
	struct dp83820_fault fault = {
		.base = { .kind = any(DP83820_FAULT_KINDS + 1), .on = any(4), .count = 1 + any(3) },
		.every = any(3), .ms = any(3),
	};

	switch (any(16)) {
	case 0:
		if (any(2)) {	/* a fault's interrupt is often another one's hit */
			reg(m, DP83820_CFG, DP83820_CFG_PINT_LNK | DP83820_CFG_MODE_1000);
			m->ops->read(m, BAR, DP83820_ISR, 4);
			reg(m, DP83820_IMR, DP83820_ISR_PHY);
			reg(m, DP83820_IER, 1);
		}
		faults_add(dp83820_faults(m), &fault.base);
		break;
	case 1:
		faults_clear(dp83820_faults(m), any(4));
		break;
	case 2 ... 6:
		reg(m, DP83820_CFG, (wide ? DP83820_CFG_M64ADDR : 0) | (any(4) ? DP83820_CFG_EXTSTS_EN : 0) |
		    DP83820_CFG_MODE_1000);
		packet();
		list(0x1000, wide, false);
		list(0x2000, wide, true);
		reg(m, DP83820_TXDP, BASE + 0x1000);
		reg(m, DP83820_RXDP, BASE + 0x2000);
		reg(m, DP83820_RFCR, 0xf0000000 | (bits32() & 0x0ff80000));
		reg(m, DP83820_CR, DP83820_CR_RXE);
		reg(m, DP83820_CR, DP83820_CR_TXE | (any(8) ? 0 : bits32() & 0x1ff00));
		break;
	case 7:
		m->ops->write(m, USRDRV_REGION_CONFIG, 4, 2, 7);
		m->ops->write(m, USRDRV_REGION_CONFIG, 0x44, 2, 0);
		break;
	case 8:
		if (!any(8))
			m->ops->reset(m);
		break;
	case 9:
		m->ops->read(m, any(10), any(0x1100), 1u << any(3));
		break;
	case 10:
		m->ops->write(m, USRDRV_REGION_CONFIG, any(0x104), 1u << any(3), bits32());
		break;
	case 11:
		for (unsigned int i = 0; i < 40; i++)	/* serial lines */
			reg(m, DP83820_MEAR, any(128));
		break;
	case 12:
		m->ops->read(m, BAR, DP83820_ISR, 4);
		break;
	case 13:
		reg(m, DP83820_VRCR, any(256));
		reg(m, DP83820_VTCR, any(16));
		reg(m, DP83820_PQCR, any(16));
		break;
	default:
		m->ops->write(m, BAR, any(0x104), 1u << any(3), bits32());
	}
}

int main(int argc, char **argv)
{
	time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 5);
	unsigned long runs = 0, sent = 0, received = 0;

	srandom(argc > 2 ? (unsigned int)atoi(argv[2]) : 1);
	while (time(NULL) < end) {
		struct dp83820_config config = {
			.mac = { 2, 0, 0, 0, 0, 1 }, .phy = 1, .wire = DP83820_WIRE_LOOP, .wire_fd = -1, .record_fd = -1,
			.fibre = !any(4), .rate = any(4) ? 0 : 1000,
		};
		struct usrdrv_testhost host = { .base = BASE, .len = MEM, .mem = memory };
		struct dp83820_counters count;
		struct usrdrv_model *m;

		if (dp83820_create(&config, &m))
			abort();
		usrdrv_testhost_attach(&host, m);
		m->ops->write(m, USRDRV_REGION_CONFIG, 4, 2, 7);
		reg(m, DP83820_RXCFG, 0xfc000000);
		reg(m, DP83820_TXCFG, any(2) ? 0xd0700000 : 0xf0700000);	/* the latter loops in the MAC */
		usleep(any(2) ? 25000 : 100);
		for (unsigned int i = 0; i < 400; i++)
			step(m);
		usleep(200);
		dp83820_counters(m, &count);
		sent += count.tx_frames;
		received += count.rx_frames;
		m->ops->destroy(m);
		runs++;
	}
	printf("%lu runs %lu sent %lu received\n", runs, sent, received);
	return 0;
}
