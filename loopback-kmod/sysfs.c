// SPDX-License-Identifier: GPL-2.0
/*
 * The attributes in the folder "usrloop" of a disk and of an interface, for people and for udev.
 *
 * Shown without dev->lock: removing a disk waits for readers here, with that lock held.
 */
#include <linux/blkdev.h>
#include <linux/sysfs.h>

#include "net.h"

static const char *const state_names[] = {
	[USRLOOP_NEW] = "new", [USRLOOP_LIVE] = "live", [USRLOOP_QUIESCED] = "quiesced",
	[USRLOOP_FAILED] = "failed", [USRLOOP_DEAD] = "dead",
};

static struct usrloop_dev *sysfs_device(struct device *d)
{
	if (d->class && !strcmp(d->class->name, "net"))
		return usrloop_net_dev(to_net_dev(d));
	return dev_to_disk(d)->private_data;
}

static ssize_t state_show(struct device *d, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%s\n", state_names[READ_ONCE(sysfs_device(d)->info.state)]);
}
static DEVICE_ATTR_RO(state);

static ssize_t policy_show(struct device *d, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%s\n", usrloop_policies[sysfs_device(d)->info.policy].name);
}
static DEVICE_ATTR_RO(policy);

static ssize_t owner_show(struct device *d, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", from_kuid_munged(&init_user_ns, sysfs_device(d)->owner));
}
static DEVICE_ATTR_RO(owner);

static ssize_t label_show(struct device *d, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%s\n", sysfs_device(d)->info.label);
}
static DEVICE_ATTR_RO(label);

#define USRLOOP_NUMBER(name, format, value)							\
static ssize_t name##_show(struct device *d, struct device_attribute *attr, char *buf)		\
{												\
	return sysfs_emit(buf, format "\n", value);						\
}												\
static DEVICE_ATTR_RO(name)

USRLOOP_NUMBER(generation, "%u", READ_ONCE(sysfs_device(d)->info.generation));
USRLOOP_NUMBER(recovery_ms, "%u", sysfs_device(d)->info.recovery_ms);
USRLOOP_NUMBER(timeout_ms, "%u", sysfs_device(d)->info.timeout_ms);
USRLOOP_NUMBER(refused, "%lld", atomic64_read(&sysfs_device(d)->refused));

static struct attribute *attributes[] = {
	&dev_attr_state.attr,
	&dev_attr_policy.attr,
	&dev_attr_owner.attr,
	&dev_attr_label.attr,
	&dev_attr_generation.attr,
	&dev_attr_recovery_ms.attr,
	&dev_attr_timeout_ms.attr,
	&dev_attr_refused.attr,
	NULL,
};

const struct attribute_group usrloop_group = {
	.name = "usrloop",
	.attrs = attributes,
};

const struct attribute_group *usrloop_disk_groups[] = { &usrloop_group, NULL };
