// SPDX-License-Identifier: MIT
/*
 * The dispatcher: one thread that moves frames both ways until there are none, then waits, once,
 * for an interrupt, a packet from the kernel, or a word from the control plane.
 *
 * The chip's interrupt stays masked while there is work. Under load it is not even waited for:
 * short sleeps replace it until several of them found nothing, and the chip holds interrupts off.
 *
 * See docs/design/net-data.md.
 */
#include <errno.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <time.h>

#include "dp.h"

#define WANTED		(DP83820_ISR_RXDESC | DP83820_ISR_RXIDLE | DP83820_ISR_RXORN | DP83820_ISR_PHY | DP83820_ISR_RTABT | \
			 DP83820_ISR_RMABT | DP83820_ISR_SSERR | DP83820_ISR_DPERR)
#define WANTED_BLOCKED	(DP83820_ISR_TXDESC | DP83820_ISR_TXIDLE)
#define BUS_ERRORS	(DP83820_ISR_RTABT | DP83820_ISR_RMABT | DP83820_ISR_SSERR | DP83820_ISR_DPERR)

#define WINDOW_MS	10u
#define LOADED_FRAMES	200u	/* in a window: 20,000 a second */
#define POLL_US		50u	/* sleep between looks under load */
#define QUIET_ROUNDS	20u	/* looks that find nothing end it */
#define TICK_US		250000u
#define HEARTBEAT_US	1000000u	/* a lost interrupt is found after so long */
#define NO_BUFFER_US	10000u	/* between looks whether the kernel, which does not say so, has given us some */
#define GONE_NS		10000000	/* between looks whether we shall end */

enum { ON_IRQ, ON_KICK, ON_HANGUP };

static void freeze(struct dp *dp, int event)
{
	if (dp->frozen)
		return;
	dp->frozen = true;
	dp_write(dp, DP83820_IER, 0);
	dp_post(dp, event);
}

/* Begin, or begin again, with a chip that the control plane has set up. */
static void start_chip(struct dp *dp)
{
	struct usrdrv_write w[] = {
		{ .region = DP_BAR, .width = 4, .offset = DP83820_RXDP_HI, .value = 0 },
		{ .region = DP_BAR, .width = 4, .offset = DP83820_RXDP, .value = 0 },
		{ .region = DP_BAR, .width = 4, .offset = DP83820_TXDP_HI, .value = 0 },
		{ .region = DP_BAR, .width = 4, .offset = DP83820_TXDP, .value = (uint32_t)dp->tx.ring_mem.bus },
		{ .region = DP_BAR, .width = 4, .offset = DP83820_IHR, .value = 0 },
		{ .region = DP_BAR, .width = 4, .offset = DP83820_IMR, .value = WANTED },
		{ .region = DP_BAR, .width = 4, .offset = DP83820_IER, .value = 1 },
		{ .region = DP_BAR, .width = 4, .offset = DP83820_CR, .value = DP83820_CR_RXE },
	};

	dp_rx_init(dp);
	dp_tx_init(dp);
	w[1].value = (uint32_t)dp->rx.ring_mem.bus + dp->rx.next % dp->rx.entries * (uint32_t)sizeof(struct dp_desc);
	dp->imr = WANTED;
	dp->loaded = dp->frozen = false;
	atomic_thread_fence(memory_order_seq_cst);
	if (dp->dev->ops->irq_unmask(dp->dev, w, sizeof(w) / sizeof(w[0])))
		dp_post(dp, DP_EVENT_GONE);
	dp->masked = false;
}

/* Ask the chip why it interrupted; the read clears the reasons. */
static void acknowledge(struct dp *dp)
{
	uint32_t isr = 0;

	if (usrdrv_read(dp->dev, DP_BAR, DP83820_ISR, 4, &isr)) {
		dp_post(dp, DP_EVENT_GONE);
		return;
	}
	if (isr == UINT32_MAX) {	/* nobody answers: taken out of its slot, or powered down */
		freeze(dp, DP_EVENT_BUS);
		return;
	}
	if (isr & BUS_ERRORS) {
		freeze(dp, DP_EVENT_BUS);
		return;
	}
	if (isr & DP83820_ISR_RXIDLE) {
		dp->rx.idle = true;
		dp->stats->rx_idle++;
	}
	if (isr & DP83820_ISR_RXORN)
		dp->stats->rx_overruns++;
	if (isr & DP83820_ISR_PHY)
		dp_post(dp, DP_EVENT_LINK);
}

/* Interrupts of the transmitter are wanted only while something waits for it, here or in the kernel. */
static void choose_interrupts(struct dp *dp)
{
	uint32_t imr = WANTED | (dp->tx.blocked || dp->tx.awaited ? WANTED_BLOCKED : 0);

	if (imr != dp->imr) {
		dp->imr = imr;
		dp_write(dp, DP83820_IMR, imr);
	}
}

