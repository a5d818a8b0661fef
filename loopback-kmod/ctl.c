// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/usrloop: what a file is (controller, server), and every field that comes from user space.
 *
 * See docs/design/uapi.md.
 */
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <net/net_namespace.h>

#include "usrloop.h"

/* Roles are taken once, under lock, and are then read without it. */
struct usrloop_file {
	struct mutex lock;			/* for taking a role */
	struct usrloop_dev *controls;		/* counted, or NULL */
	struct usrloop_session *session;	/* or NULL */
	int seen;				/* changes of the device that it has heard of */
};

/* Pairs with the release of ctl_attach(): a session that is seen is complete. */
static struct usrloop_session *ctl_session(struct usrloop_file *f)
{
	return smp_load_acquire(&f->session);	/* see above */
}

/* Pairs with the release of ctl_create(). */
static struct usrloop_dev *ctl_device(struct usrloop_file *f)
{
	return smp_load_acquire(&f->controls);	/* see above */
}

static int ctl_open(struct inode *inode, struct file *file)
{
	struct usrloop_file *f = kzalloc(sizeof(*f), GFP_KERNEL_ACCOUNT);

	if (!f)
		return -ENOMEM;
	mutex_init(&f->lock);
	file->private_data = f;
	return nonseekable_open(inode, file);
}

static int ctl_release(struct inode *inode, struct file *file)
{
	struct usrloop_file *f = file->private_data;

	if (f->controls) {
		if (!(f->controls->info.flags & USRLOOP_PERSIST))
			usrloop_dev_delete(f->controls, true);
		usrloop_dev_put(f->controls);
	}
	if (f->session) {
		usrloop_dev_detach(f->session);
		usrloop_session_free(f->session);
	}
	mutex_destroy(&f->lock);
	kfree(f);
	return 0;
}

/* Whether the caller may do anything to a device: its owner may, and an administrator. */
static bool ctl_allowed(const struct usrloop_dev *dev)
{
	return uid_eq(current_euid(), dev->owner) || capable(CAP_SYS_ADMIN);
}

/* The device that a call is for, counted; the file's own, or one of the caller's. */
static struct usrloop_dev *ctl_find_target(struct usrloop_file *f, u32 type, u32 id, bool change)
{
	struct usrloop_session *s = ctl_session(f);
	struct usrloop_dev *dev = ctl_device(f);

	if (id != USRLOOP_ANY) {
		dev = usrloop_dev_find(type, id);
	} else {
		dev = dev ?: s ? s->dev : NULL;
		if (dev)
			usrloop_dev_get(dev);
	}
	if (!dev)
		return ERR_PTR(-ENODEV);
	if (change && !ctl_allowed(dev)) {
		usrloop_dev_put(dev);
		return ERR_PTR(-EPERM);
	}
	return dev;
}

/*
 * Every structure begins with its size as the caller knows it. @least: that of its first version.
 * Return: 0; -EINVAL too small; -E2BIG it asks for what we do not know; -EFAULT.
 */
static int ctl_get_args(void *args, size_t size, size_t least, const void __user *user)
{
	u32 argsz;
	int ret;

	if (get_user(argsz, (const u32 __user *)user))
		return -EFAULT;
	if (argsz < least)
		return -EINVAL;
	if (argsz > PAGE_SIZE)
		return -E2BIG;
	ret = copy_struct_from_user(args, size, user, argsz);
	/* It was read twice. */
	*(u32 *)args = argsz;
	return ret;
}

/* As much as the caller knows; what it knows besides was zero and stays so. */
static long ctl_put_args(void __user *user, const void *args, size_t size)
{
	return copy_to_user(user, args, min_t(size_t, size, *(u32 *)args)) ? -EFAULT : 0;
}

/* Of the first versions; these numbers never change. */
#define VERSION_VER0	32
#define INFO_VER0	264
#define TARGET_VER0	24
#define ATTACH_VER0	80
#define EVENTFD_VER0	24
#define FINISH_VER0	144

static_assert(offsetofend(struct usrloop_version, policies) == VERSION_VER0);
static_assert(offsetofend(struct usrloop_info, room) == INFO_VER0);
static_assert(offsetofend(struct usrloop_target, arg) == TARGET_VER0);
static_assert(offsetofend(struct usrloop_attach, size) == ATTACH_VER0);
static_assert(offsetofend(struct usrloop_eventfd, ack_fd) == EVENTFD_VER0);
static_assert(offsetofend(struct usrloop_finish, step) == FINISH_VER0);

static long ctl_version(void __user *user)
{
	struct usrloop_version version;
	int ret;

	ret = ctl_get_args(&version, sizeof(version), VERSION_VER0, user);
	if (ret)
		return ret;
	if (version.flags)
		return -EINVAL;
	version = (struct usrloop_version) {
		.argsz = version.argsz,
		.version = USRLOOP_VERSION,
		.oldest = USRLOOP_VERSION,
		.blk_features = USRLOOP_BLK_FEATURES,
		.net_features = USRLOOP_NET_FEATURES,
		.create_flags = USRLOOP_FLAGS,
		.policies = BIT(USRLOOP_POLICIES) - 1,
	};
	return ctl_put_args(user, &version, sizeof(version));
}

