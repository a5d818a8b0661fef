// SPDX-License-Identifier: GPL-2.0
/*
 * Devices: made, found, attached to, started, stopped, deleted.
 *
 * A device's requests are served while each queue has an end of the session's. When the server
 * dies, the ends are taken away first; only then is it decided what becomes of what it had.
 *
 * See docs/design/sessions.md.
 */
#include <linux/pid.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "usrloop.h"

const struct usrloop_policy usrloop_policies[USRLOOP_POLICIES] = {
	[USRLOOP_DEATH_FAIL]	 = { "fail",	 true,	MODE_FAIL, USRLOOP_DEAD },
	[USRLOOP_DEATH_QUEUE]	 = { "queue",	 true,	MODE_HOLD, USRLOOP_QUIESCED },
	[USRLOOP_DEATH_REISSUE]	 = { "reissue",	 false,	MODE_HOLD, USRLOOP_QUIESCED },
	[USRLOOP_DEATH_FAIL_NEW] = { "fail-new", true,	MODE_FAIL, USRLOOP_QUIESCED },
};

static void dev_changed(struct usrloop_dev *dev)
{
	atomic_inc(&dev->changes);
	wake_up_interruptible_poll(&dev->changed, EPOLLIN);
}

static void dev_set_state(struct usrloop_dev *dev, u32 state)
{
	WRITE_ONCE(dev->info.state, state);
	dev_changed(dev);
}

/* Give the queues their ends, so that requests go to the server. dev->lock held. */
static void dev_connect_queues(struct usrloop_dev *dev)
{
	unsigned int i;

	for (i = 0; i < dev->info.queues; i++) {
		struct usrloop_queue *q = &dev->queue[i];

		spin_lock_bh(&q->lock);
		rcu_assign_pointer(q->end, &dev->session->end[i]);
		spin_unlock_bh(&q->lock);
		dev->kind->attached(q);
	}
}

/*
 * Take the ends away. When this returns, no queue uses the session, @s or NULL, and its function
 * reaches no data of a request. dev->lock held.
 */
static void dev_disconnect_queues(struct usrloop_dev *dev, struct usrloop_session *s,
				  enum usrloop_mode mode, bool fail_lost)
{
	unsigned int i;

	for (i = 0; i < dev->info.queues; i++) {
		struct usrloop_queue *q = &dev->queue[i];

		spin_lock_bh(&q->lock);
		RCU_INIT_POINTER(q->end, NULL);
		q->mode = mode;
		spin_unlock_bh(&q->lock);
	}
	synchronize_rcu();
	if (s && s->zc)
		usrloop_zc_recall(s);
	for (i = 0; i < dev->info.queues; i++)
		dev->kind->detached(&dev->queue[i], fail_lost, mode == MODE_FAIL);
}

/* Detach the session from the device; its threads return from ENTER. dev->lock held. */
static void dev_part(struct usrloop_dev *dev)
{
	struct usrloop_session *s = dev->session;
	unsigned int i;

	dev->session = NULL;
	WRITE_ONCE(s->revoked, true);
	for (i = 0; i < dev->info.queues; i++)
		rcuwait_wake_up(&s->end[i].wait);
	wake_up_poll(&s->poll, EPOLLHUP);
}

static const struct usrloop_policy *dev_policy(const struct usrloop_dev *dev)
{
	return &usrloop_policies[dev->info.policy];
}

