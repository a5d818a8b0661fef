// SPDX-License-Identifier: MIT
/*
 * A server that is out to hurt the kernel, for a set time:
 *
 *	usrloop_hostile SEED SECONDS [DEVICE [SLOWER]]
 *
 * DEVICE is the slot of a CMD680 (bus 0, function 0): the disk is one of zero copy, whose servers have claimed it. They
 * have its drive interrupt, also when a request is to end by that; nobody has it reach memory. -1, as without it: no
 * device, no zero copy. SLOWER: lives, and what clients have for their end, are so many times as long.
 *
 *	parent		makes a block device and an interface, again when they were deleted; at the end deletes all
 *	clients		read and write the disk, send packets; each must come to its end
 *	lives		one after the other, of a fraction of a second, killed: each attaches to one of the devices and
 *			- writes random bytes all over the shared memory
 *			- calls ENTER, completes what it was given or something else, receives packets that are nearly right
 *			- calls everything else with random arguments
 *
 * Says what it did in JSON. Exit: 0; 1 if a client has not ended a minute, times SLOWER, after all was deleted.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "usrdrv/loop.h"

#include "usrloop_random.h"

#define BLOCK_ID	0
#define NET_ID		0
#define CLIENTS		4

static struct {
	atomic_ulong calls, succeeded, completed, received, scribbled, reads, errors, packets, lives, claims, ended;
	atomic_bool over;
} *shared;

static int device = -1;		/* what is claimed, -1: nothing */
static unsigned int slower = 1;

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000ull + t.tv_nsec / 1000000;
}

/* --- a life --- */

static struct {
	int fd, event, unmask;
	bool scribbled;
	struct usrloop_attach attach;
	struct loop_queue queue[8];
	uint8_t *map;
} life;

static void random_call(uint64_t *seed)
{
	static const unsigned long requests[] = {
		USRLOOP_IOC_VERSION, USRLOOP_IOC_CREATE, USRLOOP_IOC_QUERY, USRLOOP_IOC_START, USRLOOP_IOC_STOP,
		USRLOOP_IOC_DELETE, USRLOOP_IOC_RESIZE, USRLOOP_IOC_DETACH, USRLOOP_IOC_ATTACH, USRLOOP_IOC_EVENTFD,
		USRLOOP_IOC_CARRIER, USRLOOP_IOC_FINISH, USRLOOP_IOC_ENTER, USRLOOP_IOC_ENTER,
	};
	unsigned long request = requests[next(seed) % (sizeof(requests) / sizeof(requests[0]))];
	union {
		struct usrloop_info info;
		struct usrloop_target target;
		struct usrloop_eventfd event;
		struct usrloop_attach attach;
		struct usrloop_finish finish;
		uint8_t bytes[512];
	} u;
	int fd = life.fd, own = -1;
	unsigned long argument = (unsigned long)&u;
	int ret;

	memset(&u, 0, sizeof(u));
	if (!(next(seed) % 3))
		fd = own = open("/dev/usrloop", O_RDWR | O_CLOEXEC);
	switch (request) {
	case USRLOOP_IOC_CREATE:
		random_info(&u.info, seed);
		break;
	case USRLOOP_IOC_EVENTFD:
		u.event = (struct usrloop_eventfd){ .argsz = sizeof(u.event), .queue = next(seed) % 3, .index = next(seed) % 5,
						    .fd = next(seed) % 3 ? life.event : (int)(next(seed) % 8) - 1,
						    .ack_fd = next(seed) % 2 ? life.unmask : -1 };
		break;
	case USRLOOP_IOC_ENTER:
		argument = next(seed) % 3 | (next(seed) % 4) << 16;
		break;
	case USRLOOP_IOC_FINISH:
		random_steps(&u.finish, seed);
		break;
	case USRLOOP_IOC_VERSION:
	case USRLOOP_IOC_QUERY:
		u.info = (struct usrloop_info){ .argsz = sizeof(u.info), .type = 1 + next(seed) % 2, .id = next(seed) % 4 };
		break;
	case USRLOOP_IOC_ATTACH:
		u.attach = (struct usrloop_attach){ .argsz = sizeof(u.attach), .type = 1 + next(seed) % 2,
						    .id = next(seed) % 4, .version = USRLOOP_VERSION };
		break;
	default:
		u.target = (struct usrloop_target){ .argsz = sizeof(u.target), .type = 1 + next(seed) % 2,
						    .id = next(seed) % 3 ? next(seed) % 4 : USRLOOP_ANY,
						    .arg = next(seed) % 2 };
		if (request == USRLOOP_IOC_RESIZE)
			u.target.arg = 512ull << next(seed) % 20;
		if (request == USRLOOP_IOC_CARRIER)
			u.target.arg = next(seed) % 2 * 1000;
		/* These end all the fun: now and then only. */
		if ((request == USRLOOP_IOC_DELETE || request == USRLOOP_IOC_STOP || request == USRLOOP_IOC_DETACH) &&
		    next(seed) % 64)
			request = USRLOOP_IOC_START;
	}
	if (!(next(seed) % 16))
		fill(&u, sizeof(u), seed);
	if (!(next(seed) % 64) && request != USRLOOP_IOC_ENTER)
		argument = next(seed);
	ret = ioctl(fd, request, argument);
	atomic_fetch_add(&shared->calls, 1);
	if (ret >= 0)
		atomic_fetch_add(&shared->succeeded, 1);
	if (!(next(seed) % 8)) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		size_t size = (next(seed) % 64) << 12;
		void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (next(seed) % 64) << 12);

		poll(&p, 1, 0);
		if (map != MAP_FAILED)
			munmap(map, size);
	}
	if (!(next(seed) % 4))
		eventfd_write(life.event, 1 + next(seed) % 3);
	if (own >= 0)
		close(own);
}

