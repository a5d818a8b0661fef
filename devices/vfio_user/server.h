/* SPDX-License-Identifier: MIT */
/* Serves one device model on a vfio-user socket. */
#ifndef USRDRV_VFIO_USER_SERVER_H
#define USRDRV_VFIO_USER_SERVER_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "base/peer_signal.h"
#include "usrdrv/model.h"
#include "usrdrv/vfio_user.h"

/* cffi: begin */
struct vu_server;

int vu_server_create(struct usrdrv_model *model, int listen_fd, int once, struct vu_server **out);
int vu_server_run(struct vu_server *s);
void vu_server_stop(struct vu_server *s);
void vu_server_destroy(struct vu_server *s);
/* cffi: end */

#define VU_MAX_AREAS	65536

struct vu_area {
	uint64_t address;
	uint64_t size;
	uint64_t skew;		/* bytes of the mapping before the area */
	void *map;		/* NULL: claimed by the peer, but not accessible */
	int prot;
};

struct vu_dma {
	struct usrdrv_model *model;	/* whose memory it is */
	pthread_rwlock_t lock;
	struct vu_area *area;	/* sorted, disjoint */
	unsigned int n, room;
	_Atomic uint64_t stray;	/* where the device found no memory; VU_NOWHERE: nowhere yet */
};

#define VU_NOWHERE	UINT64_MAX

void vu_dma_init(struct vu_dma *d, struct usrdrv_model *model);
void vu_dma_destroy(struct vu_dma *d);
int vu_dma_map(struct vu_dma *d, int fd, const struct vu_dma_map *map);
int vu_dma_unmap(struct vu_dma *d, uint64_t address, uint64_t size, int all);
int vu_dma_read(struct vu_dma *d, uint64_t address, void *buf, size_t len);
int vu_dma_write(struct vu_dma *d, uint64_t address, const void *buf, size_t len);
void *vu_dma_ptr(struct vu_dma *d, uint64_t address, size_t len, int device_writes, size_t *avail);

/* The vectors of MSI or MSI-X. Messages come from the model, any thread; the rest from the server's own. */
struct vu_vectors {
	pthread_mutex_t lock;
	struct peer_signal signal;
	unsigned int n;
	struct vu_vector {
		int eventfd;	/* of the client, or -1 */
		int waits;	/* a message, for an eventfd */
	} *vector;
};

int vu_vectors_init(struct vu_vectors *v, const struct usrdrv_model *model);
void vu_vectors_destroy(struct vu_vectors *v);
void vu_vectors_message(struct vu_vectors *v, unsigned int vector);
void vu_vectors_connect(struct vu_vectors *v, unsigned int start, unsigned int count, const int *eventfds);
void vu_vectors_forget(struct vu_vectors *v);

/* The INTx line: its level comes from the model, any thread; the rest from the server's own. */
struct vu_irq {
	pthread_mutex_t lock;
	int trigger;		/* eventfd of the client, or -1 */
	int level;
	enum { VU_LINE_OPEN, VU_LINE_SIGNALLED, VU_LINE_MASKED } state;
	int dropped;		/* the level was low since the last signal */
	int nonblock;		/* a read of the eventfd does not wait */
	int signalled;		/* it was, once at least */
	int recall;		/* a signal can be taken back: the client reads its eventfd, and expects it empty */
	struct peer_signal signal;
	int64_t retrigger;	/* when, monotonic ns; 0: not wanted */
};

void vu_irq_init(struct vu_irq *irq);
void vu_irq_destroy(struct vu_irq *irq);
void vu_irq_level(struct vu_irq *irq, int level);
void vu_irq_connect(struct vu_irq *irq, int eventfd);
void vu_irq_act(struct vu_irq *irq, uint32_t action);
void vu_irq_touched(struct vu_irq *irq);
const struct timespec *vu_irq_patience(struct vu_irq *irq, struct timespec *t);
void vu_irq_idle(struct vu_irq *irq);

struct vu_server {
	struct usrdrv_model *model;
	struct vu_dma dma;
	int listen_fd, stop_fd, conn;
	int second;			/* a client while there is one, to be refused; or -1 */
	int once;
	int negotiated;

	uint8_t *in, *out;
	size_t have;			/* bytes in `in` */
	size_t message_end;		/* in `in`, of the message in hand */
	int fds[VU_MAX_FDS];		/* that came with bytes in `in`, in order */
	size_t fd_end[VU_MAX_FDS];	/* where in `in` those bytes end */
	unsigned int nfds;
	size_t lost_end;		/* like fd_end, of descriptors that there was no room for; 0: none */

	uint32_t irq_kind;		/* of what is connected; USRDRV_IRQ_KINDS: nothing is */
	struct vu_irq irq;
	struct vu_vectors vectors;
	uint16_t asked;			/* id of our next question */
};

int vu_take_fd(struct vu_server *s);
void vu_disconnect_irqs(struct vu_server *s);
void vu_reset(struct vu_server *s);
int vu_dispatch(struct vu_server *s, uint16_t command, uint8_t *in, size_t len, uint8_t *out);

#endif
