/* SPDX-License-Identifier: MIT */
/* Signals to eventfds that others have as well, who may do to them what they like. */
#ifndef USRDRV_PEER_SIGNAL_H
#define USRDRV_PEER_SIGNAL_H

struct peer_signal {
	unsigned long aio;	/* aio_context_t; 0: there is none */
	int null;
	unsigned int unread;	/* events of it */
};

void peer_signal_init(struct peer_signal *s);
void peer_signal_destroy(struct peer_signal *s);
int peer_signal_fits(int fd);
void peer_signal_send(struct peer_signal *s, int eventfd);

#endif
