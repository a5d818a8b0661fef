// SPDX-License-Identifier: MIT
/*
 * A hostile client for the vfio-user server with the CMD680 model behind it,
 * which is given vectors that it does not have: valid messages with random
 * fields, mutated bytes, descriptors of odd kinds and memory that shrinks. Built with sanitizers; the server must survive and
 * still answer an honest question at the end.
 *
 * usage: fuzz_server SECONDS SEED
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "cmd680/cmd680.h"
#include "vfio_user/server.h"

#define BUS	0x10000000u
#define ARENA	65536u
#define ODD	4096u	/* behind the arena */
#define MSI	4u
#define MSIX	20u

static uint64_t state;
static struct sockaddr_un address = { .sun_family = AF_UNIX };
static socklen_t address_len;
static int memfd, odd, irqfd, vectorfd;	/* odd: shrinks while it is mapped */
static unsigned long messages, connections;
static atomic_int stop;

static uint64_t rnd(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

/* Small, near a border, or anything. */
static uint64_t number(void)
{
	static const uint64_t border[] = { 0, 1, 4, 255, 256, 4095, 4096, BUS, BUS + ARENA, UINT32_MAX, INT64_MAX, UINT64_MAX };

	switch (rnd() % 4) {
	case 0:
		return rnd() % 300;
	case 1:
		return border[rnd() % (sizeof(border) / sizeof(border[0]))] + rnd() % 3 - 1;
	case 2:
		return BUS + rnd() % (2 * ARENA);
	default:
		return rnd();
	}
}

static int send_message(int fd, uint8_t *m, size_t len, const int *fds, int nfds)
{
	union {
		struct cmsghdr align;
		uint8_t space[CMSG_SPACE(sizeof(int) * 16)];
	} control = { 0 };
	struct iovec iov = { .iov_base = m, .iov_len = len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	uint8_t sink[65536];

	if (nfds) {
		struct cmsghdr *c;

		msg.msg_control = control.space;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)nfds);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)nfds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * (size_t)nfds);
	}
	while (sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
		struct pollfd p = { .fd = fd, .events = POLLIN | POLLOUT };

		if (errno != EAGAIN)
			return -1;
		poll(&p, 1, 100);
		if (p.revents & POLLIN && recv(fd, sink, sizeof(sink), MSG_DONTWAIT) <= 0)
			return -1;
	}
	messages++;
	while (recv(fd, sink, sizeof(sink), MSG_DONTWAIT) > 0)
		;
	return 0;
}

static size_t finish(uint8_t *m, uint16_t command, size_t payload)
{
	struct vu_header h = {
		.id = (uint16_t)rnd(), .command = command, .size = (uint32_t)(sizeof(h) + payload),
		.flags = rnd() % 3 ? 0 : VU_NO_REPLY,
	};

	memcpy(m, &h, sizeof(h));
	return h.size;
}

/* A range of vectors, and often its eventfds; *nfds: how many. */
static size_t make_vectors(uint8_t *m, int *fds, int *nfds)
{
	static const uint8_t flags[] = { 0x24, 0x24, 0x24, 0x24, 0x21, 0x22, 0x09, 0x11 };
	uint32_t index = 1 + (uint32_t)(rnd() % 2), room = index == 1 ? MSI : MSIX, start = (uint32_t)(rnd() % room);
	struct vu_irq_set d = { .argsz = sizeof(d), .flags = flags[rnd() % sizeof(flags)], .index = index, .start = start };

	d.count = (uint32_t)(rnd() % (room - start + 1));
	if (d.flags == 0x24 && rnd() % 4 && d.count > VU_MAX_FDS)
		d.count = 1 + (uint32_t)(rnd() % VU_MAX_FDS);
	if (d.flags == 0x24 && d.count <= VU_MAX_FDS && rnd() % 4)
		for (*nfds = 0; *nfds < (int)d.count;)
			fds[(*nfds)++] = vectorfd;
	/* of another kind than what is connected is refused: end that at times */
	if (rnd() % 8 == 0)
		d = (struct vu_irq_set){ .argsz = sizeof(d), .flags = 0x21, .index = (uint32_t)(rnd() % 3) };
	if (rnd() % 16 == 0)
		d.count = (uint32_t)number();
	memcpy(m + sizeof(struct vu_header), &d, sizeof(d));
	for (unsigned int i = 0; i < MSIX; i++)
		m[sizeof(struct vu_header) + sizeof(d) + i] = rnd() % 2;
	return finish(m, VU_SET_IRQS, sizeof(d) + (d.flags == 0x22 ? rnd() % (MSIX + 1) : 0));
}

