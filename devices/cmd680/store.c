// SPDX-License-Identifier: MIT
/*
 * The medium: an image file, read and written straight from and to DMA memory,
 * or anonymous memory. Errors are -errno; -EFAULT means the caller's memory.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "cmd680_priv.h"

/**
 * cmd680_store_open() - take the medium that the configuration names
 * @s: filled in
 * @config: fd is duplicated, so that its lock is shared with the caller's
 *
 * Return: 0 or -errno.
 */
int cmd680_store_open(struct store *s, const struct cmd680_drive_config *config)
{
	s->fd = -1;
	s->ram = NULL;
	s->size = config->size;
	s->read_only = config->read_only;
	if (!config->size || config->size % SECTOR)
		return -EINVAL;
	if (config->fd >= 0) {
		s->fd = fcntl(config->fd, F_DUPFD_CLOEXEC, 3);
		if (s->fd < 0)
			return -errno;
		/* Beyond the end there is nothing to lose: it only tells whether punching works. */
		s->can_trim = config->trim && !s->read_only &&
			!fallocate(s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				   (off_t)s->size, 4096);
		return 0;
	}
	s->ram = mmap(NULL, s->size, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (s->ram == MAP_FAILED) {
		s->ram = NULL;
		return -errno;
	}
	s->can_trim = config->trim && !s->read_only;
	return 0;
}

void cmd680_store_close(struct store *s)
{
	if (s->fd >= 0)
		close(s->fd);
	if (s->ram)
		munmap(s->ram, s->size);
	s->fd = -1;
	s->ram = NULL;
}

static int advance(struct iovec **iov, int n, size_t len)
{
	while (n && len >= (*iov)->iov_len) {
		len -= (*iov)->iov_len;
		(*iov)++;
		n--;
	}
	if (n) {
		(*iov)->iov_base = (char *)(*iov)->iov_base + len;
		(*iov)->iov_len -= len;
	}
	return n;
}

/**
 * cmd680_store_io() - move bytes between an image file and the pieces of memory
 * @s: a store with a file
 * @write: memory to file
 * @iov: pieces; clobbered
 * @n: how many
 * @pos: byte offset
 * @done: bytes moved, also on failure
 *
 * Return: 0 or -errno; the end of the file inside the range (it was truncated) is -EIO.
 */
int cmd680_store_io(struct store *s, bool write, struct iovec *iov, int n, uint64_t pos, size_t *done)
{
	*done = 0;
	n = advance(&iov, n, 0);
	while (n) {
		off_t at = (off_t)(pos + *done);
		ssize_t got = write ? pwritev(s->fd, iov, n, at) : preadv(s->fd, iov, n, at);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got ? -errno : -EIO;
		*done += (size_t)got;
		n = advance(&iov, n, (size_t)got);
	}
	return 0;
}

/**
 * cmd680_store_rw() - move bytes between the medium and our own memory
 *
 * Return: 0 or -errno.
 */
int cmd680_store_rw(struct store *s, bool write, void *buf, size_t len, uint64_t pos, size_t *done)
{
	struct iovec iov = { .iov_base = buf, .iov_len = len };

	if (s->fd >= 0)
		return cmd680_store_io(s, write, &iov, 1, pos, done);
	if (write)
		memcpy(s->ram + pos, buf, len);
	else
		memcpy(buf, s->ram + pos, len);
	*done = len;
	return 0;
}

int cmd680_store_sync(struct store *s)
{
	if (s->fd < 0 || s->read_only)
		return 0;
	return fdatasync(s->fd) ? -errno : 0;
}

/**
 * cmd680_store_trim() - give a range back; it reads as zeros from then on
 *
 * Return: 0 or -errno.
 */
int cmd680_store_trim(struct store *s, uint64_t pos, uint64_t len)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t first, last;

	if (s->fd >= 0)
		return fallocate(s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				 (off_t)pos, (off_t)len) ? -errno : 0;
	first = (pos + page - 1) / page * page;
	last = (pos + len) / page * page;
	if (first >= last) {
		memset(s->ram + pos, 0, len);
		return 0;
	}
	memset(s->ram + pos, 0, first - pos);
	memset(s->ram + last, 0, pos + len - last);
	return madvise(s->ram + first, last - first, MADV_DONTNEED) ? -errno : 0;
}

static bool is_full(int error)
{
	return error == ENOSPC || error == EDQUOT;
}

/**
 * cmd680_store_failed() - say what the image's file system has against it, the first time
 * @s: a store with a file
 * @drive: its number
 * @what: what was tried
 * @pos: byte offset
 * @error: -errno
 *
 * The host of the drive sees an error of the drive, and cannot know whose it is. Again it is said when the
 * error is another one, or when it had gone (cmd680_store_written).
 */
void cmd680_store_failed(struct store *s, unsigned int drive, const char *what, uint64_t pos, int error)
{
	if (s->failed == -error)
		return;
	s->failed = -error;
	s->failed_at = pos;
	if (is_full(-error))
		cmd680_say("cmd680 model: drive %u: the file system of its image is full (%s): writes fail until there is room",
			   drive, strerror(-error));
	else
		cmd680_say("cmd680 model: drive %u: %s its image: %s", drive, what, strerror(-error));
}

/* A full file system takes writes to places that it has already: those say nothing. */
static bool has_room(const struct store *s)
{
	struct statvfs st;

	return s->failed == ENOSPC && !fstatvfs(s->fd, &st) && st.f_bavail * st.f_frsize >= 1u << 20;
}

/**
 * cmd680_store_written() - a write went well: whatever kept others from it may be gone
 * @s: store
 * @drive: its number
 * @pos: byte offset
 * @len: bytes
 */
void cmd680_store_written(struct store *s, unsigned int drive, uint64_t pos, uint64_t len)
{
	bool there = s->failed_at >= pos && s->failed_at - pos < len;

	if (!s->failed || !(there || has_room(s)))
		return;
	if (is_full(s->failed))
		cmd680_say("cmd680 model: drive %u: there is room again on the file system of its image", drive);
	s->failed = 0;
}
