/* SPDX-License-Identifier: MIT */
/* The two halves of the vfio-user backend: what a device does (vfio_user.c), and the conversation. */
#ifndef USRDRV_VFIO_USER_CLIENT_H
#define USRDRV_VFIO_USER_CLIENT_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "areas.h"
#include "usrdrv/dev.h"
#include "usrdrv/vfio_user.h"

struct client {
	struct usrdrv_dev dev;
	pthread_mutex_t lock;	/* the socket, one conversation at a time; areas */
	int fd;
	uint16_t id;		/* of the next message */
	uint64_t config_size;	/* bytes */
	unsigned int max_fds;	/* that the server takes in one message */
	struct areas areas;
	size_t at, have;	/* bytes in `in` that nobody has looked at yet */
	uint8_t in[4096];
};

int client_connect(struct client *c, const char *path, int timeout_ms);
int client_lost(struct client *c);
int client_send(struct client *c, struct iovec *iov, size_t n, const int *fds, unsigned int nfds);
int client_answer(struct client *c, uint16_t id, uint16_t command, void *payload, size_t room, size_t *got);
int client_ask_with(struct client *c, uint16_t command, const void *in, size_t in_len, const int *fds,
		    unsigned int nfds, void *out, size_t room, size_t want);
int client_ask(struct client *c, uint16_t command, const void *in, size_t in_len, void *out, size_t room, size_t want);

#endif