static size_t make(uint8_t *m, int *fds, int *nfds)
{
	uint8_t *p = m + sizeof(struct vu_header);

	switch (rnd() % 14) {
	case 0: {
		struct vu_dma_map d = { .argsz = sizeof(d), .flags = (uint32_t)(rnd() % 5), .offset = number() & ~0xfffull,
					.address = number() & ~0xfffull, .size = number() };
		memcpy(p, &d, sizeof(d));
		return finish(m, VU_DMA_MAP, sizeof(d));
	}
	case 1: {
		struct vu_dma_unmap d = { .argsz = sizeof(d), .flags = rnd() % 8 ? 0 : 2, .address = number(), .size = number() };
		memcpy(p, &d, sizeof(d));
		return finish(m, VU_DMA_UNMAP, sizeof(d));
	}
	case 2: {
		static const uint8_t flags[] = { 0x24, 0x21, 0x11, 0x11, 0x11, 0x09, 0x12 };
		struct vu_irq_set d = { .argsz = sizeof(d), .flags = flags[rnd() % sizeof(flags)], .count = 1 };

		if (rnd() % 4 == 0)
			d = (struct vu_irq_set){ .argsz = sizeof(d), .flags = (uint32_t)(rnd() % 64),
						 .index = (uint32_t)(rnd() % 4), .start = (uint32_t)(rnd() % 2),
						 .count = (uint32_t)(rnd() % 3) };
		memcpy(p, &d, sizeof(d));
		return finish(m, VU_SET_IRQS, sizeof(d) + rnd() % 4);
	}
	case 3: {
		struct vu_region_access d = { .offset = number(), .region = (uint32_t)(rnd() % 10), .count = (uint32_t)number() };
		memcpy(p, &d, sizeof(d));
		return finish(m, VU_REGION_READ, sizeof(d));
	}
	case 4: {
		/* questions: size of the answer, flags, index */
		uint32_t d[3] = { 32, 0, (uint32_t)(rnd() % 10) };

		memset(p, (int)rnd(), 64);
		memcpy(p, d, sizeof(d));
		return finish(m, (uint16_t)(rnd() % 18), rnd() % 64);
	}
	case 5: {
		struct vu_multi w = { .offset = rnd() % 256, .region = (uint32_t)(rnd() % 9), .count = (uint32_t)(rnd() % 10) };
		struct vu_write_multi d = { .count = 1 + (rnd() % 8 == 0) };
		memcpy(p, &d, sizeof(d));
		memcpy(p + sizeof(d), &w, sizeof(w));
		return finish(m, VU_REGION_WRITE_MULTI, sizeof(d) + sizeof(w));
	}
	case 6:
	case 7:
		return make_vectors(m, fds, nfds);
	default: {
		/* register writes that make the drives and the bus master work */
		static const uint8_t offset[] = { 0, 0, 2, 4, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x86, 0x87, 0x87, 0x87, 0x8a };
		static const uint8_t command[] = { 0xc8, 0xca, 0x25, 0x35, 0x20, 0x30, 0x06, 0xec, 0xef, 0xe7, 0xb0, 0x3d };
		struct vu_region_access d = { .region = 5, .count = 1 };
		uint32_t value = (uint32_t)rnd();

		d.offset = offset[rnd() % sizeof(offset)] + (rnd() % 4 ? 0u : 0x40u);
		if (d.offset == 4 || d.offset == 0x80)
			d.count = 4;
		if (d.offset == 4)
			value = BUS + (uint32_t)(rnd() % ARENA);
		if (d.offset == 0)
			value &= 9;
		if (d.offset == 0x87)
			value = command[rnd() % sizeof(command)];
		memcpy(p, &d, sizeof(d));
		memcpy(p + sizeof(d), &value, 4);
		return finish(m, VU_REGION_WRITE, sizeof(d) + d.count);
	}
	}
}

static void ask(int fd, uint16_t command, const void *payload, size_t len, const int *with)
{
	uint8_t m[128];

	memcpy(m + sizeof(struct vu_header), payload, len);
	send_message(fd, m, finish(m, command, len), with, !!with);
}

static void reg_write(int fd, uint32_t region, uint64_t offset, uint32_t count, uint32_t value)
{
	struct {
		struct vu_region_access a;
		uint32_t value;
	} w = { { .offset = offset, .region = region, .count = count }, value };

	ask(fd, VU_REGION_WRITE, &w, sizeof(w.a) + count, NULL);
}

