// SPDX-License-Identifier: MIT
/*
 * The other end of a model's cable is hostile: it has the shared memory, and writes what it likes into
 * rings, positions, lengths and frames while the model reads them. It fills the eventfd that the model wakes it by, and
 * makes it one whose writers wait. As a program: fuzz_cable SECONDS SEED
 */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "fuzz_nic.h"
#include "wire/ring.h"

#define RX	0x1000u		/* offsets of the lists and of what they refer to */
#define TX	0x2000u
#define DATA	0x4000u
#define COUNT	16u
#define ROOM	2048u

/* As cable.c has it. */
struct shared {
	_Atomic uint32_t ability[2];
	_Atomic uint32_t up[2];
	struct ring ring[2];
};

struct peer {
	int sock;
	int fd[2];
	struct shared *mem;
	struct ring_end out;
};

static void leave(struct peer *p)
{
	if (p->mem)
		munmap(p->mem, sizeof(*p->mem));
	for (int i = 0; i < 2; i++)
		if (p->fd[i] >= 0)
			close(p->fd[i]);
	if (p->sock >= 0)
		close(p->sock);
	*p = (struct peer){ .sock = -1, .fd = { -1, -1 } };
}

/* Come to the model, which listens, and take the memory that it made. */
static bool come(struct peer *p, const char *name)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int n = snprintf(a.sun_path + 1, sizeof(a.sun_path) - 1, "usrdrv-cable/%s", name);
	union { struct cmsghdr h; char space[CMSG_SPACE(3 * sizeof(int))]; } control = { 0 };
	struct timeval patience = { .tv_usec = 100000 };
	char text[8];
	struct iovec iov = { text, sizeof(text) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	int fds[3];

	p->sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	setsockopt(p->sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (connect(p->sock, (struct sockaddr *)&a, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n)) ||
	    recvmsg(p->sock, &msg, 0) != 5)
		return false;
	memcpy(fds, CMSG_DATA(&control.h), sizeof(fds));
	p->fd[0] = fds[1];
	p->fd[1] = fds[2];
	p->mem = mmap(NULL, sizeof(*p->mem), PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
	if (p->mem == MAP_FAILED || !ftruncate(fds[0], 0))
		abort();	/* it has to be sealed */
	close(fds[0]);
	p->out = (struct ring_end){ .ring = &p->mem->ring[1] };
	atomic_store(&p->mem->ability[1], MII_AN_ALL | MII_GB_FULL << 16);
	atomic_store(&p->mem->up[1], 1);
	eventfd_write(p->fd[0], 1);
	return true;
}

/* A frame as a good peer sends it. */
static void good_frame(struct peer *p)
{
	uint8_t *room = ring_reserve(&p->out);

	if (!room)
		return;
	memset(room, 0xff, 14);
	ring_commit(&p->out, 60 + any(any(8) ? 1500 : 16324), any(8) ? 0 : bits32());
}

/* The eventfd can be filled once: its flags are changed then. */
static void fill(struct peer *p)
{
	if (!(fcntl(p->fd[1], F_GETFL) & O_NONBLOCK))
		return;
	while (eventfd_write(p->fd[1], UINT64_MAX - 1))
		eventfd_read(p->fd[1], &(eventfd_t){ 0 });
	fcntl(p->fd[1], F_SETFL, 0);
}

static void scribble(struct peer *p)
{
	struct ring *r = &p->mem->ring[any(4) > 0];
	uint32_t at = atomic_load(&r->head);

	switch (any(9)) {
	case 0:
		atomic_store(&r->head, any(2) ? bits32() : at + any(RING_SIZE * 2));
		break;
	case 1:
		atomic_store(&r->tail, any(2) ? bits32() : at - any(RING_SIZE * 2));
		break;
	case 2:
		atomic_store(any(2) ? &r->reader_sleeps : &r->writer_waits, bits32());
		break;
	case 3:	/* a length, where the next record of the ring will be */
		*(uint32_t *)(r->data + (at & (RING_SIZE - 1) & ~3u)) = any(2) ? UINT32_MAX : bits32();
		break;
	case 4:	/* and lengths of those that wait */
		at = atomic_load(&r->tail) & (RING_SIZE - 1) & ~3u;
		*(volatile uint32_t *)(r->data + at) = any(3) ? any(20000) : UINT32_MAX - any(16);
		break;
	case 5:
		atomic_store(&p->mem->ability[any(2)], bits32());
		break;
	case 6:
		atomic_store(&p->mem->up[1], any(2));
		break;
	case 7:
		fill(p);
		break;
	default:
		for (unsigned int i = 0; i < 64; i++)
			*(volatile uint32_t *)((uint8_t *)p->mem + (any(sizeof(*p->mem)) & ~3u)) = bits32();
	}
}

static void refill(struct usrdrv_model *m, bool receive)
{
	uint32_t at = receive ? RX : TX;

	for (uint32_t i = 0; i < COUNT; i++) {
		uint32_t w[4] = { BASE + at + (i + 1) % COUNT * 16, BASE + DATA + i * ROOM, ROOM, 0 };

		if (!receive)
			w[2] = (i < COUNT - 1 ? DP83820_OWN : 0) | (60 + any(1400));
		memcpy(memory + at + i * 16, w, sizeof(w));
	}
	if (receive)
		reg(m, DP83820_RXDP, BASE + RX);
	else
		reg(m, DP83820_TXDP, BASE + TX);
	reg(m, DP83820_CR, receive ? DP83820_CR_RXE : DP83820_CR_TXE);
}

static struct usrdrv_model *make(struct usrdrv_testhost *host, const char *name)
{
	struct dp83820_config config = {
		.mac = { 2, 0, 0, 0, 0, 1 }, .phy = 1, .wire = DP83820_WIRE_CABLE, .wire_fd = -1, .record_fd = -1,
	};
	struct usrdrv_model *m;

	strcpy(config.cable, name);
	if (dp83820_create(&config, &m))
		abort();
	usrdrv_testhost_attach(host, m);
	m->ops->write(m, USRDRV_REGION_CONFIG, 4, 2, 7);
	reg(m, DP83820_CFG, DP83820_CFG_EXTSTS_EN | DP83820_CFG_MODE_1000);
	reg(m, DP83820_RXCFG, 0xfc000000);
	reg(m, DP83820_TXCFG, 0xd0700000);
	reg(m, DP83820_RFCR, DP83820_RFCR_AAB | DP83820_RFCR_AAM | DP83820_RFCR_AAU);
	reg(m, DP83820_RFCR, 0xf0000000);
	refill(m, true);
	return m;
}

int main(int argc, char **argv)
{
	time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 5);
	unsigned long visits = 0, thrown_out = 0;
	struct usrdrv_testhost host = { .base = BASE, .len = MEM, .mem = memory };
	struct dp83820_counters count;
	struct usrdrv_model *m;
	char name[64];

	srandom(argc > 2 ? (unsigned int)atoi(argv[2]) : 1);
	snprintf(name, sizeof(name), "fuzz-%d", getpid());
	m = make(&host, name);
	while (time(NULL) < end) {
		struct peer p = { .sock = -1, .fd = { -1, -1 } };
		bool hostile = false;
		char byte;

		if (!come(&p, name)) {
			leave(&p);
			continue;
		}
		visits++;
		for (unsigned int i = 0; i < 200 && !dp83820_link(m); i++)
			usleep(1000);
		for (unsigned int i = 0; i < 400; i++) {
			hostile |= i > 200;
			if (hostile && !any(10))
				scribble(&p);
			else
				good_frame(&p);
			eventfd_write(p.fd[0], 1);
			if (!any(8)) {
				refill(m, true);
				refill(m, false);
			}
			if (!any(16))
				usleep(100);
			if (recv(p.sock, &byte, 1, MSG_DONTWAIT) == 0) {
				thrown_out++;
				break;
			}
		}
		leave(&p);
	}
	dp83820_counters(m, &count);
	m->ops->destroy(m);
	printf("%lu visits %lu thrown_out %lu received %lu sent\n", visits, thrown_out, (unsigned long)count.rx_frames,
	       (unsigned long)count.tx_frames);
	return 0;
}
