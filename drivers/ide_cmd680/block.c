// SPDX-License-Identifier: MIT
/* The block top end: a request from any thread, and its wait. */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ide.h"

/* One TRIM segment: a 512-byte block of 64 ranges of up to 65535 sectors (section 7.4). */
#define TRIM_RANGES		64
#define TRIM_RANGE_SECTORS	65535
#define TRIM_SECTORS		((uint64_t)TRIM_RANGES * TRIM_RANGE_SECTORS)

static void wait_for(struct ide_request *r, struct usrdrv_gate *gate)
{
	uint32_t pending = IDE_PENDING;

	if (__atomic_load_n(&r->wait, __ATOMIC_ACQUIRE) == IDE_FINISHED)
		return;
	usrdrv_gate_leave(gate);
	if (!__atomic_compare_exchange_n(&r->wait, &pending, IDE_SLEEPING, 0, __ATOMIC_ACQ_REL,
					 __ATOMIC_ACQUIRE))
		return;
	while (__atomic_load_n(&r->wait, __ATOMIC_ACQUIRE) != IDE_FINISHED)
		syscall(SYS_futex, &r->wait, FUTEX_WAIT_PRIVATE, IDE_SLEEPING, NULL, NULL, 0);
}

static void fill_trim(struct ide_segment *s, uint64_t sector, uint64_t sectors)
{
	uint64_t *range = (uint64_t *)s->page;

	memset(range, 0, USRDRV_SECTOR);
	while (sectors) {
		uint64_t n = sectors < TRIM_RANGE_SECTORS ? sectors : TRIM_RANGE_SECTORS;

		*range++ = sector | n << 48;
		sector += n;
		sectors -= n;
	}
}

/**
 * ide_share - how much of a request one segment takes
 * @op:		of the request
 * @len:	bytes that are left
 *
 * Return: bytes.
 */
uint64_t ide_share(enum usrdrv_block_op op, uint64_t len)
{
	uint64_t most = op == USRDRV_BLOCK_TRIM ? TRIM_SECTORS * USRDRV_SECTOR : IDE_SEGMENT_BYTES;

	return len < most ? len : most;
}

/**
 * ide_fill - make a segment say what it is to do
 * @s:		segment; its page holds the data of a write
 * @d:		drive
 * @r:		request, gets one more to wait for
 * @op:		of the request
 * @offset:	bytes
 * @len:	bytes, at most ide_share()
 * @flags:	USRDRV_BLOCK_*
 */
void ide_fill(struct ide_segment *s, struct ide_drive *d, struct ide_request *r, enum usrdrv_block_op op,
	      uint64_t offset, uint64_t len, unsigned int flags)
{
	s->request = r;
	s->op = (uint8_t)op;
	s->flags = (uint8_t)flags;
	s->device = (uint8_t)d->device;
	s->sector = offset / USRDRV_SECTOR;
	s->sectors = (uint32_t)(len / USRDRV_SECTOR);
	s->table = NULL;
	s->prds = 1;
	if (op == USRDRV_BLOCK_TRIM)
		fill_trim(s, s->sector, s->sectors);
	r->left++;
}

static uint64_t fill(struct ide_drive *d, struct ide_segment *first, struct ide_request *r,
		     enum usrdrv_block_op op, uint64_t offset, uint64_t len, const uint8_t *buf,
		     unsigned int flags)
{
	uint64_t done = 0;

	for (struct ide_segment *s = first; s; s = s->sibling) {
		uint64_t n = ide_share(op, len - done);

		if (op == USRDRV_BLOCK_WRITE)
			memcpy(s->page, buf + done, n);
		ide_fill(s, d, r, op, offset + done, n, flags);
		done += n;
	}
	return done;
}

/**
 * ide_check - see whether a drive can do a request
 * @b:		drive
 * @op:		of the request
 * @offset:	bytes
 * @len:	bytes
 *
 * Return: 0, -EINVAL, -EROFS, -EOPNOTSUPP.
 */
int ide_check(const struct usrdrv_block *b, enum usrdrv_block_op op, uint64_t offset, uint64_t len)
{
	uint64_t size = b->sectors * USRDRV_SECTOR;

	if ((offset | len) % USRDRV_SECTOR || offset > size || len > size - offset)
		return -EINVAL;
	if (b->read_only && (op == USRDRV_BLOCK_WRITE || op == USRDRV_BLOCK_TRIM))
		return -EROFS;
	if (op == USRDRV_BLOCK_TRIM && !b->can_trim)
		return -EOPNOTSUPP;
	return 0;
}

static int submit_wait(struct usrdrv_block *b, enum usrdrv_block_op op, uint64_t offset, uint64_t len,
		       void *data, unsigned int flags, struct usrdrv_gate *gate)
{
	struct ide_drive *d = (struct ide_drive *)b;
	struct ide_channel *ch = d->channel;
	uint8_t *buf = data;
	int ret = ide_check(b, op, offset, len);

	if (ret || (!len && op != USRDRV_BLOCK_FLUSH))
		return ret;
	do {
		struct ide_request r = { .wait = IDE_PENDING };
		uint64_t unit = ide_share(op, UINT64_MAX), n, copied = 0;
		unsigned int want = len ? (unsigned int)((len - 1) / unit < IDE_SEGMENTS ?
							 (len - 1) / unit + 1 : IDE_SEGMENTS) : 1;
		struct ide_segment *first;
		int idle;

		pthread_mutex_lock(&ch->lock);
		ch->users++;
		if (!ch->free) {
			ide_unlock(ch);
			usrdrv_gate_leave(gate);
			pthread_mutex_lock(&ch->lock);
		}
		first = ide_take_segments(ch, want);
		ide_unlock(ch);
		n = fill(d, first, &r, op, offset, len, buf, flags);

		pthread_mutex_lock(&ch->lock);
		idle = ch->state == IDE_IDLE;
		if (ch->state == IDE_DEAD)
			ret = -ENODEV;
		else
			ide_enqueue(ch, first);
		ide_unlock(ch);
		if (!ret) {
			if (idle)
				ide_run_channel(ch);
			else if (atomic_load(&ch->ide->serve))
				ide_kick(ch->ide);	/* the command before may end without anybody being woken */
			wait_for(&r, gate);
			ret = r.status;
		}
		if (!ret && op == USRDRV_BLOCK_READ)
			for (struct ide_segment *s = first; s; s = s->sibling) {
				memcpy(buf + copied, s->page, s->sectors * USRDRV_SECTOR);
				copied += s->sectors * USRDRV_SECTOR;
			}
		pthread_mutex_lock(&ch->lock);
		ide_give_segments(ch, first);
		ch->users--;
		ide_unlock(ch);
		if (buf)
			buf += n;
		offset += n;
		len -= n;
	} while (!ret && len);
	return ret;
}

/** ide_block_ops - the operations of every drive's top end */
const struct usrdrv_block_ops ide_block_ops = {
	.submit_wait = submit_wait,
};