static __attribute__((noreturn)) void *caller(void *argument)
{
	uint64_t seed = (uintptr_t)argument;

	for (;;)
		random_call(&seed);
}

static __attribute__((noreturn)) void *scribbler(void *argument)
{
	uint64_t seed = (uintptr_t)argument;

	for (;;) {
		unsigned int i = next(&seed) % life.attach.queues;
		uint8_t *ring = life.map + (size_t)i * life.attach.ring_stride;
		size_t at;

		switch (next(&seed) % 4) {
		case 0:		/* what the server writes at the begin of a ring: indexes, time-out */
			((uint32_t *)&((struct usrloop_ring *)ring)->sq_head)[next(&seed) % 7] = next(&seed) >> 16;
			break;
		case 1:		/* rings */
			at = next(&seed) % life.attach.ring_stride;
			ring[at] = next(&seed) >> 16;
			break;
		case 2:		/* indexes that are nearly right */
			((uint32_t *)&((struct usrloop_ring *)ring)->sq_head)[next(&seed) % 7] += next(&seed) % 3;
			break;
		default:
			at = next(&seed) % life.attach.size;
			fill(life.map + at, 1 + next(&seed) % (life.attach.size - at < 64 ? life.attach.size - at : 64), &seed);
		}
		atomic_fetch_add(&shared->scribbled, 1);
		if (!(next(&seed) % 16))
			usleep(next(&seed) % 500);
	}
}

/* A frame that gets far into the stack before something is wrong with it. */
static uint32_t make_frame(uint8_t *slot, uint64_t *seed)
{
	static const uint8_t start[] = {
		0x02, 0, 0, 0, 0, 0x99, 0x02, 0, 0, 0, 0, 0x98, 0x08, 0x00,	/* Ethernet, IPv4 */
		0x45, 0, 0x05, 0xdc, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 99, 0, 2, 10, 99, 0, 1,
		0x30, 0x39, 0x30, 0x39, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0,
	};
	struct virtio_net_hdr_mrg_rxbuf *header = (void *)slot;
	uint32_t len = 14 + next(seed) % (next(seed) % 4 ? 1500 : 65000);
	uint8_t *frame = slot + sizeof(*header);

	memset(header, 0, sizeof(*header));
	if (next(seed) % 2) {
		static const uint8_t types[] = { 0, 1, 3, 4, 5, 0x81, 0x84 };

		header->hdr.flags = next(seed) % 4;
		header->hdr.gso_type = types[next(seed) % sizeof(types)];
		header->hdr.gso_size = next(seed) % 4 ? 1448 : next(seed);
		header->hdr.hdr_len = next(seed) % 4 ? 54 : next(seed);
		header->hdr.csum_start = next(seed) % 4 ? 34 : next(seed);
		header->hdr.csum_offset = next(seed) % 4 ? 16 : next(seed);
	}
	memcpy(frame, start, len < sizeof(start) ? len : sizeof(start));
	if (next(seed) % 2)
		frame[next(seed) % sizeof(start)] = next(seed);
	if (next(seed) % 4 == 0)
		frame[12] = 0x86, frame[13] = 0xdd, frame[14] = 0x60;
	return sizeof(*header) + (next(seed) % 16 ? len : next(seed));
}

