// SPDX-License-Identifier: MIT
/* The few things that a model says to whoever runs it. */
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "cmd680_priv.h"

/**
 * cmd680_say() - write a line to standard error
 * @format: printf's, without the newline; at most 500 bytes come of it
 *
 * Nobody need read it: what does not fit at once is lost, for a drive must not wait for a reader. A pipe that
 * can be written to has room for PIPE_BUF bytes (pipe(7)). Safe from any thread.
 */
void cmd680_say(const char *format, ...)
{
	struct pollfd p = { .fd = STDERR_FILENO, .events = POLLOUT };
	char line[512];
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(line, sizeof(line) - 1, format, args);
	va_end(args);
	if (n < 0)
		return;
	if (n > (int)sizeof(line) - 2)
		n = (int)sizeof(line) - 2;
	line[n++] = '\n';
	if (poll(&p, 1, 0) == 1 && p.revents & POLLOUT && write(STDERR_FILENO, line, (size_t)n) < 0)
		return;		/* there is nobody left to tell */
}
