// SPDX-License-Identifier: MIT
/* The port to a TAP interface: one system call for each packet, which may be up to 64 KiB. */
#include <errno.h>
#include <unistd.h>

#include "tap.h"

static int tap_pull(struct usrdrv_net_port *port, const struct iovec *iov, int n)
{
	ssize_t got = readv(port->fd, iov, n);

	if (got >= 0)
		return (int)got;
	return errno == EAGAIN || errno == EINTR ? 0 : -errno;
}

static int tap_push(struct usrdrv_net_port *port, const struct iovec *iov, int n)
{
	return writev(port->fd, iov, n) < 0 ? -errno : 0;
}

static const struct usrdrv_net_port_ops ops = { .pull = tap_pull, .push = tap_push };

/**
 * usrdrv_tap_port() - make a port of a TAP interface
 * @port:	result
 * @fd:		non-blocking; stays the caller's
 * @offloads:	checksum and segmentation offloads were agreed upon with the kernel
 */
void usrdrv_tap_port(struct usrdrv_net_port *port, int fd, int offloads)
{
	*port = (struct usrdrv_net_port){ .ops = &ops, .fd = fd, .offloads = offloads };
}
