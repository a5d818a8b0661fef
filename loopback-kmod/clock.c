// SPDX-License-Identifier: GPL-2.0
/*
 * The clock that the times of servers go by. While the system is about to sleep, sleeps or wakes up
 * processes are frozen: a server cannot answer, and the next one cannot be started. So it stands
 * still from before they are frozen until they run again, however long that takes.
 *
 * It counts jiffies. While the machine is off these stand still by themselves, as CLOCK_MONOTONIC
 * does and CLOCK_BOOTTIME does not; but they go on while processes are frozen and thawed, devices
 * suspended and resumed, and an image is written to a disk.
 */
#include <linux/jiffies.h>
#include <linux/notifier.h>
#include <linux/seqlock.h>
#include <linux/suspend.h>

#include "usrloop.h"

static DEFINE_SEQLOCK(lock);
static bool stopped;
static unsigned long stopped_at;	/* jiffies */
static unsigned long lost;		/* jiffies that it has stood still, but for this time */
static void (*continued)(void);

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
	write_seqlock_irq(&lock);
	if (stopped)
		lost += jiffies - stopped_at;
	WRITE_ONCE(stopped, false);
	write_sequnlock_irq(&lock);
	continued();
}

/* PREPARE comes before processes are frozen, POST when they run again, or still do. */
static int clock_on_sleep(struct notifier_block *nb, unsigned long action, void *data)
{
	switch (action) {
	case PM_HIBERNATION_PREPARE:
	case PM_SUSPEND_PREPARE:
	case PM_RESTORE_PREPARE:
		clock_stop();
		break;
	case PM_POST_HIBERNATION:
	case PM_POST_SUSPEND:
	case PM_POST_RESTORE:
		clock_continue();
	}
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
}
