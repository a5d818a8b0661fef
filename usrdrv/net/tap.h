/* SPDX-License-Identifier: MIT */
/* The port to a TAP interface with IFF_VNET_HDR and headers of 12 bytes. */
#ifndef USRDRV_NET_TAP_H
#define USRDRV_NET_TAP_H

#include "usrdrv/net.h"

/* cffi: begin */
void usrdrv_tap_port(struct usrdrv_net_port *port, int fd, int offloads);
/* cffi: end */

#endif
