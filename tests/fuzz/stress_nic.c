// SPDX-License-Identifier: MIT
/*
 * The NIC driver's data path at both ends of a cable between two in-process models, without Python,
 * so that it can run under ASan/UBSan or TSan. Sockets stand in for the kernel: packets of known
 * contents, large ones among them, and nonsense. Meanwhile chips fail, links flap, and rings are
 * made anew for another MTU.
 *
 * usage: stress_nic SECONDS SEED
 * Ends with 0 and a line of counts, or with 1 at the first wrong byte.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "backends.h"
#include "dp.h"
#include "dp83820/dp83820.h"
#include "ports.h"

#define MARK		0x88b5u		/* type of frames whose bytes are known */
#define PORT		7777u
#define HEADERS		54u		/* bytes of Ethernet, IPv4 and TCP */
#define CONFIG		USRDRV_REGION_CONFIG
#define CFG_UP		(DP83820_CFG_EXTSTS_EN | DP83820_CFG_PINT_LNK | DP83820_CFG_PINT_SPD | DP83820_CFG_PINT_DUP | \
			 DP83820_CFG_MODE_1000 | DP83820_CFG_SB)

struct end {
	unsigned int number;
	struct usrdrv_model *model;
	struct usrdrv_dev *dev;
	struct usrdrv_net_port *port;
	int kernel, tap;	/* our side of the port, and its own */
	struct usrdrv_net_stats stats;
	struct dp *dp;
	pthread_t control, sender, receiver;
	uint64_t random;	/* the sender's dice */
};

/* Of TSan's library; without it, nothing. */
__attribute__((weak)) void AnnotateIgnoreReadsBegin(const char *file, int line);
__attribute__((weak)) void AnnotateIgnoreReadsEnd(const char *file, int line);
__attribute__((weak)) void AnnotateIgnoreWritesBegin(const char *file, int line);
__attribute__((weak)) void AnnotateIgnoreWritesEnd(const char *file, int line);

static struct usrdrv_model_host bus;	/* as the backend made it; both ends have the same functions */
static atomic_int stop, failed;
static atomic_ulong sent, plain, tcp;

static uint32_t any(struct end *e, uint32_t below)
{
	e->random = e->random * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(e->random >> 33) % below;
}

static void complain(const struct end *e, const char *what, unsigned long at)
{
	fprintf(stderr, "end %u: %s at %lu\n", e->number, what, at);
	atomic_store(&failed, 1);
	atomic_store(&stop, 1);
}

