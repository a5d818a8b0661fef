// SPDX-License-Identifier: GPL-2.0
/* usrloop: block devices and network interfaces whose other end is a process. */
#include <linux/module.h>

#include "usrloop.h"

static int __init usrloop_init(void)
{
	int ret;

	ret = usrloop_selftest();
	if (ret)
		goto err_selftest;
	ret = usrloop_clock_init(usrloop_dev_continue);
	if (ret)
		goto err_clock;
	ret = usrloop_work_init();
	if (ret)
		goto err_work;
	ret = usrloop_net_init();
	if (ret)
		goto err_net;
	ret = usrloop_ctl_init();
	if (ret)
		goto err_ctl;
	return 0;

err_ctl:
	usrloop_net_exit();
err_net:
	usrloop_work_exit();
err_work:
	usrloop_clock_exit();
err_clock:
err_selftest:
	return ret;
}

static void __exit usrloop_exit(void)
{
	usrloop_ctl_exit();
	usrloop_net_exit();
	usrloop_registry_exit();
	usrloop_work_exit();
	usrloop_clock_exit();
}

module_init(usrloop_init);
module_exit(usrloop_exit);
MODULE_DESCRIPTION("Block devices and network interfaces served by processes");
MODULE_LICENSE("GPL");
MODULE_VERSION("0.1.0")	/* as in dkms.conf */;
