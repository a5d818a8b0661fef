// SPDX-License-Identifier: MIT
/*
 * Interrupts of a device of QEMU's. INTx comes as a line on the socket; a message of MSI or MSI-X is a write to the
 * doorbell of another device of that machine, an ivshmem-doorbell, at which QEMU signals an eventfd of ours.
 *
 * See docs/design/qemu.md.
 */
#define _GNU_SOURCE
#include "qemu_device.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define FIRST_LINE	16	/* of those that PCI devices raise; below are the machine's own */
#define EACH		256	/* vectors of a peer */

/* Configuration space: PCI 3.0, PCI Express 3.0 */
#define CAPABILITIES	0x34
#define IRQ_PIN		0x3d
#define CAP_MSI		0x05
#define CAP_EXPRESS	0x10
#define CAP_MSIX	0x11
#define MSI_ENABLE	0x0001
#define MSI_64		0x0080
#define MSIX_ENABLE	0x8000
#define MSIX_MASKED	0x4000
#define MSIX_SIZE	0x07ff

void qemu_deliver(struct qemu *q)
{
	if (q->masked || q->intx_fd < 0 || !(q->talk.lines >> FIRST_LINE))
		return;
	q->masked = 1;
	eventfd_write(q->intx_fd, 1);
}

/* Hears of INTx while nobody else reads the socket. */
void *qemu_listen(void *arg)
{
	struct qemu *q = arg;
	struct pollfd fds[] = { { .fd = q->stop_fd, .events = POLLIN }, { .fd = q->talk.fd, .events = POLLIN } };
	eventfd_t count;

	for (;;) {
		poll(fds, 2, -1);
		pthread_mutex_lock(&q->lock);
		eventfd_read(q->stop_fd, &count);
		if (q->stop || q->dev.gone || qemu_result(q, qtest_listen(&q->talk)))
			break;
		qemu_deliver(q);
		fds[1].fd = q->intx_fd < 0 ? -1 : q->talk.fd;
		pthread_mutex_unlock(&q->lock);
	}
	pthread_mutex_unlock(&q->lock);
	return NULL;
}

/* A message of the protocol of ivshmem (QEMU, docs/specs/ivshmem-spec.rst): a number, and for a vector its eventfd. */
static int tell_doorbell(struct qemu *q, int64_t number, int fd)
{
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(fd))];
	} control = { 0 };
	struct iovec iov = { .iov_base = &number, .iov_len = sizeof(number) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t sent;

	if (fd >= 0) {
		m.msg_control = &control;
		m.msg_controllen = sizeof(control);
		control.h = (struct cmsghdr){
			.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(fd)),
		};
		memcpy(CMSG_DATA(&control.h), &fd, sizeof(fd));
	}
	do
		sent = sendmsg(q->machine.peers_fd, &m, MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	return sent == sizeof(number) ? 0 : qemu_result(q, -ENODEV);
}

/* Wait until QEMU has read what was told: a peer of a number of its own, told last, can be rung. */
static int wait_for_doorbell(struct qemu *q, int echo)
{
	struct pollfd heard = { .fd = echo, .events = POLLIN };
	int ret = tell_doorbell(q, q->echo, echo);

	while (!ret && !heard.revents) {
		ret = qemu_result(q, qtest_write(&q->talk, 0, 4, q->machine.doorbell, q->echo << 16));
		if (!ret)
			ret = qemu_result(q, qtest_settle(&q->talk));
		poll(&heard, 1, 1);
	}
	q->echo++;
	return ret;
}

/* Have the eventfds of n vectors behind the machine's doorbell. None is taken away: QEMU 11 does not survive that. */
int qemu_tell_vectors(struct qemu *q, const int *fds, unsigned int n)
{
	int echo, ret = 0;

	if (n <= q->told)
		return 0;
	echo = eventfd(0, EFD_CLOEXEC);
	if (echo < 0)
		return -errno;
	for (; q->told < n && !ret; q->told++)
		ret = tell_doorbell(q, q->told / EACH, fds[q->told]);
	if (!ret)
		ret = wait_for_doorbell(q, echo);
	close(echo);
	return ret;
}

