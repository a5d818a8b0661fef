// SPDX-License-Identifier: MIT
/*
 * Two interfaces and the wire between them, for tests of usrloop:
 *
 *	usrneta  --  ring  --  this process  --  ring  --  usrnetb
 *
 *	usrloop_relay [features [mtu [queues [speed]]]]	make both, persistent, or serve both if they are there
 *
 * What comes out of one goes into the other, and waits in its ring while that one has no room.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "usrdrv/loop.h"

#define QUEUES	8

struct side {
	int fd;
	struct usrloop_attach attach;
	struct loop_queue queue[QUEUES];
};

static struct side sides[2];

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void make(unsigned int n, unsigned int features, unsigned int mtu, unsigned int queues)
{
	struct usrloop_info info = {
		.argsz = sizeof(info), .type = USRLOOP_NET, .id = n, .features = features,
		.flags = USRLOOP_PERSIST, .policy = USRLOOP_DEATH_QUEUE, .queues = queues, .depth = 128,
		.net = { .mac = { 2, 0, 0, 0, 0, n + 1 }, .mtu = mtu, .max_mtu = 9000 },
	};
	struct side *s = &sides[n];
	void *map;
	unsigned int i;

	s->fd = open("/dev/usrloop", O_RDWR | O_CLOEXEC);
	if (s->fd < 0)
		die("/dev/usrloop");
	snprintf(info.net.name, sizeof(info.net.name), "usrnet%c", 'a' + n);
	if (ioctl(s->fd, USRLOOP_IOC_CREATE, &info) && errno != EEXIST)
		die("create");
	s->attach = (struct usrloop_attach){
		.argsz = sizeof(s->attach), .type = USRLOOP_NET, .id = n, .version = USRLOOP_VERSION,
	};
	if (ioctl(s->fd, USRLOOP_IOC_ATTACH, &s->attach))
		die("attach");
	if (s->attach.queues > QUEUES || loop_map(s->fd, &s->attach, &map))
		die("mmap");
	for (i = 0; i < s->attach.queues; i++)
		loop_queue_init(&s->queue[i], s->fd, &s->attach, map, i);
}

static void start(unsigned int n, unsigned int speed)
{
	struct usrloop_target target = { .argsz = sizeof(target), .type = USRLOOP_NET, .id = n };

	if (ioctl(sides[n].fd, USRLOOP_IOC_START, &target) && errno != EALREADY)
		die("start");
	target.arg = speed;
	if (ioctl(sides[n].fd, USRLOOP_IOC_CARRIER, &target))
		die("carrier");
}

/* Move what there is and fits. Return: packets. */
static unsigned int carry(struct loop_queue *from, struct loop_queue *to)
{
	const struct usrloop_sqe *sqe;
	unsigned int n = 0;
	uint8_t *slot;

	while ((slot = loop_receive_slot(to)) && (sqe = loop_next(from))) {
		memcpy(slot, loop_slot(from, sqe->tag), sqe->len);
		loop_received(to, sqe->len);
		loop_complete(from, sqe->tag, sqe->seq, 0);
		n++;
	}
	return n;
}

int main(int argc, char **argv)
{
	unsigned int features = argc > 1 ? strtoul(argv[1], NULL, 0) : 0, mtu = argc > 2 ? atoi(argv[2]) : 1500;
	unsigned int queues = argc > 3 ? atoi(argv[3]) : 1, speed = argc > 4 ? atoi(argv[4]) : 1000, i, n;
	struct pollfd fds[2];
	int ret;

	for (n = 0; n < 2; n++)
		make(n, features, mtu, queues);
	for (n = 0; n < 2; n++)
		start(n, speed);
	puts("usrneta usrnetb");
	fflush(stdout);
	for (;;) {
		unsigned int moved = 0;

		for (i = 0; i < sides[0].attach.queues; i++) {
			moved += carry(&sides[0].queue[i], &sides[1].queue[i]);
			moved += carry(&sides[1].queue[i], &sides[0].queue[i]);
			for (n = 0; n < 2; n++) {
				ret = loop_enter(&sides[n].queue[i], USRLOOP_ENTER_NOWAIT, 0);
				if (ret < 0 && ret != -EINTR)
					return ret == -ESTALE ? 3 : 1;
				if (ret > 0 && ret & USRLOOP_READY_STOP)
					return 0;
			}
		}
		if (moved)
			continue;
		for (n = 0; n < 2; n++)
			fds[n] = (struct pollfd){ .fd = sides[n].fd, .events = POLLIN };
		poll(fds, 2, 20);	/* a full ring gets room without a word */
	}
}
