// SPDX-License-Identifier: MIT
/* A plug that connects transmit to receive. */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "ring.h"
#include "wire.h"

struct loop {
	struct wire base;
	int fd;
	struct ring_end out, in;
	struct ring ring;
};

static struct loop *of(struct wire *w)
{
	return (struct loop *)w;
}

static void *loop_reserve(struct wire *w)
{
	return ring_reserve(&of(w)->out);
}

static void loop_commit(struct wire *w, size_t len, uint32_t flags)
{
	if (ring_commit(&of(w)->out, len, flags))
		eventfd_write(of(w)->fd, 1);
}

static const void *loop_peek(struct wire *w, size_t *len, uint32_t *flags)
{
	return ring_peek(&of(w)->in, len, flags);
}

static void loop_next(struct wire *w)
{
	if (ring_next(&of(w)->in))
		eventfd_write(of(w)->fd, 1);
}

static bool loop_arm(struct wire *w, bool frames, bool room)
{
	bool ready = frames && ring_has(&of(w)->in);

	return (room && ring_has_room(&of(w)->out)) || ready;
}

static void loop_event(struct wire *w, uint32_t tag)
{
}

static void loop_ability(struct wire *w, const struct wire_ability *mine, struct wire_ability *theirs)
{
	*theirs = *mine;
}

static void loop_destroy(struct wire *w)
{
	close(of(w)->fd);
	free(w);
}

static const struct wire_ops ops = {
	.reserve = loop_reserve, .commit = loop_commit, .peek = loop_peek, .next = loop_next,
	.arm = loop_arm, .event = loop_event, .ability = loop_ability, .destroy = loop_destroy,
};

/* Put a descriptor into the model's epoll set. Return: 0 or -errno. */
int wire_add_fd(int epoll_fd, int fd, uint32_t events, uint32_t tag)
{
	struct epoll_event ev = { .events = events | EPOLLET, .data.u32 = tag };

	return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &ev) ? -errno : 0;
}

int wire_loop(int epoll_fd, struct wire **wire)
{
	struct loop *l = aligned_alloc(64, sizeof(*l));
	int ret;

	if (!l)
		return -ENOMEM;
	*l = (struct loop){ .base = { .ops = &ops, .epoll_fd = epoll_fd } };
	l->in.ring = l->out.ring = &l->ring;
	l->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ret = l->fd < 0 ? -errno : wire_add_fd(epoll_fd, l->fd, EPOLLIN, WIRE_TAG);
	if (ret) {
		if (l->fd >= 0)
			close(l->fd);
		free(l);
		return ret;
	}
	*wire = &l->base;
	return 0;
}