static long ctl_create(struct usrloop_file *f, void __user *user)
{
	struct usrloop_info info;
	struct usrloop_dev *dev;
	int ret;

	ret = ctl_get_args(&info, sizeof(info), INFO_VER0, user);
	if (ret)
		return ret;
	mutex_lock(&f->lock);
	if (f->controls)
		ret = -EBUSY;
	if (!ret)
		ret = usrloop_dev_create(&info, &dev);
	if (!ret)
		smp_store_release(&f->controls, dev);	/* for ctl_device() */
	mutex_unlock(&f->lock);
	return ret ?: ctl_put_args(user, &info, sizeof(info));
}

static long ctl_query(struct usrloop_file *f, void __user *user)
{
	struct usrloop_info info;
	struct usrloop_dev *dev;
	int ret;

	ret = ctl_get_args(&info, sizeof(info), INFO_VER0, user);
	if (ret)
		return ret;
	dev = ctl_find_target(f, info.type, info.id, false);
	if (IS_ERR(dev))
		return PTR_ERR(dev);
	if (dev == f->controls)
		WRITE_ONCE(f->seen, atomic_read(&dev->changes));
	ret = usrloop_dev_query(dev, &info);
	/* The server's process is shown to callers that may detach it. */
	if (!ret && !ctl_allowed(dev))
		info.server_pid = 0;
	usrloop_dev_put(dev);
	return ret ?: ctl_put_args(user, &info, sizeof(info));
}

/* Whether what ATTACH hands over has no bits that mean nothing yet. */
static int ctl_check_attach(const struct usrloop_attach *attach)
{
	if (attach->flags || attach->generation ||
	    memchr_inv(&attach->queues, 0, ATTACH_VER0 - offsetof(struct usrloop_attach, queues)))
		return -EINVAL;
	return attach->version == USRLOOP_VERSION ? 0 : -EPROTONOSUPPORT;
}

static long ctl_attach(struct usrloop_file *f, void __user *user)
{
	const struct usrloop_layout *l;
	struct usrloop_attach attach;
	struct usrloop_session *s;
	struct usrloop_dev *dev;
	int ret;

	ret = ctl_get_args(&attach, sizeof(attach), ATTACH_VER0, user);
	if (ret)
		return ret;
	dev = ctl_find_target(f, attach.type, attach.id, true);
	if (IS_ERR(dev))
		return PTR_ERR(dev);
	mutex_lock(&f->lock);
	if (f->session)
		ret = -EBUSY;
	if (!ret)
		ret = ctl_check_attach(&attach);
	if (!ret)
		ret = usrloop_dev_attach(dev, attach.claim_fd, &s);
	if (!ret)
		smp_store_release(&f->session, s);	/* for ctl_session() */
	mutex_unlock(&f->lock);
	usrloop_dev_put(dev);
	if (ret)
		return ret;
	l = &s->layout;
	attach = (struct usrloop_attach) {
		.argsz = attach.argsz, .type = dev->info.type, .id = dev->info.id,
		.version = attach.version, .claim_fd = s->zc ? attach.claim_fd : -1,
		.generation = s->generation, .queues = dev->info.queues, .depth = dev->info.depth,
		.ring_stride = l->ring_stride, .sq = l->sq, .cq = l->cq, .rx = l->rx,
		.slot_size = l->slot_size, .data = l->data, .data_stride = l->data_stride,
		.size = l->size,
	};
	return ctl_put_args(user, &attach, sizeof(attach));
}

static int ctl_target(struct usrloop_dev *dev, unsigned int cmd, u64 arg)
{
	switch (cmd) {
	case USRLOOP_IOC_START:
		return arg ? -EINVAL : usrloop_dev_start(dev);
	case USRLOOP_IOC_STOP:
		return arg > 1 ? -EINVAL : usrloop_dev_stop(dev, arg);
	case USRLOOP_IOC_DELETE:
		return arg > 1 ? -EINVAL : usrloop_dev_delete(dev, arg);
	case USRLOOP_IOC_RESIZE:
		return usrloop_dev_resize(dev, arg);
	case USRLOOP_IOC_DETACH:
		return arg ? -EINVAL : usrloop_dev_revoke(dev);
	case USRLOOP_IOC_CARRIER:
		return usrloop_dev_carrier(dev, arg);
	}
	return -ENOTTY;
}

static long ctl_eventfd(struct usrloop_file *f, void __user *user)
{
	struct usrloop_session *s = ctl_session(f);
	struct usrloop_eventfd event;
	int ret;

	if (!s)
		return -ENOTCONN;
	ret = ctl_get_args(&event, sizeof(event), EVENTFD_VER0, user);
	if (ret)
		return ret;
	return event.flags ? -EINVAL : usrloop_event_set(s, &event);
}

