// SPDX-License-Identifier: MIT
/* A TAP interface of the host as the other end: the kernel's network stack is on the wire. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "wire.h"

#define FRAME_MIN	60	/* bytes without FCS */

struct tap {
	struct wire base;
	int fd;
	ssize_t have;		/* bytes of the frame in `in`; 0: none */
	uint8_t in[WIRE_FRAME_MAX], out[WIRE_FRAME_MAX];
};

static struct tap *of(struct wire *w)
{
	return (struct tap *)w;
}

static void *tap_reserve(struct wire *w)
{
	return of(w)->out;
}

static void tap_commit(struct wire *w, size_t len, uint32_t flags)
{
	/* What the kernel does not take is lost, as on any wire; it takes no damaged frames at all. */
	if (!(flags & WIRE_BAD_FCS) && write(of(w)->fd, of(w)->out, len) < 0)
		return;
}

static const void *tap_peek(struct wire *w, size_t *len, uint32_t *flags)
{
	struct tap *t = of(w);

	if (!t->have)
		t->have = read(t->fd, t->in, sizeof(t->in));
	if (t->have <= 0) {
		t->have = 0;
		return NULL;
	}
	/* The kernel leaves padding to its NICs. */
	if (t->have < FRAME_MIN) {
		memset(t->in + t->have, 0, FRAME_MIN - (size_t)t->have);
		t->have = FRAME_MIN;
	}
	*len = (size_t)t->have;
	*flags = 0;
	return t->in;
}

static void tap_next(struct wire *w)
{
	of(w)->have = 0;
}

static bool tap_arm(struct wire *w, bool frames, bool room)
{
	size_t len;
	uint32_t flags;

	return room || (frames && tap_peek(w, &len, &flags));
}

static void tap_event(struct wire *w, uint32_t tag)
{
}

static void tap_ability(struct wire *w, const struct wire_ability *mine, struct wire_ability *theirs)
{
	*theirs = (struct wire_ability){ .anar = UINT16_MAX, .gbcr = UINT16_MAX, .up = true };
}

static void tap_destroy(struct wire *w)
{
	close(of(w)->fd);
	free(w);
}

static const struct wire_ops ops = {
	.reserve = tap_reserve, .commit = tap_commit, .peek = tap_peek, .next = tap_next,
	.arm = tap_arm, .event = tap_event, .ability = tap_ability, .destroy = tap_destroy,
};

/**
 * wire_tap() - a TAP interface as the other end
 * @epoll_fd: the model's
 * @tap_fd: non-blocking, without headers; belongs to the wire if this succeeds
 * @wire: the result
 *
 * Return: 0 or -errno.
 */
int wire_tap(int epoll_fd, int tap_fd, struct wire **wire)
{
	struct tap *t = calloc(1, sizeof(*t));
	int ret;

	if (!t)
		return -ENOMEM;
	t->base = (struct wire){ .ops = &ops, .epoll_fd = epoll_fd };
	t->fd = tap_fd;
	ret = wire_add_fd(epoll_fd, tap_fd, EPOLLIN, WIRE_TAG);
	if (ret) {
		free(t);
		return ret;
	}
	*wire = &t->base;
	return 0;
}