/* Detach the server. @died: by its death or time-out, of which its requests may be the cause. */
static void dev_lose_server(struct usrloop_dev *dev, bool died)
{
	const struct usrloop_policy *policy = dev_policy(dev);
	bool started = dev->info.state != USRLOOP_NEW;
	struct usrloop_session *s = dev->session;
	unsigned int i;

	dev_part(dev);
	if (!started) {
		dev_changed(dev);
		return;
	}
	/* A server may find requests in the ring without ENTER; sq_head shows that. */
	for (i = 0; i < dev->info.queues; i++) {
		struct usrloop_queue *q = &dev->queue[i];
		bool seen = READ_ONCE(q->told) || READ_ONCE(s->end[i].ring->sq_head);

		WRITE_ONCE(q->told, died && seen);
	}
	dev_disconnect_queues(dev, s, policy->mode, policy->fail_lost);
	dev_set_state(dev, policy->state);
	if (policy->mode == MODE_HOLD && dev->info.recovery_ms) {
		unsigned long limit = msecs_to_jiffies(dev->info.recovery_ms);

		dev->recover_by = usrloop_clock() + limit;
		mod_delayed_work(usrloop_wq(dev), &dev->recovery, limit);
	}
}

/* No server attached in time: requests that waited fail, and new ones, until one attaches. */
static void dev_recovery_over(struct work_struct *work)
{
	struct usrloop_dev *dev = container_of(to_delayed_work(work), struct usrloop_dev, recovery);
	long left;

	mutex_lock(&dev->lock);
	if (dev->info.state != USRLOOP_QUIESCED || dev_policy(dev)->mode != MODE_HOLD ||
	    !dev->info.recovery_ms)
		goto out;
	left = dev->recover_by - usrloop_clock();
	if (left > 0) {
		/* Armed for a server before the last; or the clock has stood still. */
		if (!usrloop_clock_stopped())
			mod_delayed_work(usrloop_wq(dev), &dev->recovery, left);
		goto out;
	}
	pr_warn("%s%u: requests fail: no server attached within %u ms\n", dev->kind->name,
		dev->info.id, dev->info.recovery_ms);
	dev_disconnect_queues(dev, NULL, MODE_FAIL, true);
	dev_set_state(dev, USRLOOP_FAILED);
out:
	mutex_unlock(&dev->lock);
}

static void dev_continue_recovery(struct usrloop_dev *dev)
{
	mod_delayed_work(usrloop_wq(dev), &dev->recovery, 0);
}

/* The clock goes on: what is left of a device's recovery time is waited for. Context: process. */
void usrloop_dev_continue(void)
{
	usrloop_dev_each(dev_continue_recovery);
}

static void dev_revoke_work(struct work_struct *work)
{
	struct usrloop_dev *dev = container_of(work, struct usrloop_dev, revoke);

	mutex_lock(&dev->lock);
	if (dev->session && dev->session->generation == READ_ONCE(dev->overdue)) {
		pr_warn("%s%u: server %d is detached: %s not completed within %u ms\n",
			dev->kind->name, dev->info.id, pid_nr(dev->session->pid),
			dev->info.type == USRLOOP_NET ? "packet" : "request", dev->info.timeout_ms);
		dev_lose_server(dev, true);
	}
	mutex_unlock(&dev->lock);
	usrloop_dev_put(dev);
}

/* Send what is held though there is a server: it could not be mapped, or waited for another one. */
static void dev_resend_work(struct work_struct *work)
{
	struct usrloop_dev *dev = container_of(to_delayed_work(work), struct usrloop_dev, resend);
	unsigned int i;

	mutex_lock(&dev->lock);
	for (i = 0; dev->info.state == USRLOOP_LIVE && i < dev->info.queues; i++)
		dev->kind->attached(&dev->queue[i]);
	mutex_unlock(&dev->lock);
	usrloop_dev_put(dev);
}

static int dev_stop(struct usrloop_dev *dev, bool force);

static void dev_vanish_work(struct work_struct *work)
{
	struct usrloop_dev *dev = container_of(work, struct usrloop_dev, vanish);

	mutex_lock(&dev->lock);
	/* Or it was stopped meanwhile, and perhaps started again. */
	if (dev->info.state != USRLOOP_NEW && dev->kind->vanished(dev))
		dev_stop(dev, true);
	mutex_unlock(&dev->lock);
	usrloop_dev_put(dev);
}

