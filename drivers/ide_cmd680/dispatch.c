// SPDX-License-Identifier: MIT
/*
 * Who runs the channels. A thread that submits starts the command itself if
 * the channel is idle; all else is the dispatcher's, one thread per device,
 * which sleeps on one wait for an interrupt, a kick or the loss of the device.
 *
 * The wait is edge-triggered, so the eventfds need no read: one system call
 * for each wake-up. While commands are under way the wait has a time-out, the
 * tick, at which hung commands and lost interrupts are looked for; an idle
 * dispatcher sleeps without one.
 */
#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "ide.h"

#define TICK_MS		100
#define SERVICE_ROUNDS	64	/* commands a submitter completes for others before it leaves */

/**
 * ide_now_ms - the clock of deadlines
 *
 * Return: milliseconds, monotonic, a few of them coarse.
 */
uint64_t ide_now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/**
 * ide_kick - wake the dispatcher
 * @ide:	controller
 */
void ide_kick(struct ide *ide)
{
	eventfd_write(ide->kick_fd, 1);
}

/**
 * ide_lost - note that there is no way on with the device
 * @ide:	controller
 * @err:	of the access that failed: -ENODEV it is gone; else it was refused, which is our own fault
 *
 * From any context; the dispatcher ends all requests.
 */
void ide_lost(struct ide *ide, int err)
{
	int none = 0;

	if (atomic_compare_exchange_strong(&ide->gone, &none, -err))
		ide_kick(ide);
}

static int busy(const struct ide_channel *ch)
{
	return ch->state >= IDE_DMA_DATA && ch->state <= IDE_NO_DATA;
}

static void hold(struct ide *ide)
{
	if (ide->dev->ops->irq_hold)
		ide->dev->ops->irq_hold(ide->dev);
}

static int release(struct ide *ide)
{
	return ide->dev->ops->irq_release ? ide->dev->ops->irq_release(ide->dev) : 0;
}

/**
 * ide_service - service interrupts until there is none left
 * @ide:	controller, no channel locked
 *
 * The caller has an interrupt that is masked until this is done.
 */
void ide_service(struct ide *ide)
{
	struct usrdrv_dev *dev = ide->dev;
	unsigned int rounds = 0;
	int again;

	do {
		struct ide_list l = { .n = 0 };
		int mine = 0, err;

		hold(ide);
		for (int i = 0; i < IDE_CHANNELS; i++) {
			struct ide_channel *ch = &ide->channel[i];

			pthread_mutex_lock(&ch->lock);
			if (busy(ch)) {
				mine |= ide_interrupt(ch, &l);
				/*
				 * Nobody else may find the channel with writes outstanding: once it is free, a late
				 * acknowledgement would hit another command's interrupt; and a dispatcher that looks
				 * after a busy one would take the last command's interrupt for that of the next.
				 */
				if (!busy(ch) || !pthread_equal(pthread_self(), ide->dispatcher))
					ide_flush_list(ch, &l);
			}
			ide_unlock(ch);
		}
		for (int i = 0; i < IDE_CHANNELS && !mine; i++) {
			struct ide_channel *ch = &ide->channel[i];

			pthread_mutex_lock(&ch->lock);
			if (ch->state == IDE_IDLE || ch->state == IDE_FROZEN)
				ide_idle_interrupt(ch, &l);
			ide_flush_list(ch, &l);
			ide_unlock(ch);
		}
		err = ide_serve_unmasks(atomic_load(&ide->serve)) ? dev->ops->write_list(dev, l.w, l.n) :
								    dev->ops->irq_unmask(dev, l.w, l.n);
		if (err)
			ide_lost(ide, err);
		again = release(ide);
	} while (again && ++rounds < SERVICE_ROUNDS && !atomic_load(&ide->gone));
	if (again) {
		atomic_store(&ide->service, 1);
		ide_kick(ide);
	}
}

