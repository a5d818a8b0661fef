// SPDX-License-Identifier: MIT
/*
 * Random register accesses against the CMD680 model, with PRD tables and data in
 * flat memory. As a libFuzzer target:
 *
 *	clang -g -fsanitize=fuzzer,address,undefined ... tests/fuzz/fuzz_model.c devices/<model>.c
 *
 * or with -DFUZZ_MAIN as a program: fuzz_model SECONDS SEED
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "cmd680/cmd680.h"
#include "base/testhost.h"
#include "usrdrv/dev.h"

#define BASE	0x10000000u
#define MEM	(256u << 10)
#define DISK	(1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	const uint8_t *at;
	size_t left;
};

static uint32_t take(struct input *in, unsigned int n)
{
	uint32_t v = 0;

	while (n-- && in->left) {
		v = v << 8 | *in->at++;
		in->left--;
	}
	return v;
}

static uint8_t *memory;
static int disk_fd = -1;

static void setup(struct cmd680_config *config, struct input *in)
{
	static const uint16_t puis[] = { 0, 0x37c8, 0x738c, 0x8c73, 0xc837 };

	memset(config, 0, sizeof(*config));
	config->pci_class = 0x0180;
	config->strict = take(in, 1) % 16 == 0;	/* seldom: it says so each time */
	config->cable80[0] = 1;
	for (int i = 0; i < 3; i++) {
		struct cmd680_drive_config *d = &config->drive[i];

		d->present = 1;
		d->fd = i == 1 ? disk_fd : -1;
		d->size = DISK;
		d->read_only = i == 2;
		d->max_udma = 6;
		d->max_mwdma = 2;
		d->lba48 = 1;
		d->trim = 1;
		d->puis = puis[take(in, 1) % 16 % 5];
		d->spin_up_ms = take(in, 1) % 16 == 0;
		d->no_flush = take(in, 1) % 16 == 0;
		strcpy(d->model, "FUZZ");
	}
}

/* A DMA command with a table of random shape: random accesses alone would hardly ever make one. */
static void dma(struct usrdrv_model *m, struct input *in)
{
	static const uint8_t ops[] = { 0xc8, 0xca, 0x25, 0x35, 0x3d, 0x06, 0x20, 0x30, 0xc4, 0x39 };
	unsigned int ch = take(in, 1) & 1, n = take(in, 1) % 5;
	uint8_t op = ops[take(in, 1) % sizeof(ops)];
	uint32_t tf = 0x80 + 0x40 * ch, mode = take(in, 1);

	for (unsigned int i = 0; i <= n; i++) {
		uint32_t prd[2] = { BASE + take(in, 3) % (MEM + 4096), take(in, 2) };

		if (i == n && mode & 2)
			prd[1] |= 0x80000000u;
		memcpy(memory + 0x1000 + i * 8, prd, 8);
	}
	m->ops->write(m, 5, 8 * ch + 4, 4, BASE + 0x1000);
	m->ops->write(m, 5, 8 * ch, 1, mode & 8);
	m->ops->write(m, 5, tf + 6, 1, 0xe0 | (mode & 0x10));
	for (unsigned int i = 1; i < 6; i++)
		m->ops->write(m, 5, tf + i, 1, i == 1 ? 1 : take(in, 1) & (i > 2 ? 15 : 255));
	m->ops->write(m, 5, tf + 7, 1, op);
	m->ops->write(m, 5, 8 * ch, 1, 1 | (mode & 8));
	for (unsigned int i = 0; i < (mode & 0x20 ? 300 : 0); i++)
		m->ops->write(m, 5, tf, 4, i);
	for (unsigned int i = 0; i < (mode & 0x40 ? 300 : 0); i++)
		m->ops->read(m, 5, tf, 4);
	m->ops->write(m, 5, 8 * ch, 1, 0);
	m->ops->read(m, 5, tf + 7, 1);
	m->ops->write(m, 5, 8 * ch + 2, 1, 6);
	if (mode & 0x80) {
		m->ops->write(m, 5, tf + 0xa, 1, 4);
		m->ops->write(m, 5, tf + 0xa, 1, 0);
	}
}

static void fault(struct usrdrv_model *m, struct input *in)
{
	struct cmd680_fault f = {
		.base = {
			.kind = take(in, 1) % (CMD680_FAULT_KINDS + 1), .on = take(in, 1) & 3, .count = take(in, 1) % 4,
		},
		.drive = (int32_t)(take(in, 1) % 5) - 1, .opcode = -1, .above = -1,
		.lba = take(in, 1), .sectors = 1 + take(in, 1) % 4, .mbps = take(in, 1),
		.seek_ms = take(in, 1) % 3 / 10.0,
	};
	struct cmd680_fault list[4];

	faults_add(cmd680_faults(m), &f.base);
	faults_list(cmd680_faults(m), list, 4);
}

static void step(struct usrdrv_model *m, struct input *in)
{
	static const unsigned int regions[] = { 5, 5, 5, 5, 7, 4, 0, 1, 2, 3, 6, 8, 5, 5, 5, 7 };
	uint32_t what = take(in, 1), region = regions[what >> 4], width = 1u << (take(in, 1) % 3);
	uint32_t offset;

	switch (what & 15) {
	case 0:
		fault(m, in);
		break;
	case 1:
		faults_clear(cmd680_faults(m), take(in, 1) & 7);
		break;
	case 2 ... 5:
		dma(m, in);
		break;
	case 6:
		m->ops->write(m, USRDRV_REGION_CONFIG, 4, 2, 7);
		m->ops->write(m, 5, 0x48, 4, 0);
		break;
	case 7:
		if (take(in, 1) < 8)
			m->ops->reset(m);
		break;
	case 8:
		m->ops->read(m, region, take(in, 4), width);
		break;
	case 9 ... 11:
		m->ops->read(m, region, take(in, 1), width);
		break;
	default:
		offset = take(in, 1);
		m->ops->write(m, region, offset, width, take(in, width));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	struct usrdrv_testhost host = { .base = BASE, .len = MEM };
	struct cmd680_config config;
	struct usrdrv_model *m;

	if (!memory) {
		memory = calloc(1, MEM);
		disk_fd = memfd_create("fuzz", MFD_CLOEXEC);
		if (!memory || disk_fd < 0 || ftruncate(disk_fd, DISK))
			abort();
	}
	setup(&config, &in);
	if (cmd680_create(&config, &m))
		abort();
	host.mem = memory;
	host.split = take(&in, 1) & 1 ? 4096 : 0;
	usrdrv_testhost_attach(&host, m);
	m->ops->write(m, USRDRV_REGION_CONFIG, 4, 2, 7);
	while (in.left)
		step(m, &in);
	m->ops->destroy(m);
	return 0;
}

#ifdef FUZZ_MAIN
int main(int argc, char **argv)
{
	time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 5);
	unsigned long runs = 0;
	static uint8_t data[8192];

	srandom(argc > 2 ? (unsigned int)atoi(argv[2]) : 1);
	while (time(NULL) < end) {
		size_t n = (size_t)random() % sizeof(data);

		for (size_t i = 0; i < n; i++)
			data[i] = (uint8_t)(random() >> 8);
		LLVMFuzzerTestOneInput(data, n);
		runs++;
	}
	printf("%lu runs\n", runs);
	return 0;
}
#endif