static int dev_make_queues(struct usrloop_dev *dev)
{
	/* Two kinds of lock to lockdep: only that of an interface is taken in a soft interrupt. */
	static struct lock_class_key classes[2];
	unsigned int i;

	dev->queue = kcalloc(dev->info.queues, sizeof(*dev->queue), GFP_KERNEL_ACCOUNT);
	if (!dev->queue)
		return -ENOMEM;
	for (i = 0; i < dev->info.queues; i++) {
		struct usrloop_queue *q = &dev->queue[i];

		q->dev = dev;
		q->index = i;
		q->mode = MODE_FAIL;
		spin_lock_init(&q->lock);
		lockdep_set_class(&q->lock, &classes[dev->info.type == USRLOOP_NET]);
		q->slot = kvcalloc(dev->info.depth, sizeof(*q->slot), GFP_KERNEL_ACCOUNT);
		if (!q->slot)
			return -ENOMEM;
	}
	return 0;
}

/**
 * usrloop_dev_create() - make a device that is not started yet
 * @info:	what is wanted; number, queues and state are filled in
 * @out:	result, counted for the caller
 *
 * Return: 0; -EOPNOTSUPP an unknown feature, flag or policy; -EEXIST the number is taken;
 * -EDQUOT the caller has as many devices as it may have; -EINVAL, -EPERM, -ENOMEM, -ENOSPC,
 * -E2BIG.
 */
int usrloop_dev_create(struct usrloop_info *info, struct usrloop_dev **out)
{
	struct usrloop_layout layout;
	struct usrloop_dev *dev;
	int ret;

	ret = usrloop_check_info(info);
	if (ret)
		return ret;
	dev = kzalloc(sizeof(*dev), GFP_KERNEL_ACCOUNT);
	if (!dev)
		return -ENOMEM;
	kref_init(&dev->ref);
	mutex_init(&dev->lock);
	init_waitqueue_head(&dev->changed);
	INIT_DELAYED_WORK(&dev->recovery, dev_recovery_over);
	INIT_WORK(&dev->revoke, dev_revoke_work);
	INIT_WORK(&dev->vanish, dev_vanish_work);
	INIT_DELAYED_WORK(&dev->resend, dev_resend_work);
	dev->info = *info;
	dev->info.state = USRLOOP_NEW;
	dev->info.queues = min_t(u32, info->queues, nr_cpu_ids);
	dev->kind = info->type == USRLOOP_BLOCK ? &usrloop_blk_kind : &usrloop_net_kind;
	ret = usrloop_check_rights(info, dev);
	if (!ret)
		ret = dev_make_queues(dev);
	if (!ret)
		ret = dev->kind->create(dev);
	if (ret)
		goto err;
	dev->kind_made = true;
	ret = usrloop_layout(&dev->info, &layout);
	if (!ret)
		ret = usrloop_dev_publish(dev);
	if (ret)
		goto err;
	usrloop_dev_query(dev, info);
	*out = dev;
	return 0;

err:
	usrloop_dev_put(dev);
	return ret;
}

/**
 * usrloop_dev_attach() - make the caller the server
 * @dev:	device without a server
 * @claim_fd:	as for usrloop_session_alloc()
 * @out:	result: for usrloop_dev_detach(), usrloop_session_free()
 *
 * Return: 0; -EBUSY it has a server; -EIO it is dead; -ENODEV it was deleted; errors of
 * usrloop_session_alloc().
 */
int usrloop_dev_attach(struct usrloop_dev *dev, int claim_fd, struct usrloop_session **out)
{
	struct usrloop_session *s;
	int ret = 0;

	s = usrloop_session_alloc(dev, claim_fd);
	if (IS_ERR(s))
		return PTR_ERR(s);
	mutex_lock(&dev->lock);
	if (dev->deleted)
		ret = -ENODEV;
	else if (dev->session)
		ret = -EBUSY;
	else if (dev->info.state == USRLOOP_DEAD)
		ret = -EIO;
	if (!ret) {
		s->generation = ++dev->info.generation;
		dev->session = s;
		if (dev->info.state != USRLOOP_NEW) {
			cancel_delayed_work(&dev->recovery);
			dev_connect_queues(dev);
			dev_set_state(dev, USRLOOP_LIVE);
		} else {
			WRITE_ONCE(dev->stopping, false);	/* that was for another server */
			dev_changed(dev);
		}
	}
	mutex_unlock(&dev->lock);
	if (ret)
		usrloop_session_free(s);
	else
		*out = s;
	return ret;
}

