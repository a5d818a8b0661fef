// SPDX-License-Identifier: GPL-2.0
/*
 * The clock that the times of servers go by. When the system sleeps, and shortly before and after,
 * processes are frozen: a server cannot answer, and the next one cannot be started. So it stands
 * still while they are frozen, however long that takes.
 *
 * It counts jiffies. While the machine is off these stand still by themselves, as CLOCK_MONOTONIC
 * does and CLOCK_BOOTTIME does not; but they go on while processes are frozen and thawed, devices
 * suspended and resumed, and an image is written to a disk.
 *
 * That a sleep is prepared is told, but processes may run on for long after that: hibernation
 * writes out all dirty pages first, and who opens /dev/snapshot takes what time it likes. Requests
 * of a disk without a server have to fail in that time, or the sync would wait for ever. Nobody
 * tells when processes are frozen, so from then on a worker looks.
 */
#include <linux/freezer.h>
#include <linux/jiffies.h>
#include <linux/notifier.h>
#include <linux/seqlock.h>
#include <linux/suspend.h>
#include <linux/workqueue.h>

#include "usrloop.h"

/* What a server may lose, and no more: jiffies between two looks. */
#define LOOK_EVERY	max(HZ / 100, 1)

static DEFINE_SEQLOCK(lock);
static bool stopped;
static unsigned long stopped_at;	/* jiffies */
static unsigned long lost;		/* jiffies that it has stood still, but for this time */
static void (*continued)(void);
static unsigned int sleeps;		/* of the notifier: prepared and not over; they nest */
static void clock_look(struct work_struct *work);
static DECLARE_DELAYED_WORK(look, clock_look);

/**
 * usrloop_clock() - what it shows
 *
 * Context: any.
 * Return: jiffies that processes could run; differences count, as with jiffies.
 */
unsigned long usrloop_clock(void)
{
	unsigned long now;
	unsigned int seq;

	do {
		seq = read_seqbegin(&lock);
		now = (stopped ? stopped_at : jiffies) - lost;
	} while (read_seqretry(&lock, seq));
	return now;
}

/* Whether it stands still. Context: any. */
bool usrloop_clock_stopped(void)
{
	return READ_ONCE(stopped);
}

static void clock_stop(void)
{
	write_seqlock_irq(&lock);
	if (!stopped)
		stopped_at = jiffies;
	WRITE_ONCE(stopped, true);
	write_sequnlock_irq(&lock);
}

static void clock_continue(void)
{
	bool stood;

	write_seqlock_irq(&lock);
	stood = stopped;
	if (stood)
		lost += jiffies - stopped_at;
	WRITE_ONCE(stopped, false);
	write_sequnlock_irq(&lock);
	if (stood)
		continued();
}

/* Whether processes are being frozen, or are; also those of a cgroup of version 1. */
static bool clock_frozen(void)
{
#ifdef CONFIG_FREEZER
	return static_key_enabled(&freezer_active);
#else
	return false;
#endif
}

static void clock_look(struct work_struct *work)
{
	if (clock_frozen())
		clock_stop();
	else
		clock_continue();
	queue_delayed_work(system_highpri_wq, &look, LOOK_EVERY);
}

/**
 * usrloop_clock_sleep() - the system prepares to sleep, or is done with it
 * @action:	PM_*_PREPARE before processes are frozen, PM_POST_* when they run again, or still do
 *
 * Context: process; one at a time. Called by the notifier, and by selftest.c.
 */
void usrloop_clock_sleep(unsigned long action)
{
	switch (action) {
	case PM_HIBERNATION_PREPARE:
	case PM_SUSPEND_PREPARE:
	case PM_RESTORE_PREPARE:
		if (!sleeps++)
			queue_delayed_work(system_highpri_wq, &look, 0);
		break;
	case PM_POST_HIBERNATION:
	case PM_POST_SUSPEND:
	case PM_POST_RESTORE:
		/* Or the module was loaded after it was prepared. */
		if (!sleeps || --sleeps)
			break;
		cancel_delayed_work_sync(&look);
		clock_continue();
	}
}

static int clock_on_sleep(struct notifier_block *nb, unsigned long action, void *data)
{
	usrloop_clock_sleep(action);
	return NOTIFY_DONE;
}

static struct notifier_block sleep = { .notifier_call = clock_on_sleep };

/**
 * usrloop_clock_init() - have it go
 * @on_continue:	called when it goes on after it has stood still; process context
 *
 * Return: 0.
 */
int usrloop_clock_init(void (*on_continue)(void))
{
	continued = on_continue;
	return register_pm_notifier(&sleep);
}

void usrloop_clock_exit(void)
{
	unregister_pm_notifier(&sleep);
	cancel_delayed_work_sync(&look);
}
