// SPDX-License-Identifier: MIT
/*
 * A cable between two models, in one process or two: a ring of frames each way in shared memory,
 * which costs a system call only when the other end sleeps.
 *
 * The ends find each other by name, at an abstract Unix socket, of which nothing is left when a
 * process dies. Who comes first listens, makes the memory and hands it to who comes second; the
 * connection lives as long as both ends. An end that lost the other one starts over: it listens
 * if nobody does. Only processes of the same user, or of root, are connected.
 *
 * See docs/design/cables.md.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/peer_signal.h"
#include "ring.h"
#include "wire.h"

enum { TAG_LISTEN = WIRE_TAG, TAG_PEER, TAG_EVENT, TAG_TIMER };

#define SEALS		(F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define FDS		3	/* memory, eventfds */
#define FDS_ROOM	4	/* that there is in a control message for so many */
#define RETRY_NS	50000000	/* between tries to find the other end */

/* Side 0 listened, side 1 came to it. Ring n is written by side n. */
struct shared {
	_Atomic uint32_t ability[2];	/* anar | gbcr << 16 */
	_Atomic uint32_t up[2];
	struct ring ring[2];
};

struct cable {
	struct wire base;
	struct sockaddr_un address;
	socklen_t address_len;
	int listener;
	int peer;		/* connection; -1: none */
	int timer;
	int fd[2];		/* eventfds: [side] wakes that side */
	struct peer_signal signal;
	unsigned int side;
	struct shared *mem;	/* NULL: no other end */
	struct ring_end out, in;
	struct wire_ability mine;
};

static struct cable *of(struct wire *w)
{
	return (struct cable *)w;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void wake_peer(struct cable *c)
{
	peer_signal_send(&c->signal, c->fd[!c->side]);
}

static void hang_up(struct cable *c)
{
	if (c->mem)
		munmap(c->mem, sizeof(*c->mem));
	c->mem = NULL;
	c->out = c->in = (struct ring_end){ 0 };
	close_fd(&c->peer);
	close_fd(&c->fd[0]);
	close_fd(&c->fd[1]);
}

static void retry(struct cable *c)
{
	struct itimerspec when = { .it_value.tv_nsec = RETRY_NS };

	timerfd_settime(c->timer, 0, &when, NULL);
}

static bool same_user(int fd)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) &&
		(cred.uid == geteuid() || cred.uid == 0);
}

/* The memory is here: this end is connected. */
static int join(struct cable *c, int memfd, unsigned int side)
{
	struct stat st;
	void *mem;

	if (fstat(memfd, &st) || (size_t)st.st_size < sizeof(struct shared) ||
	    (fcntl(memfd, F_GET_SEALS) & SEALS) != SEALS)
		return -EPROTO;
	mem = mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	if (mem == MAP_FAILED)
		return -errno;
	c->side = side;
	c->mem = mem;
	c->out.ring = &c->mem->ring[side];
	c->in.ring = &c->mem->ring[!side];
	atomic_store(&c->mem->ability[side], c->mine.anar | (uint32_t)c->mine.gbcr << 16);
	atomic_store(&c->mem->up[side], c->mine.up);
	wake_peer(c);
	return wire_add_fd(c->base.epoll_fd, c->fd[side], EPOLLIN, TAG_EVENT);
}

static int send_fds(int sock, const int *fds)
{
	union { struct cmsghdr h; char space[CMSG_SPACE(FDS * sizeof(int))]; } control = { 0 };
	struct iovec iov = { .iov_base = "cable", .iov_len = 5 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
			    .msg_controllen = sizeof(control) };

	control.h.cmsg_level = SOL_SOCKET;
	control.h.cmsg_type = SCM_RIGHTS;
	control.h.cmsg_len = CMSG_LEN(FDS * sizeof(int));
	memcpy(CMSG_DATA(&control.h), fds, FDS * sizeof(int));
	return sendmsg(sock, &m, MSG_NOSIGNAL | MSG_DONTWAIT) == 5 ? 0 : -errno;
}