/* The file of a server is closed, by its death or not. */
void usrloop_dev_detach(struct usrloop_session *session)
{
	struct usrloop_dev *dev = session->dev;

	mutex_lock(&dev->lock);
	if (dev->session == session)
		dev_lose_server(dev, true);
	mutex_unlock(&dev->lock);
}

/**
 * usrloop_dev_revoke() - take a device away from its server; no request is to blame
 * @dev:	device
 *
 * Return: 0; -ENOTCONN there is none.
 */
int usrloop_dev_revoke(struct usrloop_dev *dev)
{
	int ret = -ENOTCONN;

	mutex_lock(&dev->lock);
	if (dev->session) {
		dev_lose_server(dev, false);
		ret = 0;
	}
	mutex_unlock(&dev->lock);
	return ret;
}

/**
 * usrloop_dev_start() - show the kernel a disk or an interface
 * @dev:	device with a server
 *
 * Makes no request itself: the thread that serves may call it. Partitions are looked for at the
 * first open.
 *
 * Return: 0; -ENOTCONN there is no server; -EALREADY; -ENODEV; errors of the block layer or the
 * network.
 */
int usrloop_dev_start(struct usrloop_dev *dev)
{
	int ret = 0;

	mutex_lock(&dev->lock);
	if (dev->deleted)
		ret = -ENODEV;
	else if (dev->info.state != USRLOOP_NEW)
		ret = -EALREADY;
	else if (!dev->session)
		ret = -ENOTCONN;
	if (!ret) {
		WRITE_ONCE(dev->stopping, false);
		/* Requests that come before the queues have their ends wait. */
		dev_disconnect_queues(dev, NULL, MODE_HOLD, false);
		ret = dev->kind->start(dev);
		if (!ret) {
			dev_connect_queues(dev);
			dev_set_state(dev, USRLOOP_LIVE);
		}
	}
	mutex_unlock(&dev->lock);
	return ret;
}

/* dev->lock held */
static int dev_stop(struct usrloop_dev *dev, bool force)
{
	unsigned int i;

	if (dev->info.state == USRLOOP_NEW)
		return 0;
	if (!force && dev->kind->in_use(dev))
		return -EBUSY;
	cancel_delayed_work(&dev->recovery);
	/* Requests fail from here on, so that taking the disk away cannot wait for any. */
	dev_disconnect_queues(dev, dev->session, MODE_FAIL, true);
	dev->kind->stop(dev);
	dev_set_state(dev, USRLOOP_NEW);
	WRITE_ONCE(dev->stopping, true);
	for (i = 0; dev->session && i < dev->info.queues; i++)
		rcuwait_wake_up(&dev->session->end[i].wait);
	if (dev->session)
		wake_up_poll(&dev->session->poll, EPOLLIN);
	return 0;
}

/**
 * usrloop_dev_stop() - take the disk or interface away; the device stays, and can be started again
 * @dev:	device
 * @force:	also while it is open: its users get errors
 *
 * Return: 0; -EBUSY it is open; -EIO it is dead, and can only be deleted; -ENODEV.
 */
int usrloop_dev_stop(struct usrloop_dev *dev, bool force)
{
	int ret;

	mutex_lock(&dev->lock);
	if (dev->deleted)
		ret = -ENODEV;
	else if (dev->info.state == USRLOOP_DEAD)
		ret = -EIO;
	else
		ret = dev_stop(dev, force);
	mutex_unlock(&dev->lock);
	return ret;
}

/**
 * usrloop_dev_delete() - stop a device and forget it
 * @dev:	device
 * @force:	also while it is open
 *
 * Return: 0; -EBUSY it is open; -ENODEV it is deleted already.
 */
