// SPDX-License-Identifier: MIT
/*
 * Interrupts that are connected anew all the time while they come, each kind in turn, of a model in the process or
 * behind a vfio-user socket. One message of vector 0 is under way at a time, and is answered by the next: one that gets
 * lost ends it all, and so does one that comes twice. Meanwhile a thread of the model's sends messages of the other
 * vectors. The line stays low: its signals would go to the same eventfd.
 *
 * usage: stress_vectors SECONDS SEED [SOCKET]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "backends.h"
#include "irq_model.h"
#include "vfio_user/server.h"

#define PATIENCE_MS	60000

static const unsigned int vectors[USRDRV_IRQ_KINDS] = { 1, 4, 20 };

static struct usrdrv_model *model;
static struct usrdrv_dev *dev;
static int fds[20];	/* by vector */
static atomic_int stop, failed;
static unsigned long rounds, changes;

static void fail(const char *what)
{
	fprintf(stderr, "%s after %lu rounds\n", what, rounds);
	failed = stop = 1;
}

/* The driver: an interrupt of vector 0 is answered with the next. */
static void *answer(void *arg)
{
	struct pollfd p = { .fd = dev->irq_fd, .events = POLLIN };

	while (!stop) {
		eventfd_t n;

		if (usrdrv_write(dev, 0, IRQ_MODEL_MESSAGE, 4, 0))
			fail("a write failed");
		else if (poll(&p, 1, PATIENCE_MS) != 1 || eventfd_read(dev->irq_fd, &n))
			fail("lost");
		else if (n != 1)
			fail("twice");
		else
			rounds++;
	}
	return NULL;
}

/* A thread of the model's. */
static void *noise(void *arg)
{
	const struct usrdrv_model_host *host = &model->host;

	for (unsigned int i = 0; !stop; i++) {
		host->message(host->ctx, 1 + i % 19);
		host->irq(host->ctx, 0);
		sched_yield();
	}
	return NULL;
}

/* Whoever decides on interrupts: all kinds, any number. */
static void change(void)
{
	unsigned int kind = (unsigned int)rand() % USRDRV_IRQ_KINDS, n = 1 + (unsigned int)rand() % vectors[kind];

	if (dev->ops->irq_connect(dev, kind, fds, n) || (!(rand() % 4) && dev->ops->irq_unmask(dev, NULL, 0)))
		fail("refused");
	changes++;
}

static void *serve(void *server)
{
	vu_server_run(server);
	return NULL;
}

static int listen_at(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (strlen(path) >= sizeof(address.sun_path))
		return -1;
	strcpy(address.sun_path, path);
	return bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 1) ? -1 : fd;
}

int main(int argc, char **argv)
{
	const char *path = argc > 3 ? argv[3] : NULL;
	time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 5);
	pthread_t server_thread, threads[2];
	struct vu_server *server = NULL;

	srand(argc > 2 ? (unsigned int)atoi(argv[2]) : 1);
	model = irq_model_create(vectors[0], vectors[1], vectors[2]);
	if (path) {
		int fd = listen_at(path);

		if (fd < 0 || vu_server_create(model, fd, 0, &server))
			return 2;
		pthread_create(&server_thread, NULL, serve, server);
	}
	if (path ? usrdrv_vfio_user_open(path, PATIENCE_MS, &dev) : usrdrv_inproc_open(model, &dev))
		return 2;
	fds[0] = dev->irq_fd;
	for (int i = 1; i < 20; i++)
		fds[i] = eventfd(0, EFD_NONBLOCK);
	pthread_create(&threads[0], NULL, answer, NULL);
	pthread_create(&threads[1], NULL, noise, NULL);
	while (!stop && time(NULL) < end)
		change();
	/* The last round has to end, too: the line does not bring its message. */
	stop = 1;
	if (dev->ops->irq_connect(dev, USRDRV_IRQ_MSIX, fds, 1))
		fail("refused");
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	dev->ops->close(dev);
	if (server) {
		vu_server_stop(server);
		pthread_join(server_thread, NULL);
		vu_server_destroy(server);
	}
	model->ops->destroy(model);
	printf("%lu rounds, %lu changes\n", rounds, changes);
	return failed;
}
