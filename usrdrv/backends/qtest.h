/* SPDX-License-Identifier: MIT */
/*
 * The conversation with a QEMU that has `-qtest` on a socket: a line for each access, answered by a line, and lines
 * between them that tell of the interrupt controller's inputs. Source: QEMU, system/qtest.c. The caller has a lock.
 */
#ifndef USRDRV_QTEST_H
#define USRDRV_QTEST_H

#include <stddef.h>
#include <stdint.h>

struct qtest {
	int fd;
	unsigned int owed;	/* answers that are still to come */
	uint64_t value;		/* of the latest answer */
	uint64_t lines;		/* inputs of the interrupt controller that are up, a bit each */
	size_t have;		/* bytes of a line that is not complete */
	char in[256];
};

int qtest_write(struct qtest *q, int port, unsigned int width, uint64_t address, uint64_t value);
int qtest_read(struct qtest *q, int port, unsigned int width, uint64_t address);
int qtest_settle(struct qtest *q);
int qtest_listen(struct qtest *q);

#endif
