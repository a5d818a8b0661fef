// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/usrloop: what a file is (controller, server), and every field that comes from user space.
 */
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include "usrloop.h"

/* Roles are taken once, under lock, and are then read without it. */
struct usrloop_file {
	struct mutex lock;			/* who takes a role */
	struct usrloop_dev *controls;		/* counted, or NULL */
	struct usrloop_session *session;	/* or NULL */
	int seen;				/* changes of the device that it has heard of */
};

/* Pairs with the release of do_attach(): whoever sees a session sees all of it. */
static struct usrloop_session *session_of(struct usrloop_file *f)
{
	return smp_load_acquire(&f->session);	/* as said */
}

/* Pairs with the release of do_create(). */
static struct usrloop_dev *controlled_by(struct usrloop_file *f)
{
	return smp_load_acquire(&f->controls);	/* as said */
}

static int usrloop_open(struct inode *inode, struct file *file)
{
	struct usrloop_file *f = kzalloc(sizeof(*f), GFP_KERNEL_ACCOUNT);

	if (!f)
		return -ENOMEM;
	mutex_init(&f->lock);
	file->private_data = f;
	return nonseekable_open(inode, file);
}

static int usrloop_release(struct inode *inode, struct file *file)
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
static bool allowed(const struct usrloop_dev *dev)
{
	return uid_eq(current_euid(), dev->owner) || capable(CAP_SYS_ADMIN);
}

/* The device that a call is for, counted; the file's own, or one of the caller's. */
static struct usrloop_dev *find_target(struct usrloop_file *f, u32 type, u32 id, bool change)
{
	struct usrloop_session *s = session_of(f);
	struct usrloop_dev *dev = controlled_by(f);

	if (id != USRLOOP_ANY) {
		dev = usrloop_dev_find(type, id);
	} else {
		dev = dev ?: s ? s->dev : NULL;
		if (dev)
			usrloop_dev_get(dev);
	}
	if (!dev)
		return ERR_PTR(-ENODEV);
	if (change && !allowed(dev)) {
		usrloop_dev_put(dev);
		return ERR_PTR(-EPERM);
	}
	return dev;
}

static long do_version(void __user *arg)
{
	const struct usrloop_version version = {
		.version = USRLOOP_VERSION,
		.blk_features = USRLOOP_BLK_FEATURES,
		.net_features = USRLOOP_NET_FEATURES,
		.flags = USRLOOP_FLAGS,
		.policies = BIT(USRLOOP_POLICIES) - 1,
	};

	return copy_to_user(arg, &version, sizeof(version)) ? -EFAULT : 0;
}

static long do_create(struct usrloop_file *f, void __user *arg)
{
	struct usrloop_info info;
	struct usrloop_dev *dev;
	int ret = 0;

	if (copy_from_user(&info, arg, sizeof(info)))
		return -EFAULT;
	mutex_lock(&f->lock);
	if (f->controls)
		ret = -EBUSY;
	if (!ret)
		ret = usrloop_dev_create(&info, &dev);
	if (!ret)
		smp_store_release(&f->controls, dev);	/* for controlled_by() */
	mutex_unlock(&f->lock);
	if (ret)
		return ret;
	return copy_to_user(arg, &info, sizeof(info)) ? -EFAULT : 0;
}

static long do_query(struct usrloop_file *f, void __user *arg)
{
	struct usrloop_info info;
	struct usrloop_dev *dev;
	int ret;

	if (copy_from_user(&info, arg, sizeof(info)))
		return -EFAULT;
	dev = find_target(f, info.type, info.id, false);
	if (IS_ERR(dev))
		return PTR_ERR(dev);
	if (dev == f->controls)
		WRITE_ONCE(f->seen, atomic_read(&dev->changes));
	ret = usrloop_dev_query(dev, &info);
	usrloop_dev_put(dev);
	if (ret)
		return ret;
	return copy_to_user(arg, &info, sizeof(info)) ? -EFAULT : 0;
}