static void put16(uint8_t *p, size_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static unsigned int get16(const uint8_t *p)
{
	return (unsigned int)p[0] << 8 | p[1];
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

/* Byte number i of everything whose contents are known. */
static uint8_t content(uint32_t i)
{
	return (uint8_t)(i * 7 + (i >> 8));
}

/* A frame of the type MARK: where its contents begin, how long it is, contents. */
static size_t plain_frame(struct end *e, uint8_t *f)
{
	size_t len = 60 + any(e, 1455);
	uint32_t from = any(e, 1u << 30);

	put16(f + 12, MARK);
	memcpy(f + 14, &from, 4);
	put16(f + 18, len);
	for (size_t i = 20; i < len; i++)
		f[i] = content(from + (uint32_t)i);
	return len;
}

/* TCP whose payload is known by its sequence numbers; mostly more than one segment, some with a tag. */
static size_t tcp_packet(struct end *e, struct usrdrv_net_header *h, uint8_t *f)
{
	uint32_t seq = any(e, 1u << 30), size = 1 + any(e, any(e, 4) ? 65000 : 1400), gso = 400 + any(e, 1000);
	size_t tag = any(e, 4) ? 0 : 4;
	uint8_t *ip = f + 14 + tag, *l4 = ip + 20;
	uint8_t pseudo[4] = { 0, 6 };
	uint16_t sum;

	if (tag) {
		put16(f + 12, 0x8100);
		put16(f + 14, any(e, 4096));
	}
	put16(f + 12 + tag, 0x0800);
	memset(ip, 0, 40);
	ip[0] = 0x45;
	put16(ip + 2, 40 + size);
	ip[8] = 64;
	ip[9] = 6;
	put16(ip + 12, 0x0a00);
	put16(ip + 16, 0x0a00);
	sum = net_fold(net_sum(ip, 20, 0));
	memcpy(ip + 10, &sum, 2);
	put16(l4, PORT);
	put16(l4 + 2, PORT);
	put16(l4 + 4, seq >> 16);
	put16(l4 + 6, seq & 0xffff);
	l4[12] = 0x50;
	l4[13] = 0x10;
	put16(pseudo + 2, 20 + size);
	sum = (uint16_t)~net_fold(net_sum(ip + 12, 8, net_sum(pseudo, 4, 0)));
	memcpy(l4 + 16, &sum, 2);
	for (uint32_t i = 0; i < size; i++)
		l4[20 + i] = content(seq + i);
	h->flags = USRDRV_NET_NEEDS_CSUM;
	h->csum_start = (uint16_t)(34 + tag);
	h->csum_offset = 16;
	if (size > gso || size > 1400) {
		h->gso_type = USRDRV_NET_GSO_TCPV4;
		h->gso_size = (uint16_t)gso;
	}
	return HEADERS + tag + size;
}

/* What no kernel says, of frames that nobody compares. */
static size_t nonsense(struct end *e, struct usrdrv_net_header *h, uint8_t *f)
{
	size_t len = any(e, 3) ? any(e, 2000) : any(e, 66000);

	if (any(e, 2))
		tcp_packet(e, h, f);
	h->flags = (uint8_t)any(e, 4);
	h->gso_type = (uint8_t)any(e, 7);
	h->gso_size = (uint16_t)any(e, any(e, 4) ? 2000 : 3);
	h->csum_start = (uint16_t)any(e, any(e, 4) ? 100 : 65536);
	h->csum_offset = (uint16_t)any(e, any(e, 4) ? 30 : 65536);
	put16(f + 12, any(e, 2) ? 0x86dd : 0x9999);
	if (len > 40 && any(e, 2))
		f[14 + any(e, 20)] ^= (uint8_t)any(e, 256);
	return len;
}

static void *send_all(void *arg)
{
	static _Thread_local uint8_t space[68000];
	struct end *e = arg;

	while (!atomic_load(&stop)) {
		struct usrdrv_net_header h = { 0 };
		uint8_t *f = space + sizeof(h);
		size_t len;
		unsigned int dice = any(e, 10);

		memset(f, 0, 14);
		f[0] = f[6] = 2;
		f[5] = (uint8_t)(1 + !e->number);
		f[11] = (uint8_t)(1 + e->number);
		len = dice < 4 ? plain_frame(e, f) : dice < 9 ? tcp_packet(e, &h, f) : nonsense(e, &h, f);
		memcpy(space, &h, sizeof(h));
		if (send(e->kernel, space, sizeof(h) + len, 0) > 0)
			atomic_fetch_add(&sent, 1);
	}
	return NULL;
}

static void check(struct end *e, const uint8_t *f, size_t len)
{
	size_t at = 12, size;
	uint32_t from;

	if (get16(f + at) == 0x8100)
		at += 4;
	if (get16(f + at) == MARK) {
		memcpy(&from, f + 14, 4);
		if (get16(f + 18) != len)
			return complain(e, "wrong length", len);
		for (size_t i = 20; i < len; i++)
			if (f[i] != content(from + (uint32_t)i))
				return complain(e, "wrong byte", i);
		atomic_fetch_add(&plain, 1);
		return;
	}
	if (get16(f + at) != 0x0800 || len < at + 42 || f[at + 11] != 6 || get16(f + at + 22) != PORT)
		return;
	size = get16(f + at + 4);
	if (size < 40 || at + 2 + size > len)
		return complain(e, "wrong IP length", size);
	from = get32(f + at + 26);
	for (uint32_t i = 0; i < size - 40; i++)
		if (f[at + 42 + i] != content(from + i))
			return complain(e, "wrong byte of TCP", i);
	atomic_fetch_add(&tcp, 1);
}

static void *receive_all(void *arg)
{
	static _Thread_local uint8_t space[68000];
	struct end *e = arg;

	while (!atomic_load(&stop)) {
		ssize_t got = recv(e->kernel, space, sizeof(space), 0);

		if (got >= (ssize_t)sizeof(struct usrdrv_net_header) + 20)
			check(e, space + sizeof(struct usrdrv_net_header), (size_t)got - sizeof(struct usrdrv_net_header));
	}
	return NULL;
}

/* What driver.py and chip.py do (section 14.1), for gigabit. */
static void set_up(struct end *e)
{
	static const uint32_t values[][2] = {
		{ DP83820_IMR, 0 }, { DP83820_IER, 0 }, { DP83820_CR, DP83820_CR_RST }, { DP83820_CFG, CFG_UP },
		{ DP83820_TXCFG, DP83820_TXCFG_CSI | DP83820_TXCFG_HBI | DP83820_TXCFG_ATP | DP83820_MXDMA_512 | 0x240 },
		{ DP83820_RXCFG, DP83820_RXCFG_STRIPCRC | DP83820_RXCFG_ARP | DP83820_RXCFG_AIRL | DP83820_RXCFG_ALP |
			DP83820_RXCFG_RX_FD | DP83820_MXDMA_512 },
		{ DP83820_VRCR, DP83820_VRCR_VTDEN | DP83820_VRCR_VTREN | DP83820_VRCR_IPEN },
		{ DP83820_VTCR, DP83820_VTCR_VPPTI | DP83820_VTCR_PPCHK }, { DP83820_VDR, DP83820_VDR_8021Q },
		{ DP83820_RFCR, DP83820_RFCR_AAB | DP83820_RFCR_AAM | DP83820_RFCR_AAU },
		{ DP83820_RFCR, DP83820_RFCR_AAB | DP83820_RFCR_AAM | DP83820_RFCR_AAU | DP83820_RFCR_RFEN },
	};

	for (unsigned int i = 0; i < sizeof(values) / sizeof(values[0]); i++)
		usrdrv_write(e->dev, DP_BAR, values[i][0], 4, values[i][1]);
}

static void follow_link(struct end *e)
{
	uint32_t cfg = 0;

	usrdrv_read(e->dev, DP_BAR, DP83820_CFG, 4, &cfg);
	dp_set_link(e->dp, (cfg & DP83820_CFG_LNKSTS) != 0);
}

static void *control(void *arg)
{
	struct end *e = arg;
	int events;

	while ((events = dp_wait_event(e->dp)) >= 0) {
		if (events & (DP_EVENT_GONE | DP_EVENT_PORT)) {
			complain(e, "event", (unsigned long)events);
			break;
		}
		if (events & (DP_EVENT_STUCK | DP_EVENT_BUS)) {
			set_up(e);
			dp_restart(e->dp);
		}
		follow_link(e);
	}
	return NULL;
}

static int begin(struct end *e, struct end *chance)
{
	struct dp_config config = {
		.mtu = any(chance, 2) ? 1500 : 1500 + any(chance, 7501), .watchdog_ms = 300,
		.offloads = any(chance, 4) > 0,
		.stats = &e->stats,
	};
	int ret;

	set_up(e);
	ret = dp_create(e->dev, &config, &e->dp);
	if (!ret)
		ret = dp_start(e->dp, e->port);
	if (!ret)
		ret = -pthread_create(&e->control, NULL, control, e);
	if (!ret)
		follow_link(e);
	return ret;
}

static void finish(struct end *e)
{
	dp_stop(e->dp);
	pthread_join(e->control, NULL);
	usrdrv_write(e->dev, DP_BAR, DP83820_CR, 4, DP83820_CR_RST);
	dp_destroy(e->dp);
}

/*
 * A chip and its driver share memory without a lock: OWN bits and barriers order it, which TSan does not
 * see. So what the chip does as a bus master is no race for it; all the rest is looked at.
 */
static int dma_read(void *ctx, uint64_t addr, void *buf, size_t len)
{
	int ret;

	if (AnnotateIgnoreReadsBegin)
		AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
	ret = bus.dma_read(ctx, addr, buf, len);
	if (AnnotateIgnoreReadsEnd)
		AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
	return ret;
}

static int dma_write(void *ctx, uint64_t addr, const void *buf, size_t len)
{
	int ret;

	if (AnnotateIgnoreWritesBegin)
		AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
	ret = bus.dma_write(ctx, addr, buf, len);
	if (AnnotateIgnoreWritesEnd)
		AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
	return ret;
}

static int open_end(struct end *e, unsigned int number, uint64_t seed)
{
	const struct usrdrv_write enable = { .region = CONFIG, .width = 2, .offset = 4, .value = 6 };
	const struct timeval patience = { .tv_usec = 50000 };
	struct dp83820_config config = {
		.mac = { 2, 0, 0, 0, 0, (uint8_t)(number + 1) }, .phy = 1, .wire = DP83820_WIRE_CABLE, .wire_fd = -1,
		.record_fd = -1,
	};
	int fds[2], size = 4 << 20, ret;

	e->number = number;
	e->random = seed * 2 + number;
	snprintf(config.cable, sizeof(config.cable), "stress-%d", getpid());
	ret = dp83820_create(&config, &e->model);
	if (!ret)
		ret = usrdrv_inproc_open(e->model, &e->dev);
	if (ret)
		return ret;
	bus = e->model->host;
	e->model->host.dma_read = dma_read;
	e->model->host.dma_write = dma_write;
	e->dev->ops->write_list(e->dev, &enable, 1);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds))
		return -errno;
	e->kernel = fds[0];
	setsockopt(fds[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fds[0], SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	for (int i = 0; i < 2; i++)
		setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	if (fcntl(fds[1], F_SETFL, O_NONBLOCK))
		return -errno;
	e->tap = fds[1];
	return usrdrv_tap_port(e->tap, &e->port);
}

static void hurt(struct end *e, struct end *chance)
{
	static const uint32_t kinds[] = {
		DP83820_FAULT_LOSE, DP83820_FAULT_CORRUPT, DP83820_FAULT_DUPLICATE, DP83820_FAULT_DELAY,
		DP83820_FAULT_FETCH, DP83820_FAULT_OVERRUN, DP83820_FAULT_LOST_IRQ, DP83820_FAULT_LINK_DOWN,
		DP83820_FAULT_STUCK_TX,
	};
	struct dp83820_fault fault = {
		.base = { .kind = kinds[any(chance, sizeof(kinds) / sizeof(kinds[0]))], .count = 1 },
		.every = 1 + any(chance, 50), .ms = 1 + any(chance, 5),
	};

	faults_add(dp83820_faults(e->model), &fault.base);
}

int main(int argc, char **argv)
{
	static struct end ends[2];
	struct end chance = { .random = argc > 2 ? strtoull(argv[2], NULL, 0) : 1 };
	int seconds = argc > 1 ? atoi(argv[1]) : 3, ret = 0;

	for (unsigned int i = 0; i < 2 && !ret; i++)
		ret = open_end(&ends[i], i, chance.random);
	for (unsigned int i = 0; i < 2 && !ret; i++)
		ret = begin(&ends[i], &chance);
	if (ret) {
		fprintf(stderr, "start: %s\n", strerror(-ret));
		return 2;
	}
	for (unsigned int i = 0; i < 2; i++) {
		pthread_create(&ends[i].sender, NULL, send_all, &ends[i]);
		pthread_create(&ends[i].receiver, NULL, receive_all, &ends[i]);
	}
	for (int t = 0; t < seconds * 20 && !atomic_load(&stop); t++) {
		struct end *victim = &ends[any(&chance, 2)];

		nanosleep(&(struct timespec){ .tv_nsec = 50000000 }, NULL);
		if (!any(&chance, 3))
			hurt(victim, &chance);
		if (!any(&chance, 15)) {
			finish(victim);
			if (begin(victim, &chance))
				complain(victim, "no start", 0);
		}
	}
	atomic_store(&stop, 1);
	for (unsigned int i = 0; i < 2; i++) {
		pthread_join(ends[i].sender, NULL);
		pthread_join(ends[i].receiver, NULL);
		finish(&ends[i]);
	}
	for (unsigned int i = 0; i < 2; i++) {
		ends[i].dev->ops->close(ends[i].dev);
		ends[i].model->ops->destroy(ends[i].model);
		close(ends[i].kernel);
		ends[i].port->ops->close(ends[i].port);
		close(ends[i].tap);
	}
	printf("%lu sent %lu plain %lu tcp %lu resets\n", atomic_load(&sent), atomic_load(&plain), atomic_load(&tcp),
	       (unsigned long)(ends[0].stats.resets + ends[1].stats.resets));
	return atomic_load(&failed);
}
