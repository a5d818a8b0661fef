// SPDX-License-Identifier: MIT
/*
 * A signal to a peer that must not make us wait. A write to an eventfd waits while that is full, and neither poll() nor
 * O_NONBLOCK help: the peer has the same file, and may fill it and change its flags in between. RWF_NOWAIT is not for
 * writes to eventfds. What the kernel signals never waits, and it does so at the end of an asynchronous read: io_submit(2),
 * IOCB_FLAG_RESFD. A read of nothing from /dev/null is at its end when io_submit() returns.
 */
#define _GNU_SOURCE
#include "peer_signal.h"

#include <fcntl.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EVENTS	64u

/**
 * peer_signal_init - make what signals
 * @s:	of one peer
 */
void peer_signal_init(struct peer_signal *s)
{
	aio_context_t aio = 0;

	*s = (struct peer_signal){ .null = open("/dev/null", O_RDONLY | O_CLOEXEC) };
	if (s->null >= 0 && !syscall(SYS_io_setup, EVENTS, &aio))
		s->aio = aio;
}

/**
 * peer_signal_destroy - give it back
 * @s:	of one peer
 */
void peer_signal_destroy(struct peer_signal *s)
{
	if (s->aio)
		syscall(SYS_io_destroy, s->aio);
	if (s->null >= 0)
		close(s->null);
}

/**
 * peer_signal_fits - see whether a descriptor is an eventfd
 * @fd:	of the peer; a pipe, a socket or a file could make a writer wait, for ever
 *
 * Return: 1 or 0.
 */
int peer_signal_fits(int fd)
{
	static const char want[] = "anon_inode:[eventfd]";
	char link[32], kind[sizeof(want)];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	return readlink(link, kind, sizeof(kind)) == sizeof(want) - 1 && !memcmp(kind, want, sizeof(want) - 1);
}

/* A kernel without AIO, or one that has no context left: a peer that wins the race makes us wait. */
static void write_it(int eventfd)
{
	struct pollfd p = { .fd = eventfd, .events = POLLOUT };

	if (poll(&p, 1, 0) > 0 && p.revents & POLLOUT)
		eventfd_write(eventfd, 1);
}

/**
 * peer_signal_send - add 1 to an eventfd, unless it is full
 * @s:		of one peer; one thread at a time
 * @eventfd:	whoever else has it
 */
void peer_signal_send(struct peer_signal *s, int eventfd)
{
	struct io_event events[EVENTS];
	uint8_t nothing;
	struct iocb read = {
		.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = (uint32_t)s->null, .aio_buf = (uintptr_t)&nothing,
		.aio_flags = IOCB_FLAG_RESFD, .aio_resfd = (uint32_t)eventfd,
	};
	struct iocb *list = &read;

	if (s->unread == EVENTS) {
		syscall(SYS_io_getevents, s->aio, 0l, (long)EVENTS, events, NULL);
		s->unread = 0;
	}
	if (!s->aio || syscall(SYS_io_submit, s->aio, 1l, &list) != 1)
		write_it(eventfd);
	else
		s->unread++;
}