/* What a working device needs, and what the attack soon takes away. */
static void prepare(int fd)
{
	struct vu_dma_map d = { .argsz = sizeof(d), .flags = 3, .address = BUS, .size = ARENA };
	struct vu_irq_set irq = { .argsz = sizeof(irq), .flags = VU_IRQ_DATA_EVENTFD | VU_IRQ_TRIGGER, .count = 1 };

	ask(fd, VU_DMA_MAP, &d, sizeof(d), &memfd);
	if (ftruncate(odd, ODD))
		abort();
	d.address += ARENA;
	d.size = ODD;
	ask(fd, VU_DMA_MAP, &d, sizeof(d), &odd);
	ask(fd, VU_SET_IRQS, &irq, sizeof(irq), &irqfd);
	reg_write(fd, VU_CONFIG_REGION, 4, 1, 7);
}

/* A transfer that would work, if its table and memory are let alone. */
static void transfer(int fd, uint32_t *arena)
{
	uint32_t table = (uint32_t)(rnd() % (ARENA / 8)) * 2, sectors = 1 + (uint32_t)(rnd() % 8);
	uint32_t at = (uint32_t)(rnd() % (ARENA + ODD)), read = rnd() % 2;

	arena[table] = BUS + at;
	arena[table + 1] = 0x80000000u | sectors * 512;
	reg_write(fd, 5, 0x86, 1, rnd() % 2 ? 0xe0 : 0xf0);
	reg_write(fd, 5, 0x82, 1, sectors);
	reg_write(fd, 5, 0x83, 1, (uint32_t)rnd() & 0xff);
	reg_write(fd, 5, 0x84, 1, 0);
	reg_write(fd, 5, 0x85, 1, 0);
	reg_write(fd, 5, 4, 4, BUS + table * 4);
	reg_write(fd, 5, 0x87, 1, read ? 0xc8 : 0xca);
	reg_write(fd, 5, 0, 1, read ? 9 : 1);
}

static int dial(void)
{
	const struct vu_version v = { 0 };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (connect(fd, (struct sockaddr *)&address, address_len)) {
		close(fd);
		return -1;
	}
	connections++;
	ask(fd, VU_VERSION, &v, sizeof(v), NULL);
	prepare(fd);
	return fd;
}

static void attack(time_t end)
{
	const int kinds[] = { memfd, irqfd, open("/dev/null", O_RDWR), odd, open("/proc/self/exe", O_RDONLY) };
	uint32_t *arena = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	int fd = -1;

	while (time(NULL) < end) {
		uint8_t m[512] = { 0 };
		int fds[12], nfds = 0;
		size_t len;

		if (fd < 0)
			fd = dial();
		if (fd < 0)
			continue;
		for (int i = 0; i < 4; i++)
			arena[rnd() % (ARENA / 4)] = rnd() % 2 ? BUS + (uint32_t)(rnd() % (ARENA + 2 * ODD)) : (uint32_t)rnd();
		len = make(m, fds, &nfds);
		if (rnd() % 10 == 0) {
			size_t at = rnd() % len;

			/* a wrong size swallows or ends all that follows: seldom */
			if (at / 4 != 1 || rnd() % 32 == 0)
				m[at] ^= (uint8_t)(1 << rnd() % 8);
		}
		if (rnd() % 8 == 0) {
			for (nfds = (int)(rnd() % 12); nfds > 0 && rnd() % 3 == 0;)
				nfds--;
			for (int i = 0; i < nfds; i++)
				fds[i] = kinds[rnd() % (sizeof(kinds) / sizeof(kinds[0]))];
		}
		if (rnd() % 64 == 0 && ftruncate(odd, rnd() % 2 ? 0 : 1 << 20))
			abort();
		if (rnd() % 128 == 0)
			prepare(fd);
		if (rnd() % 16 == 0)
			transfer(fd, arena);
		if (send_message(fd, m, len, fds, nfds) || rnd() % 5000 == 0) {
			close(fd);
			fd = -1;
		}
	}
	if (fd >= 0)
		close(fd);
	munmap(arena, ARENA);
	close(kinds[2]);
	close(kinds[4]);
}