static long do_attach(struct usrloop_file *f, void __user *arg)
{
	const struct usrloop_layout *l;
	struct usrloop_attach attach;
	struct usrloop_session *s;
	struct usrloop_dev *dev;
	int ret = 0;

	if (copy_from_user(&attach, arg, sizeof(attach)))
		return -EFAULT;
	dev = find_target(f, attach.type, attach.id, true);
	if (IS_ERR(dev))
		return PTR_ERR(dev);
	mutex_lock(&f->lock);
	if (f->session)
		ret = -EBUSY;
	if (!ret)
		ret = attach.reserved ? -EINVAL : usrloop_dev_attach(dev, attach.claim_fd, &s);
	if (!ret)
		smp_store_release(&f->session, s);	/* for session_of() */
	mutex_unlock(&f->lock);
	usrloop_dev_put(dev);
	if (ret)
		return ret;
	l = &s->layout;
	attach = (struct usrloop_attach) {
		.type = dev->info.type, .id = dev->info.id, .generation = s->generation,
		.queues = dev->info.queues, .depth = dev->info.depth, .ring_stride = l->ring_stride,
		.sq = l->sq, .cq = l->cq, .rx = l->rx, .slot_size = l->slot_size,
		.data = l->data, .data_stride = l->data_stride, .size = l->size,
		.claim_fd = s->zc ? attach.claim_fd : -1,
	};
	return copy_to_user(arg, &attach, sizeof(attach)) ? -EFAULT : 0;
}

static int do_target(struct usrloop_dev *dev, unsigned int cmd, u64 arg)
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

static long do_eventfd(struct usrloop_file *f, void __user *arg)
{
	struct usrloop_session *s = session_of(f);
	struct usrloop_eventfd event;

	if (!s)
		return -ENOTCONN;
	if (copy_from_user(&event, arg, sizeof(event)))
		return -EFAULT;
	return usrloop_event_set(s, &event);
}

static long do_finish(struct usrloop_file *f, void __user *arg)
{
	struct usrloop_session *s = session_of(f);
	struct usrloop_finish finish;

	if (!s)
		return -ENOTCONN;
	if (copy_from_user(&finish, arg, sizeof(finish)))
		return -EFAULT;
	return usrloop_finish_set(s, &finish);
}

static long usrloop_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct usrloop_file *f = file->private_data;
	void __user *user = (void __user *)arg;
	struct usrloop_session *s;
	struct usrloop_target target;
	struct usrloop_dev *dev;
	long ret;

	switch (cmd) {
	case USRLOOP_IOC_ENTER:	/* first: it is the one that counts */
		s = session_of(f);
		return s ? usrloop_enter(s, arg) : -ENOTCONN;
	case USRLOOP_IOC_VERSION:
		return do_version(user);
	case USRLOOP_IOC_CREATE:
		return do_create(f, user);
	case USRLOOP_IOC_QUERY:
		return do_query(f, user);
	case USRLOOP_IOC_ATTACH:
		return do_attach(f, user);
	case USRLOOP_IOC_EVENTFD:
		return do_eventfd(f, user);
	case USRLOOP_IOC_FINISH:
		return do_finish(f, user);
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
	if (copy_from_user(&target, user, sizeof(target)))
		return -EFAULT;
	dev = find_target(f, target.type, target.id, true);
	if (IS_ERR(dev))
		return PTR_ERR(dev);
	ret = do_target(dev, cmd, target.arg);
	usrloop_dev_put(dev);
	return ret;
}

static int usrloop_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct usrloop_file *f = file->private_data;
	struct usrloop_session *s = session_of(f);

	if (!s)
		return -ENOTCONN;
	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	return remap_vmalloc_range(vma, s->mem, vma->vm_pgoff);
}

static __poll_t usrloop_poll(struct file *file, poll_table *wait)
{
	struct usrloop_file *f = file->private_data;
	struct usrloop_session *s = session_of(f);
	struct usrloop_dev *dev = controlled_by(f);
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

static const struct file_operations usrloop_fops = {
	.owner		= THIS_MODULE,
	.open		= usrloop_open,
	.release	= usrloop_release,
	.unlocked_ioctl	= usrloop_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
	.mmap		= usrloop_mmap,
	.poll		= usrloop_poll,
};

static struct miscdevice usrloop_misc = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "usrloop",
	.fops	= &usrloop_fops,
	.mode	= 0600,
};

int usrloop_ctl_init(void)
{
	return misc_register(&usrloop_misc);
}

void usrloop_ctl_exit(void)
{
	misc_deregister(&usrloop_misc);
}

