// SPDX-License-Identifier: MIT
/* The management counters (section 3.15). */
#include <string.h>

#include "nic.h"

#define MIB_WARNING	0x8000u

/* Count an event in the MIB; counters stand still while they are frozen. */
void nic_mib(struct nic *n, unsigned int counter)
{
	uint32_t top = counter == DP83820_MIB_SQE ? 0xff : 0xffff;

	if ((n->mibc & DP83820_MIBC_FRZ) || n->mib[counter] == top)
		return;
	if (++n->mib[counter] == (top + 1) / 2)
		nic_raise(n, DP83820_ISR_MIB);
}

uint32_t nic_mib_read(struct nic *n, unsigned int counter)
{
	uint32_t value = n->mib[counter];

	n->mib[counter] = 0;
	return value;
}

uint32_t nic_mibc_read(const struct nic *n)
{
	for (unsigned int i = 0; i < DP83820_MIBS; i++)
		if (n->mib[i] >= (i == DP83820_MIB_SQE ? 0x80 : MIB_WARNING))
			return n->mibc | DP83820_MIBC_WRN;
	return n->mibc;
}

void nic_mibc_write(struct nic *n, uint32_t v)
{
	if (v & DP83820_MIBC_ACLR)
		memset(n->mib, 0, sizeof(n->mib));
	n->mibc = v & DP83820_MIBC_FRZ;
	if (v & DP83820_MIBC_MIBS)
		for (unsigned int i = 0; i < DP83820_MIBS; i++)
			nic_mib(n, i);
}