static void put(unsigned int at, uint8_t value)
{
	if (pwrite(life.attach.claim_fd, &value, 1, 5ll << 40 | at) != 1)
		atomic_fetch_add(&shared->errors, 1);
}

static void interrupt(void)
{
	put(DRIVE, 0xe0);
	put(COMMAND, FLUSH_CACHE);
}

/* Have a request end by an interrupt; mostly it is the one that the handler is told of. Whether that has ended. */
static bool end_by_interrupt(struct usrloop_ring *ring, uint32_t tag, uint32_t seq, uint64_t *seed)
{
	uint64_t until = now_ms() + 10 * slower;
	bool right = next(seed) % 8, ended;
	uint8_t status;

	ring->finish_tag = right ? tag : next(seed) % 64;
	ring->finish_seq = right || next(seed) % 2 ? seq : seq + 1;
	eventfd_write(life.unmask, 1);
	__atomic_store_n(&ring->finish, USRLOOP_FINISH_ARMED, __ATOMIC_RELEASE);
	interrupt();
	do
		ended = __atomic_load_n(&ring->finish, __ATOMIC_ACQUIRE) == USRLOOP_FINISH_DONE;
	while (!ended && now_ms() < until);
	if (next(seed) % 4)
		__atomic_store_n(&ring->finish, USRLOOP_FINISH_OFF, __ATOMIC_RELEASE);
	if (!ended && pread(life.attach.claim_fd, &status, 1, 5ll << 40 | COMMAND) == 1)
		put(LATCH, INTERRUPT);
	return ended && right;
}

/* Serves after a fashion: or nothing of the other side would be reached. */
static void serve(unsigned int i, uint64_t *seed)
{
	struct loop_queue *q = &life.queue[i];
	const struct usrloop_sqe *sqe;
	unsigned int n = next(seed) % 16;
	uint8_t *slot;

	while (n-- && (sqe = loop_next(q))) {
		uint32_t tag = sqe->tag, seq = sqe->seq;
		int result = next(seed) % 4 ? 0 : -(int)(next(seed) % 5000);

		if (life.attach.claim_fd >= 0 && !i && next(seed) % 2 && end_by_interrupt(q->ring, tag, seq, seed)) {
			atomic_fetch_add(&shared->ended, !life.scribbled);
			if (next(seed) % 8)
				continue;
		}
		if (!(next(seed) % 8))
			tag = next(seed) % (2 * life.attach.depth);
		if (!(next(seed) % 8))
			seq += next(seed) % 3 - 1;
		loop_complete(q, tag, seq, result);
		if (!(next(seed) % 8))
			loop_complete(q, tag, seq, result);
		atomic_fetch_add(&shared->completed, 1);
	}
	for (n = next(seed) % 8; life.attach.type == USRLOOP_NET && n; n--) {
		/* Mostly, that is: whether there is room or not. */
		slot = loop_receive_slot(q);
		if (!slot && next(seed) % 4)
			break;
		loop_received(q, make_frame(slot ?: loop_slot(q, q->mask + 1 + (q->rx_tail & q->mask)), seed));
		atomic_fetch_add(&shared->received, 1);
	}
	loop_enter(q, next(seed) % 8 ? USRLOOP_ENTER_NOWAIT : next(seed) & 0x30000, 1 + next(seed) % 20);
}

/* usr_pci_open(), and USR_PCI_IRQ_SET; the life before may not be over quite. */
static int claim(void)
{
	struct {
		uint32_t domain;
		uint8_t bus, slot, function, reserved;
		uint64_t dma_mask, name, flags;
	} how = { .slot = (uint8_t)device };
	struct {
		uint32_t kind;
		int32_t event, unmask;
		uint32_t irq;
	} intx = { .kind = 1, .event = life.event, .unmask = life.unmask };
	int fd = -1;

	for (int i = 0; i < 50 && fd < 0; i++) {
		fd = (int)syscall(548, &how, sizeof(how));
		if (fd < 0)
			usleep(20000);
	}
	if (fd >= 0 && !syscall(549, fd, 7, &intx, sizeof(intx)))
		atomic_fetch_add(&shared->claims, 1);
	return fd;
}