/* A chip without a link may keep what it has; but not what the kernel waits for. */
static void watchdog(struct dp *dp)
{
	dp_tx_reclaim(dp);
	if (dp_tx_outstanding(dp) && (dp->tx.awaited || atomic_load_explicit(&dp->link, memory_order_relaxed)) &&
	    dp_now_ms() - dp->tx.progress_ms >= dp->config.watchdog_ms)
		freeze(dp, DP_EVENT_STUCK);
}

/*
 * Count frames; many of them in a window mean load. The transmitter is looked at here, as received frames alone
 * keep us from ever sleeping for long.
 */
static void measure(struct dp *dp, unsigned int frames)
{
	uint64_t now = dp_now_ms();
	bool loaded = dp->loaded;

	dp->window_frames += frames;
	if (now - dp->window_ms < WINDOW_MS)
		return;
	loaded = dp->window_frames >= LOADED_FRAMES * (now - dp->window_ms) / WINDOW_MS;
	dp->window_ms = now;
	dp->window_frames = 0;
	watchdog(dp);
	if (loaded == dp->loaded)
		return;
	dp->loaded = loaded;
	dp_write(dp, DP83820_IHR, loaded ? 1 : 0);
}

/* Nothing to do: let the interrupt through, unless a short sleep is all there is to it. */
static void rest(struct dp *dp)
{
	uint32_t timeout = dp_tx_outstanding(dp) || dp->loaded ? TICK_US : HEARTBEAT_US;
	int woken;

	if (dp->rx.idle)
		timeout = NO_BUFFER_US;

	if (!dp->frozen) {
		choose_interrupts(dp);
		if (dp->masked && dp->loaded && ++dp->quiet < QUIET_ROUNDS) {
			timeout = POLL_US;
		} else if (dp->masked) {
			dp->masked = false;
			dp->quiet = 0;
			if (dp->dev->ops->irq_unmask(dp->dev, NULL, 0))
				dp_post(dp, DP_EVENT_GONE);
		}
	}
	dp->stats->sleeps++;
	woken = dp->port->ops->wait(dp->port, timeout, dp->tx.pulling);
	if (!woken && timeout != POLL_US && !dp->frozen) {
		measure(dp, 0);
		if (!dp->masked && dp_rx_waiting(dp)) {
			dp->stats->lost_interrupts++;
			acknowledge(dp);
		}
	}
	if (woken & USRDRV_NET_WOKEN << ON_IRQ) {
		dp->masked = true;
		dp->quiet = 0;
		dp->stats->interrupts++;
		if (!dp->frozen)
			acknowledge(dp);
	}
	if (woken & USRDRV_NET_WOKEN << ON_HANGUP)
		dp_post(dp, DP_EVENT_GONE);
	if (woken & USRDRV_NET_PACKETS)
		dp->tx.pulling = true;
	if (woken & USRDRV_NET_GONE) {
		/* From now on wait() returns at once. */
		nanosleep(&(struct timespec){ .tv_nsec = GONE_NS }, NULL);
		dp_post(dp, DP_EVENT_PORT);
	}
}

static int watch_all(struct dp *dp)
{
	const struct usrdrv_net_port_ops *ops = dp->port->ops;
	int ret = ops->watch(dp->port, ON_IRQ, dp->dev->irq_fd, EPOLLIN);

	if (!ret)
		ret = ops->watch(dp->port, ON_KICK, dp->kick_fd, EPOLLIN);
	if (!ret)
		ret = ops->watch(dp->port, ON_HANGUP, dp->dev->hangup_fd, dp->dev->hangup_events);
	return ret;
}

void *dp_dispatch(void *arg)
{
	struct dp *dp = arg;

	prctl(PR_SET_NAME, "dp83820-rings");
	prctl(PR_SET_TIMERSLACK, 1000);
	if (watch_all(dp)) {
		dp_post(dp, DP_EVENT_PORT);
		dp_started(dp);
		return NULL;
	}
	start_chip(dp);
	dp_started(dp);
	while (!atomic_load_explicit(&dp->stop, memory_order_relaxed)) {
		unsigned int frames;

		if (atomic_exchange(&dp->restart, 0))
			start_chip(dp);
		if (dp->frozen) {
			rest(dp);
			continue;
		}
		frames = dp_rx_poll(dp);
		/* The kernel answers what was received at once: those answers are part of this round. */
		if (dp->port->ops->flush && dp->port->ops->flush(dp->port))
			dp->tx.pulling = true;
		frames += dp_tx_poll(dp);
		if (!frames) {
			rest(dp);
			continue;
		}
		measure(dp, frames);
		dp->quiet = 0;
		if (dp->masked)
			dp->stats->polls++;
	}
	return NULL;
}