/* An entry of the MSI-X table; one that is not in use is masked. */
static int set_entry(struct qemu *q, uint8_t bar, uint64_t at, unsigned int vector)
{
	const uint64_t doorbell = q->machine.doorbell;
	const struct usrdrv_write w[] = {
		{ .region = bar, .width = 4, .offset = at, .value = (uint32_t)doorbell },
		{ .region = bar, .width = 4, .offset = at + 4, .value = doorbell >> 32 },
		{ .region = bar, .width = 4, .offset = at + 8, .value = vector / EACH << 16 | vector % EACH },
		{ .region = bar, .width = 4, .offset = at + 12, .value = vector >= q->n },
	};

	return qemu_post(q, w, 4);
}

static int set_msix(struct qemu *q)
{
	unsigned int cap = q->cap[USRDRV_IRQ_MSIX];
	uint32_t table, command;
	int ret = qemu_get_config(q, cap + 4, 4, &table);

	if (!ret && !q->machine.bar[table & 7].base)
		ret = -EIO;
	if (!ret)
		ret = qemu_get_config(q, COMMAND, 2, &command);
	if (!ret)
		ret = qemu_set_config(q, COMMAND, 2, command | COMMAND_MEMORY);	/* the table is in a BAR */
	/* All that were ever in use: the others are masked. */
	for (unsigned int i = 0; i < q->told && i < q->dev.vectors[USRDRV_IRQ_MSIX] && !ret; i++)
		ret = set_entry(q, table & 7, (table & ~7u) + 16 * i, i);
	if (!ret)
		ret = qemu_set_config(q, COMMAND, 2, command);
	return ret ? ret : qemu_change_config(q, cap + 2, MSIX_MASKED, MSIX_ENABLE);
}

/* Its messages differ in the lowest bits of their data. */
static int set_msi(struct qemu *q)
{
	unsigned int cap = q->cap[USRDRV_IRQ_MSI], log = 0;
	uint32_t control;
	int ret = qemu_get_config(q, cap + 2, 2, &control), wide = control & MSI_64 ? 4 : 0;

	while (1u << log < q->n)
		log++;
	if (!ret)
		ret = qemu_set_config(q, cap + 4, 4, (uint32_t)q->machine.doorbell);
	if (!ret && wide)
		ret = qemu_set_config(q, cap + 8, 4, (uint32_t)(q->machine.doorbell >> 32));
	if (!ret)
		ret = qemu_set_config(q, cap + 8 + (unsigned int)wide, 2, 0);
	return ret ? ret : qemu_change_config(q, cap + 2, 7 << 4, log << 4 | MSI_ENABLE);
}

/* Program what irq_connect chose, which a reset has undone. */
int qemu_set_irqs(struct qemu *q)
{
	int ret = 0;

	if (q->cap[USRDRV_IRQ_MSIX])
		ret = qemu_change_config(q, q->cap[USRDRV_IRQ_MSIX] + 2, MSIX_ENABLE, 0);
	if (!ret && q->cap[USRDRV_IRQ_MSI])
		ret = qemu_change_config(q, q->cap[USRDRV_IRQ_MSI] + 2, MSI_ENABLE, 0);
	if (ret || !q->n)
		return ret;
	return q->dev.irq_kind == USRDRV_IRQ_MSIX ? set_msix(q) : set_msi(q);
}

/* Interrupts and capabilities. */
int qemu_learn_irqs(struct qemu *q)
{
	uint32_t at, head;
	int ret = qemu_get_config(q, IRQ_PIN, 1, &at);

	q->dev.vectors[USRDRV_IRQ_INTX] = at != 0;
	if (!ret)
		ret = qemu_get_config(q, CAPABILITIES, 1, &at);
	for (unsigned int i = 0; at && i < 48 && !ret; i++, at = head >> 8 & 0xfc) {
		ret = qemu_get_config(q, at, 4, &head);
		switch (head & 0xff) {
		case CAP_MSI:
			q->cap[USRDRV_IRQ_MSI] = at;
			q->dev.vectors[USRDRV_IRQ_MSI] = 1u << (head >> 17 & 7);
			break;
		case CAP_MSIX:
			q->cap[USRDRV_IRQ_MSIX] = at;
			q->dev.vectors[USRDRV_IRQ_MSIX] = (head >> 16 & MSIX_SIZE) + 1;
			break;
		case CAP_EXPRESS:
			q->express = at;
			break;
		}
	}
	return ret;
}
