/* SPDX-License-Identifier: MIT */
/* The ports to the kernel. Both leave fd to the caller, who keeps it open as long as the port. */
#ifndef USRDRV_NET_PORTS_H
#define USRDRV_NET_PORTS_H

#include "usrdrv/net.h"

struct usrloop_attach;

/* cffi: begin */
int usrdrv_tap_port(int fd, struct usrdrv_net_port **out);
int usrdrv_loop_port(int fd, const struct usrloop_attach *attach, struct usrdrv_net_port **out);
/* cffi: end */

#endif
