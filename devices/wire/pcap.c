// SPDX-License-Identifier: MIT
/*
 * A wire whose other end is a pcap file: frames are replayed from one and what is sent is
 * recorded in another (microseconds, link type Ethernet). Read as pcap-savefile(5) has it,
 * either byte order, micro- or nanoseconds.
 */
#include <byteswap.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "wire.h"

#define MAGIC_US	0xa1b2c3d4u
#define MAGIC_NS	0xa1b23c4du
#define ETHERNET	1u

struct file_header {
	uint32_t magic;
	uint16_t major, minor;
	uint32_t zone, accuracy, snap_length, link_type;
};

struct frame_header {
	uint32_t seconds, fraction, stored, length;
};

struct pcap {
	struct wire base;
	int record_fd;		/* -1: what is sent is lost */
	int timer;		/* of a paced replay; -1: all at once */
	bool swapped, nano;
	uint8_t *file;
	size_t size, at;
	uint64_t started;	/* ns */
	uint64_t first;		/* time of the first frame, ns */
	uint8_t out[WIRE_FRAME_MAX];
};

static struct pcap *of(struct wire *w)
{
	return (struct pcap *)w;
}

static uint64_t now_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint32_t word(const struct pcap *p, uint32_t value)
{
	return p->swapped ? bswap_32(value) : value;
}

/* The frame at the reading position; false: there is none, or the file ends in the middle of it. */
static bool frame_at(struct pcap *p, struct frame_header *h, uint64_t *when)
{
	if (p->size - p->at < sizeof(*h))
		return false;
	memcpy(h, p->file + p->at, sizeof(*h));
	h->stored = word(p, h->stored);
	*when = word(p, h->seconds) * 1000000000ull + word(p, h->fraction) * (p->nano ? 1ull : 1000ull);
	return h->stored <= p->size - p->at - sizeof(*h);
}

static void *pcap_reserve(struct wire *w)
{
	return of(w)->out;
}

static void pcap_commit(struct wire *w, size_t len, uint32_t flags)
{
	struct pcap *p = of(w);
	uint64_t now = now_ns(CLOCK_REALTIME);
	struct frame_header h = {
		.seconds = (uint32_t)(now / 1000000000u), .fraction = (uint32_t)(now % 1000000000u / 1000u),
		.stored = (uint32_t)len, .length = (uint32_t)len,
	};
	struct iovec iov[2] = { { &h, sizeof(h) }, { p->out, len } };

	/* A full disk ends the recording, not the traffic. */
	if (p->record_fd >= 0 && writev(p->record_fd, iov, 2) != (ssize_t)(sizeof(h) + len)) {
		close(p->record_fd);
		p->record_fd = -1;
	}
}

static const void *pcap_peek(struct wire *w, size_t *len, uint32_t *flags)
{
	struct pcap *p = of(w);
	struct frame_header h;
	uint64_t when, now;

	while (frame_at(p, &h, &when) && h.stored > WIRE_FRAME_MAX)
		p->at += sizeof(h) + h.stored;
	if (!frame_at(p, &h, &when))
		return NULL;
	if (p->timer >= 0) {
		now = now_ns(CLOCK_MONOTONIC);
		if (!p->started) {
			p->started = now;
			p->first = when;
		}
		if (when > p->first && now - p->started < when - p->first) {
			uint64_t wait = when - p->first - (now - p->started);
			struct itimerspec t = { .it_value.tv_sec = (time_t)(wait / 1000000000u),
						.it_value.tv_nsec = (long)(wait % 1000000000u) };

			timerfd_settime(p->timer, 0, &t, NULL);
			return NULL;
		}
	}
	*len = h.stored;
	*flags = 0;
	return p->file + p->at + sizeof(h);
}

static void pcap_next(struct wire *w)
{
	struct pcap *p = of(w);
	struct frame_header h;
	uint64_t when;

	if (frame_at(p, &h, &when))
		p->at += sizeof(h) + h.stored;
}

static bool pcap_arm(struct wire *w, bool frames, bool room)
{
	size_t len;
	uint32_t flags;

	return room || (frames && pcap_peek(w, &len, &flags));
}

static void pcap_event(struct wire *w, uint32_t tag)
{
}

static void pcap_ability(struct wire *w, const struct wire_ability *mine, struct wire_ability *theirs)
{
	*theirs = (struct wire_ability){ .anar = UINT16_MAX, .gbcr = UINT16_MAX, .up = true };
}

static void pcap_destroy(struct wire *w)
{
	struct pcap *p = of(w);

	if (p->record_fd >= 0)
		close(p->record_fd);
	if (p->timer >= 0)
		close(p->timer);
	free(p->file);
	free(p);
}

static const struct wire_ops ops = {
	.reserve = pcap_reserve, .commit = pcap_commit, .peek = pcap_peek, .next = pcap_next,
	.arm = pcap_arm, .event = pcap_event, .ability = pcap_ability, .destroy = pcap_destroy,
};

static int load(struct pcap *p, int fd)
{
	struct file_header h;
	struct stat st;
	ssize_t n;

	if (fstat(fd, &st))
		return -errno;
	p->size = (size_t)st.st_size;
	p->file = malloc(p->size ? p->size : 1);
	if (!p->file)
		return -ENOMEM;
	for (p->at = 0; p->at < p->size; p->at += (size_t)n) {
		n = pread(fd, p->file + p->at, p->size - p->at, (off_t)p->at);
		if (n <= 0)
			return n ? -errno : -EIO;
	}
	if (p->size < sizeof(h))
		return -EBADMSG;
	memcpy(&h, p->file, sizeof(h));
	p->swapped = h.magic == bswap_32(MAGIC_US) || h.magic == bswap_32(MAGIC_NS);
	p->nano = word(p, h.magic) == MAGIC_NS;
	if ((word(p, h.magic) != MAGIC_US && !p->nano) || (word(p, h.link_type) & 0xffff) != ETHERNET)
		return -EBADMSG;
	p->at = sizeof(h);
	return 0;
}

/**
 * wire_pcap() - files as the other end
 * @epoll_fd: the model's
 * @replay_fd: file to replay, read here and now; -1: none
 * @record_fd: empty file to record to; -1: none; belongs to the wire if this succeeds
 * @paced: replay with the times of the file
 * @wire: the result
 *
 * Return: 0, -EBADMSG for a file that is no pcap file of Ethernet frames, or -errno.
 */
int wire_pcap(int epoll_fd, int replay_fd, int record_fd, bool paced, struct wire **wire)
{
	struct file_header h = { .magic = MAGIC_US, .major = 2, .minor = 4, .snap_length = WIRE_FRAME_MAX,
				 .link_type = ETHERNET };
	struct pcap *p = calloc(1, sizeof(*p));
	int ret = 0;

	if (!p)
		return -ENOMEM;
	p->base = (struct wire){ .ops = &ops, .epoll_fd = epoll_fd, .patient = true };
	p->record_fd = p->timer = -1;
	if (replay_fd >= 0)
		ret = load(p, replay_fd);
	if (!ret && paced) {
		p->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
		ret = p->timer < 0 ? -errno : wire_add_fd(epoll_fd, p->timer, EPOLLIN, WIRE_TAG);
	}
	if (!ret && record_fd >= 0 && write(record_fd, &h, sizeof(h)) != sizeof(h))
		ret = errno ? -errno : -EIO;
	if (ret) {
		pcap_destroy(&p->base);
		return ret;
	}
	p->record_fd = record_fd;
	*wire = &p->base;
	return 0;
}