/**
 * ide_run_channel - start the next command of an idle channel
 * @ch:	channel, not locked
 *
 * If the device completes it before this returns, as the in-process model
 * does, the completion is serviced right here: no thread is switched to.
 */
void ide_run_channel(struct ide_channel *ch)
{
	struct ide *ide = ch->ide;
	struct ide_list l = { .n = 0 };
	int interrupted, watched;

	pthread_mutex_lock(&ch->lock);
	if (ch->state != IDE_IDLE || !ch->queue) {
		ide_unlock(ch);
		return;
	}
	hold(ide);
	ide_issue(ch, &l);
	ide_flush_list(ch, &l);
	interrupted = release(ide);
	ide_unlock(ch);
	if (interrupted)
		ide_service(ide);
	if (atomic_load(&ide->asleep)) {
		pthread_mutex_lock(&ch->lock);
		watched = !busy(ch);
		ide_unlock(ch);
		/* a command stays under way and the dispatcher has no time-out: it must have one now */
		if (!watched)
			ide_kick(ide);
	}
}

static void fail_everything(struct ide *ide)
{
	for (int i = 0; i < IDE_CHANNELS; i++) {
		struct ide_channel *ch = &ide->channel[i];

		pthread_mutex_lock(&ch->lock);
		ch->state = IDE_DEAD;
		ide_finish_segments(ch, -ENODEV);
		ide_fail_queue(ch, -1, -ENODEV);
		ide_unlock(ch);
	}
	ide_post_gone(ide);
}

/* Look at all busy channels; returns whether there were any. */
static int watch(struct ide *ide)
{
	uint64_t now = ide_now_ms();
	int any = 0, interrupted;

	hold(ide);
	for (int i = 0; i < IDE_CHANNELS; i++) {
		struct ide_channel *ch = &ide->channel[i];
		struct ide_list l = { .n = 0 };

		pthread_mutex_lock(&ch->lock);
		if (busy(ch)) {
			any = 1;
			ide_watch(ch, &l, now);
			ide_flush_list(ch, &l);
		}
		ide_unlock(ch);
	}
	interrupted = release(ide);
	if (interrupted)
		ide_service(ide);
	return any;
}

static int any_busy(struct ide *ide)
{
	int any = 0;

	for (int i = 0; i < IDE_CHANNELS; i++) {
		pthread_mutex_lock(&ide->channel[i].lock);
		any |= busy(&ide->channel[i]);
		ide_unlock(&ide->channel[i]);
	}
	return any;
}

static uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* Service what busy channels have to say; returns whether one had. */
static int look_at_busy(struct ide *ide)
{
	int mine = 0;

	for (int i = 0; i < IDE_CHANNELS; i++) {
		struct ide_channel *ch = &ide->channel[i];
		struct ide_list l = { .n = 0 };

		pthread_mutex_lock(&ch->lock);
		if (busy(ch)) {
			mine |= ide_interrupt(ch, &l);
			ide_flush_list(ch, &l);
		}
		ide_unlock(ch);
	}
	return mine;
}

/*
 * Look at the chip, for as long as the limits say, rather than wait for its interrupt: that stays masked until
 * looking was in vain, and one system call less is needed for each command. Returns how to wait then.
 */
static unsigned int look(struct ide *ide, const struct ide_serve *serve)
{
	uint64_t until;

	if (!ide->limits.poll_us || !ide_serve_unmasks(serve))
		return USRLOOP_ENTER_ACK;
	until = now_us() + ide->limits.poll_us;
	while (any_busy(ide)) {
		if (look_at_busy(ide))
			return any_busy(ide) ? USRLOOP_ENTER_NOWAIT : 0;
		if (now_us() >= until)
			return USRLOOP_ENTER_ACK;
	}
	return 0;
}

/* Sleep on epoll. Returns IDE_ON_* bits. */
static unsigned int wait_epoll(struct ide *ide, int timeout)
{
	struct epoll_event ev[3];
	int n = epoll_wait(ide->epoll_fd, ev, 3, timeout);
	unsigned int on = 0;

	for (int i = 0; i < n; i++)
		on |= ev[i].data.u32;
	return on;
}