/* After all that: does it still know what it is? */
static int honest(void)
{
	struct {
		struct vu_header h;
		struct vu_region_access a;
		uint32_t value;
	} reply;
	struct vu_region_access a = { .region = VU_CONFIG_REGION, .count = 4 };
	struct vu_header h = { .id = 9, .command = VU_REGION_READ, .size = sizeof(h) + sizeof(a) };
	uint8_t m[64];
	int fd = -1;

	for (int i = 0; i < 50 && fd < 0; i++) {
		nanosleep(&(struct timespec){ .tv_nsec = 50000000 }, NULL);
		fd = dial();
	}
	/* let the answers to dial()'s messages go by */
	nanosleep(&(struct timespec){ .tv_nsec = 200000000 }, NULL);
	while (recv(fd, m, sizeof(m), MSG_DONTWAIT) > 0)
		;
	memcpy(m, &h, sizeof(h));
	memcpy(m + sizeof(h), &a, sizeof(a));
	if (send(fd, m, h.size, MSG_NOSIGNAL) != (ssize_t)h.size || recv(fd, &reply, 36, MSG_WAITALL) != 36)
		return 1;
	close(fd);
	return reply.value != 0x06801095;
}

/* Messages of vectors, among them some that there are not, from a thread of the model's. */
static void *ring(void *arg)
{
	struct usrdrv_model *model = arg;
	unsigned int vector = 0;

	while (!stop) {
		model->host.message(model->host.ctx, vector++ % (MSIX + 2));
		nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL);
	}
	return NULL;
}

static void *serve(void *server)
{
	vu_server_run(server);
	return NULL;
}

int main(int argc, char **argv)
{
	/* that drive's data are moved by a thread of the model, while mappings come and go */
	const struct cmd680_fault slow = {
		.base = { .kind = CMD680_FAULT_SLOW }, .drive = 1, .opcode = -1, .above = -1, .seek_ms = 0.05,
	};
	struct cmd680_config config = { .cable80 = { 1, 1 }, .pci_class = 0x0180 };
	struct usrdrv_model *model;
	struct vu_server *server;
	pthread_t thread, ringer;
	int seconds = argc > 1 ? atoi(argv[1]) : 5, listener, ret;
	eventfd_t signals = 0;

	state = (argc > 2 ? strtoull(argv[2], NULL, 0) : 1) * 0x9e3779b97f4a7c15ull + 1;
	for (int i = 0; i < 3; i++) {
		config.drive[i] = (struct cmd680_drive_config){
			.present = 1, .fd = -1, .size = 1 << 20, .max_udma = 6, .max_mwdma = 2, .lba48 = 1, .trim = 1,
		};
		strcpy(config.drive[i].serial, "S");
		strcpy(config.drive[i].model, "M");
		strcpy(config.drive[i].firmware, "F");
	}
	/* one medium is a file: its data go straight to and from the peer's memory */
	config.drive[1].fd = memfd_create("image", 0);
	if (ftruncate(config.drive[1].fd, (off_t)config.drive[1].size))
		return 2;
	memfd = memfd_create("arena", 0);
	odd = memfd_create("odd", 0);
	irqfd = eventfd(0, EFD_NONBLOCK);
	vectorfd = eventfd(0, EFD_NONBLOCK);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	/* an abstract address: nothing is left behind */
	address_len = (socklen_t)(sizeof(sa_family_t) + 1 +
				  (size_t)sprintf(address.sun_path + 1, "usrdrv-fuzz-%d", (int)getpid()));
	if (ftruncate(memfd, ARENA) || bind(listener, (struct sockaddr *)&address, address_len) || listen(listener, 4))
		return 2;
	ret = cmd680_create(&config, &model);
	if (!ret && faults_add(cmd680_faults(model), &slow.base) < 0)
		ret = 2;
	if (!ret) {
		model->vectors[USRDRV_IRQ_MSI] = MSI;
		model->vectors[USRDRV_IRQ_MSIX] = MSIX;
		ret = vu_server_create(model, listener, 0, &server);
	}
	if (ret)
		return 2;
	pthread_create(&thread, NULL, serve, server);
	pthread_create(&ringer, NULL, ring, model);
	attack(time(NULL) + seconds);
	ret = honest();
	stop = 1;
	pthread_join(ringer, NULL);
	vu_server_stop(server);
	pthread_join(thread, NULL);
	vu_server_destroy(server);
	model->ops->destroy(model);
	eventfd_read(vectorfd, &signals);
	printf("%lu messages, %lu connections, %lu signals of vectors\n", messages, connections, (unsigned long)signals);
	return ret;
}
