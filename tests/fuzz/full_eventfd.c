// SPDX-License-Identifier: MIT
/*
 * The INTx line of the vfio-user server, and a client that fills its eventfd and makes it one whose writers wait, each time
 * between the server's look at it and the signal: poll() is played (-Dpoll=played_poll).
 *
 * Ends with 0 and how often it looked; hangs if the server waits for its client.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vfio_user/server.h"

static int client, looks;

#undef poll
int poll(struct pollfd *fds, nfds_t n, int timeout);
int played_poll(struct pollfd *fds, nfds_t n, int timeout);

static void fill(void)
{
	eventfd_t count;

	fcntl(client, F_SETFL, O_NONBLOCK);
	eventfd_read(client, &count);
	eventfd_write(client, UINT64_MAX - 1);
	fcntl(client, F_SETFL, 0);
}

int played_poll(struct pollfd *fds, nfds_t n, int timeout)
{
	int ret = poll(fds, n, timeout);

	looks++;
	fill();
	return ret;
}

int main(void)
{
	struct vu_irq irq;

	client = eventfd(0, EFD_NONBLOCK);
	vu_irq_init(&irq);
	if (client < 0)
		return 1;
	vu_irq_connect(&irq, dup(client));
	for (int i = 0; i < 200; i++) {
		vu_irq_level(&irq, 1);
		vu_irq_level(&irq, 0);
		vu_irq_act(&irq, VU_IRQ_UNMASK);
		vu_irq_act(&irq, VU_IRQ_TRIGGER);
	}
	vu_irq_destroy(&irq);
	printf("%d\n", looks);
	return 0;
}
