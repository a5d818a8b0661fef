// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include "qtest.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define MOST_OWED	64	/* both sides of the socket have room for that */

/* One line of QEMU's, without its end. -EPROTO: it is none that fits. */
static int take(struct qtest *q, const char *line)
{
	unsigned int number;
	char to[8];

	if (sscanf(line, "IRQ %7s %u", to, &number) == 2 && number < 64) {
		if (!strcmp(to, "raise"))
			q->lines |= 1ull << number;
		else
			q->lines &= ~(1ull << number);
		return 0;
	}
	if (strncmp(line, "OK", 2) || !q->owed)
		return -EPROTO;
	q->owed--;
	q->value = strtoull(line + 2, NULL, 16);
	return 0;
}

/* Read what has come; flags: of recv(). Return: 0; -EAGAIN nothing came; -ENODEV QEMU is gone. */
static int receive(struct qtest *q, int flags)
{
	ssize_t got = recv(q->fd, q->in + q->have, sizeof(q->in) - q->have, flags);
	char *line = q->in, *end;

	if (got < 0 && errno == EINTR)
		return 0;
	if (got < 0 && flags & MSG_DONTWAIT && (errno == EAGAIN || errno == EWOULDBLOCK))
		return -EAGAIN;
	if (got <= 0)
		return -ENODEV;
	q->have += (size_t)got;
	while ((end = memchr(line, '\n', q->have - (size_t)(line - q->in)))) {
		*end = 0;
		if (take(q, line))
			return -ENODEV;
		line = end + 1;
	}
	q->have -= (size_t)(line - q->in);
	memmove(q->in, line, q->have);
	return q->have < sizeof(q->in) ? 0 : -ENODEV;
}

static int say(struct qtest *q, const char *text, size_t len)
{
	while (len) {
		ssize_t sent = send(q->fd, text, len, MSG_NOSIGNAL);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return -ENODEV;
		text += sent;
		len -= (size_t)sent;
	}
	q->owed++;
	return q->owed < MOST_OWED ? 0 : qtest_settle(q);
}

static char letter(unsigned int width)
{
	return width == 1 ? 'b' : width == 2 ? 'w' : width == 4 ? 'l' : 'q';
}

/**
 * qtest_write - write, and do not wait for the answer
 * @q:		conversation
 * @port:	1: to an I/O port, 0: to memory
 * @width:	bytes; 8 to memory only
 * @address:	in the machine
 * @value:	value
 *
 * Return: 0, -ENODEV.
 */
int qtest_write(struct qtest *q, int port, unsigned int width, uint64_t address, uint64_t value)
{
	char text[64];
	int len = snprintf(text, sizeof(text), "%s%c 0x%" PRIx64 " 0x%" PRIx64 "\n", port ? "out" : "write",
			   letter(width), address, value);

	return say(q, text, (size_t)len);
}

/**
 * qtest_read - ask for what is at an address; its value is there after qtest_settle()
 * @q:		conversation
 * @port:	1: an I/O port, 0: memory
 * @width:	bytes; 8 of memory only
 * @address:	in the machine
 *
 * Return: 0, -ENODEV.
 */
int qtest_read(struct qtest *q, int port, unsigned int width, uint64_t address)
{
	char text[64];
	int len = snprintf(text, sizeof(text), "%s%c 0x%" PRIx64 "\n", port ? "in" : "read", letter(width), address);

	return say(q, text, (size_t)len);
}

/**
 * qtest_settle - wait for all answers
 * @q:	conversation
 *
 * Return: 0, -ENODEV.
 */
int qtest_settle(struct qtest *q)
{
	int ret = 0;

	while (q->owed && !ret)
		ret = receive(q, 0);
	return ret;
}

/**
 * qtest_listen - take note of what QEMU has said by itself
 * @q:	conversation
 *
 * Return: 0, -ENODEV.
 */
int qtest_listen(struct qtest *q)
{
	int ret;

	do
		ret = receive(q, MSG_DONTWAIT);
	while (!ret);
	return ret == -EAGAIN ? 0 : ret;
}