static void live(uint64_t seed, unsigned int type)
{
	struct usrloop_target target = {
		.argsz = sizeof(target), .type = type, .id = type == USRLOOP_NET ? NET_ID : BLOCK_ID,
	};
	struct usrloop_finish steps;
	unsigned int i;
	pthread_t thread;
	void *map;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	life.fd = open("/dev/usrloop", O_RDWR | O_CLOEXEC);
	life.event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	life.unmask = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	life.attach = (struct usrloop_attach){
		.argsz = sizeof(life.attach), .type = type, .id = target.id, .version = USRLOOP_VERSION, .claim_fd = -1,
	};
	if (type == USRLOOP_BLOCK && device >= 0)
		life.attach.claim_fd = claim();
	if (ioctl(life.fd, USRLOOP_IOC_ATTACH, &life.attach) || loop_map(life.fd, &life.attach, &map))
		_exit(1);
	life.map = map;
	for (i = 0; i < life.attach.queues; i++)
		loop_queue_init(&life.queue[i], life.fd, &life.attach, map, i);
	ioctl(life.fd, USRLOOP_IOC_START, &target);
	target.arg = 1000;
	ioctl(life.fd, USRLOOP_IOC_CARRIER, &target);
	if (type == USRLOOP_NET)
		usleep(20000);
	good_steps(&steps);
	ioctl(life.fd, USRLOOP_IOC_FINISH, &steps);
	eventfd_write(life.unmask, 1);
	pthread_create(&thread, NULL, caller, (void *)(seed | 1));
	life.scribbled = next(&seed) % 2;
	if (life.scribbled)
		pthread_create(&thread, NULL, scribbler, (void *)(seed | 1));
	for (;;)
		for (i = 0; i < life.attach.queues; i++)
			serve(i, &seed);
}

/* --- clients --- */

static void use_disk(uint64_t seed)
{
	void *buffer = aligned_alloc(4096, 65536);
	int fd = -1;

	while (!atomic_load(&shared->over)) {
		size_t size = 512 << next(&seed) % 8;
		off_t at = (next(&seed) % 16384) * 512;
		ssize_t done;

		if (fd < 0)
			fd = open("/dev/usrblk0", O_RDWR | (next(&seed) % 2 ? O_DIRECT : 0) | O_CLOEXEC);
		if (fd < 0) {
			usleep(5000);
			continue;
		}
		done = next(&seed) % 2 ? pread(fd, buffer, size, at) : pwrite(fd, buffer, size, at);
		atomic_fetch_add(done < 0 ? &shared->errors : &shared->reads, 1);
		if (!(next(&seed) % 16))
			fdatasync(fd);
		if (done < 0 || !(next(&seed) % 64)) {
			close(fd);
			fd = -1;
		}
	}
}

static void use_net(uint64_t seed)
{
	int packet = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0), udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = inet_addr("10.99.0.2") };
	static uint8_t frame[9000];
	unsigned int round = 0;

	fcntl(udp, F_SETFL, O_NONBLOCK);
	fcntl(packet, F_SETFL, O_NONBLOCK);
	while (!atomic_load(&shared->over)) {
		struct sockaddr_ll link = { .sll_family = AF_PACKET, .sll_ifindex = if_nametoindex("usrnet0"), .sll_halen = 6 };
		size_t size = 14 + next(&seed) % 1486;
		unsigned int i;

		/* It is down, or gone and made again, every now and then. */
		if (!(round++ % 32) && system("exec 2>/dev/null; ip link set usrnet0 down; ip link set usrnet0 up;"
					      "ip addr add 10.99.0.1/24 dev usrnet0;"
					      "ip neigh replace 10.99.0.2 lladdr 02:00:00:00:00:98 dev usrnet0"))
			usleep(1000);
		for (i = 0; i < 8; i++) {
			if (sendto(packet, frame, size, 0, (void *)&link, sizeof(link)) >= 0)
				atomic_fetch_add(&shared->packets, 1);
			sendto(udp, frame, size, 0, (void *)&to, sizeof(to));
		}
		usleep(1000);
	}
}

static pid_t client(void (*use)(uint64_t), uint64_t seed)
{
	pid_t pid = fork();

	if (pid < 0) {
		perror("fork");
		exit(1);
	}
	if (!pid) {
		use(seed);
		_exit(0);
	}
	return pid;
}

/* --- the parent --- */

