/* SPDX-License-Identifier: MIT */
/* A DP83820 model for a fuzzer: the machine's memory, registers, and chance. */
#ifndef USRDRV_TESTS_FUZZ_NIC_H
#define USRDRV_TESTS_FUZZ_NIC_H

#include <stdint.h>
#include <stdlib.h>

#include "dp83820/dp83820.h"
#include "base/testhost.h"
#include "usrdrv/dev.h"
#include "usrdrv/dp83820_regs.h"

#define BASE	0x10000000u
#define MEM	(256u << 10)
#define BAR	1u

static uint8_t memory[MEM];

static uint32_t any(uint32_t below)
{
	return (uint32_t)random() % below;
}

static uint32_t bits32(void)
{
	return (uint32_t)random() << 16 ^ (uint32_t)random();
}

static void reg(struct usrdrv_model *m, uint32_t offset, uint32_t value)
{
	m->ops->write(m, BAR, offset, 4, value);
}

#endif
