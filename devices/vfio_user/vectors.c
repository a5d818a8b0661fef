// SPDX-License-Identifier: MIT
/*
 * MSI and MSI-X of a served model: a message of a vector is a signal to the
 * vector's eventfd. One to a vector that has none waits, as it would behind a
 * mask, so that nothing is lost while a client changes what is connected.
 *
 * See docs/design/vectors.md.
 */
#define _GNU_SOURCE
#include "server.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

int vu_vectors_init(struct vu_vectors *v, const struct usrdrv_model *model)
{
	const unsigned int *have = model->vectors;
	unsigned int n = have[USRDRV_IRQ_MSI] > have[USRDRV_IRQ_MSIX] ? have[USRDRV_IRQ_MSI] : have[USRDRV_IRQ_MSIX];

	*v = (struct vu_vectors){ .n = n, .vector = calloc(n ? n : 1, sizeof(*v->vector)) };
	if (!v->vector)
		return -ENOMEM;
	for (unsigned int i = 0; i < n; i++)
		v->vector[i].eventfd = -1;
	peer_signal_init(&v->signal);
	pthread_mutex_init(&v->lock, NULL);
	return 0;
}

void vu_vectors_destroy(struct vu_vectors *v)
{
	vu_vectors_connect(v, 0, v->n, NULL);
	peer_signal_destroy(&v->signal);
	pthread_mutex_destroy(&v->lock);
	free(v->vector);
}

/* Lock held. */
static void signal_vector(struct vu_vectors *v, struct vu_vector *to)
{
	to->waits = to->eventfd < 0;
	if (!to->waits)
		peer_signal_send(&v->signal, to->eventfd);
}

/**
 * vu_vectors_message - the model sends the message of a vector
 * @v:		vectors
 * @vector:	its number
 */
void vu_vectors_message(struct vu_vectors *v, unsigned int vector)
{
	if (vector >= v->n)
		return;
	pthread_mutex_lock(&v->lock);
	signal_vector(v, &v->vector[vector]);
	pthread_mutex_unlock(&v->lock);
}

/**
 * vu_vectors_connect - signal other eventfds from now on
 * @v:		vectors
 * @start:	first vector of a range that exists
 * @count:	vectors in it
 * @eventfds:	as many, owned by the vectors from now on; NULL: none
 */
void vu_vectors_connect(struct vu_vectors *v, unsigned int start, unsigned int count, const int *eventfds)
{
	pthread_mutex_lock(&v->lock);
	for (unsigned int i = 0; i < count; i++) {
		struct vu_vector *to = &v->vector[start + i];

		if (to->eventfd >= 0)
			close(to->eventfd);
		to->eventfd = eventfds ? eventfds[i] : -1;
		if (to->waits)
			signal_vector(v, to);
	}
	pthread_mutex_unlock(&v->lock);
}

/**
 * vu_vectors_forget - messages that wait do not come any more: the device was reset
 * @v:	vectors
 */
void vu_vectors_forget(struct vu_vectors *v)
{
	pthread_mutex_lock(&v->lock);
	for (unsigned int i = 0; i < v->n; i++)
		v->vector[i].waits = 0;
	pthread_mutex_unlock(&v->lock);
}