/* Up to FDS_ROOM, which are the caller's to close, also after an error. */
static int receive_fds(int sock, int *fds)
{
	union { struct cmsghdr h; char space[CMSG_SPACE(FDS_ROOM * sizeof(int))]; } control = { 0 };
	char text[8];
	struct iovec iov = { .iov_base = text, .iov_len = sizeof(text) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
			    .msg_controllen = sizeof(control) };
	ssize_t n = recvmsg(sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	size_t got;

	if (n < 0)
		return -errno;
	if (m.msg_controllen < sizeof(control.h) || control.h.cmsg_level != SOL_SOCKET ||
	    control.h.cmsg_type != SCM_RIGHTS)
		return -EPROTO;
	got = (control.h.cmsg_len - CMSG_LEN(0)) / sizeof(int);
	memcpy(fds, CMSG_DATA(&control.h), got * sizeof(int));
	return n == 5 && got == FDS && peer_signal_fits(fds[1]) && peer_signal_fits(fds[2]) ? 0 : -EPROTO;
}

/* Somebody came to us. */
static void welcome(struct cable *c)
{
	int sock = accept4(c->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	int memfd;
	int ret;

	if (sock < 0)
		return;
	if (c->peer >= 0 || !same_user(sock)) {
		close(sock);	/* a cable has two ends */
		return;
	}
	c->peer = sock;
	c->fd[0] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	c->fd[1] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	memfd = memfd_create("usrdrv-cable", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	ret = c->fd[0] < 0 || c->fd[1] < 0 || memfd < 0 || ftruncate(memfd, sizeof(struct shared)) ||
		fcntl(memfd, F_ADD_SEALS, SEALS) ? -errno : 0;
	if (!ret)
		ret = join(c, memfd, 0);
	if (!ret)
		ret = send_fds(sock, (int[]){ memfd, c->fd[0], c->fd[1] });
	if (!ret)
		ret = wire_add_fd(c->base.epoll_fd, sock, EPOLLIN | EPOLLRDHUP, TAG_PEER);
	if (memfd >= 0)
		close(memfd);
	if (ret)
		hang_up(c);
}

/* Listen, or if somebody does already, go there. */
static void look_for_peer(struct cable *c)
{
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (sock < 0) {
		retry(c);
		return;
	}
	if (!bind(sock, (struct sockaddr *)&c->address, c->address_len) && !listen(sock, 4) &&
	    !wire_add_fd(c->base.epoll_fd, sock, EPOLLIN, TAG_LISTEN)) {
		c->listener = sock;
		return;
	}
	close(sock);
	sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (sock < 0 || connect(sock, (struct sockaddr *)&c->address, c->address_len) || !same_user(sock) ||
	    wire_add_fd(c->base.epoll_fd, sock, EPOLLIN | EPOLLRDHUP, TAG_PEER)) {
		close_fd(&sock);
		retry(c);
		return;
	}
	c->peer = sock;
}

static void lost(struct cable *c)
{
	hang_up(c);
	if (c->listener < 0)
		retry(c);
	else
		welcome(c);	/* who waits already */
}

/* Our connection has something to say: the memory, or its end. */
static void peer_event(struct cable *c)
{
	int fds[FDS_ROOM] = { -1, -1, -1, -1 }, ret;
	char byte;

	if (c->peer < 0)
		return;
	if (c->mem) {
		if (recv(c->peer, &byte, 1, MSG_DONTWAIT) >= 0 || errno != EAGAIN)
			lost(c);
		return;
	}
	ret = receive_fds(c->peer, fds);
	if (ret == -EAGAIN)
		return;
	c->fd[0] = fds[1];
	c->fd[1] = fds[2];
	if (!ret)
		ret = join(c, fds[0], 1);
	close_fd(&fds[0]);
	close_fd(&fds[3]);
	if (ret)
		lost(c);
}

static void cable_event(struct wire *w, uint32_t tag)
{
	struct cable *c = of(w);

	switch (tag) {
	case TAG_LISTEN:
		welcome(c);
		break;
	case TAG_PEER:
		peer_event(c);
		break;
	case TAG_TIMER:
		if (c->peer < 0 && c->listener < 0)
			look_for_peer(c);
		break;
	}
}

static void *cable_reserve(struct wire *w)
{
	return of(w)->mem ? ring_reserve(&of(w)->out) : NULL;
}

static void cable_commit(struct wire *w, size_t len, uint32_t flags)
{
	if (ring_commit(&of(w)->out, len, flags))
		wake_peer(of(w));
}

static const void *cable_peek(struct wire *w, size_t *len, uint32_t *flags)
{
	struct cable *c = of(w);

	if (!c->mem)
		return NULL;
	if (c->in.broken || c->out.broken) {
		lost(c);
		return NULL;
	}
	return ring_peek(&c->in, len, flags);
}

static void cable_next(struct wire *w)
{
	if (ring_next(&of(w)->in))
		wake_peer(of(w));
}

static bool cable_arm(struct wire *w, bool frames, bool room)
{
	struct cable *c = of(w);
	bool ready;

	if (!c->mem)
		return false;
	ready = frames && ring_has(&c->in);
	return (room && ring_has_room(&c->out)) || ready;
}

static void cable_ability(struct wire *w, const struct wire_ability *mine, struct wire_ability *theirs)
{
	struct cable *c = of(w);
	bool changed = mine->anar != c->mine.anar || mine->gbcr != c->mine.gbcr || mine->up != c->mine.up;

	c->mine = *mine;
	*theirs = (struct wire_ability){ 0 };
	if (!c->mem)
		return;
	if (changed) {
		atomic_store(&c->mem->ability[c->side], mine->anar | (uint32_t)mine->gbcr << 16);
		atomic_store(&c->mem->up[c->side], mine->up);
		wake_peer(c);
	}
	theirs->up = atomic_load(&c->mem->up[!c->side]) != 0;
	theirs->anar = (uint16_t)atomic_load(&c->mem->ability[!c->side]);
	theirs->gbcr = (uint16_t)(atomic_load(&c->mem->ability[!c->side]) >> 16);
}

static void cable_destroy(struct wire *w)
{
	struct cable *c = of(w);

	hang_up(c);
	peer_signal_destroy(&c->signal);
	close_fd(&c->listener);
	close_fd(&c->timer);
	free(c);
}

static const struct wire_ops ops = {
	.reserve = cable_reserve, .commit = cable_commit, .peek = cable_peek, .next = cable_next,
	.arm = cable_arm, .event = cable_event, .ability = cable_ability, .destroy = cable_destroy,
};

/**
 * wire_cable() - one end of the cable with this name
 * @epoll_fd: the model's
 * @name: at most 90 bytes
 * @wire: the result
 *
 * Return: 0, -ENAMETOOLONG, or -errno of what could not be had.
 */
int wire_cable(int epoll_fd, const char *name, struct wire **wire)
{
	struct cable *c = calloc(1, sizeof(*c));
	int n, ret;

	if (!c)
		return -ENOMEM;
	c->base = (struct wire){ .ops = &ops, .epoll_fd = epoll_fd };
	peer_signal_init(&c->signal);
	c->listener = c->peer = c->fd[0] = c->fd[1] = -1;
	c->address.sun_family = AF_UNIX;
	n = snprintf(c->address.sun_path + 1, sizeof(c->address.sun_path) - 1, "usrdrv-cable/%s", name);
	c->address_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
	c->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if ((size_t)n >= sizeof(c->address.sun_path) - 1)
		ret = -ENAMETOOLONG;
	else
		ret = c->timer < 0 ? -errno : wire_add_fd(epoll_fd, c->timer, EPOLLIN, TAG_TIMER);
	if (ret) {
		cable_destroy(&c->base);
		return ret;
	}
	look_for_peer(c);
	*wire = &c->base;
	return 0;
}
