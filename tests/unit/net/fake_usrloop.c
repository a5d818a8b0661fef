/* SPDX-License-Identifier: MIT */
/* In the place of the system's ioctl() (-Dioctl=fake_ioctl): the module is a function of the test's. */
#include <errno.h>
#include <stdarg.h>

int (*fake_module)(unsigned long request, void *arg);
int fake_ioctl(int fd, unsigned long request, ...);

int fake_ioctl(int fd, unsigned long request, ...)
{
	va_list list;
	int ret;

	(void)fd;
	va_start(list, request);
	ret = fake_module(request, va_arg(list, void *));
	va_end(list);
	if (ret >= 0)
		return ret;
	errno = -ret;
	return -1;
}