static void *dispatch(void *arg)
{
	struct ide *ide = arg;
	unsigned long seen = 0;
	uint64_t next_tick = 0;
	int timeout = -1;

	while (!atomic_load(&ide->stop)) {
		struct ide_serve *serve = atomic_load(&ide->serve);
		unsigned int on, how = look(ide, serve);

		if (timeout < 0) {
			/* Say so first, look again then: a submitter does it the other way round. */
			atomic_store(&ide->asleep, 1);
			if (any_busy(ide)) {
				atomic_store(&ide->asleep, 0);
				timeout = TICK_MS;
			}
		}
		on = serve ? ide_serve_wait(serve, timeout, how) : wait_epoll(ide, timeout);
		atomic_store(&ide->asleep, 0);
		if (on & IDE_ON_IRQ)
			ide_service(ide);
		if (on & IDE_ON_HANGUP)
			ide_lost(ide, -ENODEV);
		if (on & IDE_ON_KICK && atomic_exchange(&ide->service, 0)) {
			ide_serve_disarm(serve);
			ide_service(ide);
		}
		if (on & IDE_ON_END) {
			atomic_store(&ide->serve, NULL);
			ide->left = serve;
			ide_serve_leave(serve);
			ide_post_unserved(ide);
		}
		if (atomic_load(&ide->gone)) {
			ide_serve_disarm(serve);
			fail_everything(ide);
			break;
		}
		if (on & IDE_ON_WORK)
			ide_serve_pump(serve);
		if (timeout < 0) {
			timeout = TICK_MS;
			next_tick = ide_now_ms() + TICK_MS;
		}
		if (ide_now_ms() >= next_tick) {
			unsigned long activity = atomic_load_explicit(&ide->activity, memory_order_relaxed);
			int any;

			ide_serve_disarm(serve);
			any = watch(ide);
			timeout = any || activity != seen ? TICK_MS : -1;
			seen = activity;
			next_tick = ide_now_ms() + TICK_MS;
		}
	}
	ide_serve_disarm(atomic_load(&ide->serve));
	return NULL;
}

static int add_fd(struct ide *ide, int fd, uint32_t events, uint32_t what)
{
	struct epoll_event ev = { .events = events, .data.u32 = what };

	return fd < 0 || !epoll_ctl(ide->epoll_fd, EPOLL_CTL_ADD, fd, &ev) ? 0 : -errno;
}

/**
 * ide_start - open the channels for requests
 * @ide:	controller with its drives configured
 *
 * Return: 0 or -errno.
 */
int ide_start(struct ide *ide)
{
	int ret = add_fd(ide, ide->dev->irq_fd, EPOLLIN | EPOLLET, IDE_ON_IRQ);

	if (!ret)
		ret = add_fd(ide, ide->kick_fd, EPOLLIN | EPOLLET, IDE_ON_KICK);
	if (!ret)
		ret = add_fd(ide, ide->dev->hangup_fd, ide->dev->hangup_events, IDE_ON_HANGUP);
	if (!ret)
		ret = -pthread_create(&ide->dispatcher, NULL, dispatch, ide);
	if (ret)
		return ret;
	ide->running = 1;
	for (unsigned int i = 0; i < IDE_CHANNELS; i++)
		ide_resume(ide, i, IDE_DONE, 0);
	ide->dev->ops->irq_unmask(ide->dev, NULL, 0);
	return 0;
}

/**
 * ide_stop - end all requests and the dispatcher
 * @ide:	controller
 *
 * Commands that run are given up with -ENODEV: the caller stops the engines
 * before DMA memory goes. ide_wait_event() returns -ESHUTDOWN.
 */
void ide_stop(struct ide *ide)
{
	atomic_store(&ide->stop, 1);
	if (ide->running) {
		ide_kick(ide);
		pthread_join(ide->dispatcher, NULL);
		ide->running = 0;
	}
	fail_everything(ide);
}
