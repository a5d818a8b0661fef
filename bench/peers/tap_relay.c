// SPDX-License-Identifier: MIT
/*
 * A plain relay between two TAP interfaces, one frame per system call each way and no offloads: what a
 * user-space network path costs without any of ours. tap_relay FD FD
 */
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct pollfd p[2];
	char frame[16384];

	if (argc != 3)
		return 2;
	for (int i = 0; i < 2; i++)
		p[i] = (struct pollfd){ .fd = atoi(argv[i + 1]), .events = POLLIN };
	while (poll(p, 2, -1) > 0) {
		for (int i = 0; i < 2; i++) {
			ssize_t n;

			if (p[i].revents & (POLLERR | POLLHUP))
				return 0;
			while ((n = read(p[i].fd, frame, sizeof(frame))) > 0)
				if (write(p[!i].fd, frame, (size_t)n) < 0)
					break;	/* lost, as on any wire */
		}
	}
	return 1;
}