static long ctl_finish(struct usrloop_file *f, void __user *user)
{
	struct usrloop_session *s = ctl_session(f);
	struct usrloop_finish finish;
	int ret;

	if (!s)
		return -ENOTCONN;
	ret = ctl_get_args(&finish, sizeof(finish), FINISH_VER0, user);
	if (ret)
		return ret;
	return finish.flags ? -EINVAL : usrloop_finish_set(s, &finish);
}

static long ctl_netns(struct usrloop_file *f, void __user *user)
{
	struct usrloop_target target;
	struct usrloop_dev *dev;
	u32 ifindex = 0;
	struct net *net;
	long ret;

	ret = ctl_get_args(&target, sizeof(target), TARGET_VER0, user);
	if (ret)
		return ret;
	if (target.flags || target.arg)
		return -EINVAL;
	dev = ctl_find_target(f, target.type, target.id, true);
	if (IS_ERR(dev))
		return PTR_ERR(dev);
	net = usrloop_dev_netns(dev, &ifindex);
	usrloop_dev_put(dev);
	if (IS_ERR(net))
		return PTR_ERR(net);
	target.arg = ifindex;
	if (!ns_capable(net->user_ns, CAP_NET_ADMIN))
		ret = -EPERM;
	else
		ret = ctl_put_args(user, &target, sizeof(target));
	if (!ret)
		ret = open_related_ns(&net->ns, get_net_ns);
	put_net(net);
	return ret;
}

static long ctl_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct usrloop_file *f = file->private_data;
	void __user *user = (void __user *)arg;
	struct usrloop_session *s;
	struct usrloop_target target;
	struct usrloop_dev *dev;
	long ret;

	switch (cmd) {
	case USRLOOP_IOC_ENTER:	/* first: it is the one that counts */
		s = ctl_session(f);
		return s ? usrloop_enter(s, arg) : -ENOTCONN;
	case USRLOOP_IOC_VERSION:
		return ctl_version(user);
	case USRLOOP_IOC_CREATE:
		return ctl_create(f, user);
	case USRLOOP_IOC_QUERY:
		return ctl_query(f, user);
	case USRLOOP_IOC_ATTACH:
		return ctl_attach(f, user);
	case USRLOOP_IOC_EVENTFD:
		return ctl_eventfd(f, user);
	case USRLOOP_IOC_FINISH:
		return ctl_finish(f, user);
	case USRLOOP_IOC_NETNS:
		return ctl_netns(f, user);
	default:	/* said before anything is read */
		return -ENOTTY;
	case USRLOOP_IOC_START:
	case USRLOOP_IOC_STOP:
	case USRLOOP_IOC_DELETE:
	case USRLOOP_IOC_RESIZE:
	case USRLOOP_IOC_DETACH:
	case USRLOOP_IOC_CARRIER:
		break;
	}
	ret = ctl_get_args(&target, sizeof(target), TARGET_VER0, user);
	if (ret)
		return ret;
	if (target.flags)
		return -EINVAL;
	dev = ctl_find_target(f, target.type, target.id, true);
	if (IS_ERR(dev))
		return PTR_ERR(dev);
	ret = ctl_target(dev, cmd, target.arg);
	usrloop_dev_put(dev);
	return ret;
}

static int ctl_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct usrloop_file *f = file->private_data;
	struct usrloop_session *s = ctl_session(f);

	if (!s)
		return -ENOTCONN;
	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	return usrloop_session_mmap(s, vma);
}

static __poll_t ctl_poll(struct file *file, poll_table *wait)
{
	struct usrloop_file *f = file->private_data;
	struct usrloop_session *s = ctl_session(f);
	struct usrloop_dev *dev = ctl_device(f);
	__poll_t mask = 0;

	if (dev) {
		poll_wait(file, &dev->changed, wait);
		if (READ_ONCE(f->seen) != atomic_read(&dev->changes))
			mask |= EPOLLIN;
		if (READ_ONCE(dev->deleted))
			mask |= EPOLLHUP;
	}
	if (s)
		mask |= usrloop_session_poll(s, file, wait);
	return dev || s ? mask : EPOLLERR;
}

static const struct file_operations ctl_fops = {
	.owner		= THIS_MODULE,
	.open		= ctl_open,
	.release	= ctl_release,
	.unlocked_ioctl	= ctl_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
	.mmap		= ctl_mmap,
	.poll		= ctl_poll,
};

static struct miscdevice ctl_misc = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "usrloop",
	.fops	= &ctl_fops,
	.mode	= 0600,
};

int usrloop_ctl_init(void)
{
	return misc_register(&ctl_misc);
}

void usrloop_ctl_exit(void)
{
	misc_deregister(&ctl_misc);
}