static void make(unsigned int type, uint64_t *seed)
{
	struct usrloop_info info = {
		.argsz = sizeof(info), .type = type, .id = type == USRLOOP_NET ? NET_ID : BLOCK_ID,
		.features = type == USRLOOP_NET ? USRLOOP_NET_CSUM | USRLOOP_NET_TSO | USRLOOP_NET_USO :
						  USRLOOP_BLK_CACHE | USRLOOP_BLK_FUA | USRLOOP_BLK_DISCARD,
		.flags = USRLOOP_PERSIST, .policy = next(seed) % 2 ? USRLOOP_DEATH_REISSUE : USRLOOP_DEATH_FAIL_NEW,
		.recovery_ms = 300, .timeout_ms = 200, .queues = 2, .depth = 8 << next(seed) % 3,
		.poll_us = next(seed) % 2 * 50,
	};
	struct usrloop_info there = { .argsz = sizeof(there), .type = info.type, .id = info.id };
	struct usrloop_target target = { .argsz = sizeof(target), .type = info.type, .id = info.id, .arg = 1 };
	int fd = open("/dev/usrloop", O_RDWR | O_CLOEXEC);

	if (type == USRLOOP_NET)
		info.net = (struct usrloop_net_params){ .mac = { 2, 0, 0, 0, 0, 0x99 }, .mtu = 1500, .max_mtu = 9000 };
	else
		info.blk = (struct usrloop_blk_params){ .size = 8 << 20, .logical_block = 512, .physical_block = 512,
							.max_io = 16384 };

	if (type == USRLOOP_BLOCK && device >= 0) {
		info.features |= USRLOOP_BLK_ZERO_COPY;
		info.blk.max_segments = 1 + next(seed) % 16;
		info.blk.segment_mask = next(seed) % 2 ? 0xffff : 0;
	}
	/* A call at random may have made one that is less fun. */
	if (!ioctl(fd, USRLOOP_IOC_QUERY, &there) && there.features != info.features)
		ioctl(fd, USRLOOP_IOC_DELETE, &target);
	ioctl(fd, USRLOOP_IOC_CREATE, &info);
	close(fd);
}

static void delete_all(void)
{
	int fd = open("/dev/usrloop", O_RDWR | O_CLOEXEC);
	unsigned int type, id;

	for (type = USRLOOP_BLOCK; type <= USRLOOP_NET; type++)
		for (id = 0; id < 1024; id++) {
			struct usrloop_target target = { .argsz = sizeof(target), .type = type, .id = id, .arg = 1 };

			ioctl(fd, USRLOOP_IOC_DELETE, &target);
		}
	close(fd);
}

int main(int argc, char **argv)
{
	uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) * 2 + 1 : 1, end, until, begun = now_ms();
	pid_t clients[CLIENTS], lives[2] = { 0, 0 };
	unsigned int i, left = 0, round = 0;

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	end = begun + 1000 * (argc > 2 ? atoi(argv[2]) : 10);
	if (argc > 3)
		device = (int)strtol(argv[3], NULL, 0);
	if (argc > 4)
		slower = (unsigned int)atoi(argv[4]);
	for (i = 0; i < 8; i++)
		next(&seed);
	for (i = 0; i < CLIENTS; i++)
		clients[i] = client(i < 3 ? use_disk : use_net, next(&seed) | 1);
	while (now_ms() < end) {
		for (i = 0; i < 2; i++) {
			make(1 + i, &seed);
			lives[i] = fork();
			if (!lives[i])
				live(next(&seed) + i + ((uint64_t)++round << 32), 1 + i);
			next(&seed);
			atomic_fetch_add(&shared->lives, 1);
		}
		usleep(slower * (100000 + next(&seed) % 400000));
		for (i = 0; i < 2; i++) {
			if (lives[i] < 0)
				continue;
			kill(lives[i], SIGKILL);
			waitpid(lives[i], NULL, 0);
		}
	}
	atomic_store(&shared->over, true);
	delete_all();
	until = now_ms() + 60000 * slower;
	for (i = 0; i < CLIENTS; i++) {
		pid_t ended;

		while (!(ended = waitpid(clients[i], NULL, WNOHANG)) && now_ms() < until)
			usleep(20000);
		if (!ended) {
			char command[128];

			left++;
			snprintf(command, sizeof(command), "cat /proc/%d/stack /proc/%d/status >&2", clients[i],
				 clients[i]);
			if (system(command))
				perror(command);
		}
	}
	printf("{\"seconds\": %.1f, \"lives\": %lu, \"calls\": %lu, \"succeeded\": %lu, \"completed\": %lu, \"received\": %lu, "
	       "\"scribbled\": %lu, \"disk\": %lu, \"errors\": %lu, \"packets\": %lu, \"claims\": %lu, \"ended\": %lu, \"left\": %u}\n",
	       (now_ms() - begun) / 1000.0, shared->lives, shared->calls, shared->succeeded, shared->completed,
	       shared->received, shared->scribbled, shared->reads, shared->errors, shared->packets,
	       shared->claims, shared->ended, left);
	return left ? 1 : 0;
}