int usrloop_dev_delete(struct usrloop_dev *dev, bool force)
{
	int ret;

	mutex_lock(&dev->lock);
	ret = dev->deleted ? -ENODEV : dev_stop(dev, force);
	if (!ret) {
		dev->deleted = true;
		if (dev->session)
			dev_part(dev);
		dev_changed(dev);
	}
	mutex_unlock(&dev->lock);
	if (ret)
		return ret;
	usrloop_dev_forget(dev);
	/* usrloop_dev_continue() does not find it any more. */
	cancel_delayed_work_sync(&dev->recovery);
	if (cancel_delayed_work_sync(&dev->resend))
		usrloop_dev_put(dev);
	return 0;
}

/**
 * usrloop_dev_resize() - change the size of a disk
 * @dev:	block device
 * @size:	bytes
 *
 * Return: 0; -EINVAL no multiple of the logical block, or no disk; -ENODEV.
 */
int usrloop_dev_resize(struct usrloop_dev *dev, u64 size)
{
	int ret;

	if (!dev->kind->resize)
		return -EINVAL;
	mutex_lock(&dev->lock);
	ret = dev->deleted ? -ENODEV : dev->kind->resize(dev, size);
	mutex_unlock(&dev->lock);
	/*
	 * To tell waits for whoever tells of a device just now, and so for memory, which may wait
	 * for this disk, and so for its next server.
	 */
	if (ret > 0)
		dev->kind->resized(dev);
	/* Not before: who polls may look at the disk at once. */
	if (ret >= 0)
		dev_changed(dev);
	return min(ret, 0);
}

/**
 * usrloop_dev_carrier() - say whether the wire is there
 * @dev:	started network device with a server
 * @speed:	of it, Mb/s; 0: it is not
 *
 * Return: 0; -EINVAL no network device; -ENOTCONN not started, or no server.
 */
int usrloop_dev_carrier(struct usrloop_dev *dev, u64 speed)
{
	int ret = 0;

	if (!dev->kind->carrier || speed > INT_MAX)
		return -EINVAL;
	mutex_lock(&dev->lock);
	if (dev->info.state == USRLOOP_LIVE)
		dev->kind->carrier(dev, speed);
	else
		ret = -ENOTCONN;
	mutex_unlock(&dev->lock);
	return ret;
}

/**
 * usrloop_dev_netns() - where an interface is, which may be moved and renumbered at any time
 * @dev:	started network device
 * @ifindex:	its number there
 *
 * Return: the network namespace, counted; -EINVAL no network device; -ENOTCONN not started;
 * -ENODEV; -EAGAIN it is leaving a namespace that ends.
 */
struct net *usrloop_dev_netns(struct usrloop_dev *dev, u32 *ifindex)
{
	struct net *net = ERR_PTR(-ENOTCONN);

	if (!dev->kind->netns)
		return ERR_PTR(-EINVAL);
	mutex_lock(&dev->lock);
	if (dev->deleted)
		net = ERR_PTR(-ENODEV);
	else if (dev->info.ifindex)
		net = dev->kind->netns(dev, ifindex) ?: ERR_PTR(-EAGAIN);
	mutex_unlock(&dev->lock);
	return net;
}

/* Fill in what QUERY reports. Return: 0; -ENODEV it was deleted. */
int usrloop_dev_query(struct usrloop_dev *dev, struct usrloop_info *info)
{
	int ret = -ENODEV;

	mutex_lock(&dev->lock);
	if (!dev->deleted) {
		u32 argsz = info->argsz;

		*info = dev->info;
		info->argsz = argsz;
		info->owner = from_kuid_munged(current_user_ns(), dev->owner);
		info->server_pid = dev->session ? pid_vnr(dev->session->pid) : 0;
		info->refused = atomic64_read(&dev->refused);
		ret = 0;
	}
	mutex_unlock(&dev->lock);
	return ret;
}
