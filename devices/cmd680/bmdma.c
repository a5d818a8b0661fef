// SPDX-License-Identifier: MIT
/* The bus-master engine of a channel (sections 4.2, 4.3 and 6). */
#include <errno.h>
#include <string.h>

#include "cmd680_priv.h"

#define MAX_IOV		64
#define TABLE_ENTRIES	8192u	/* a table does not cross 64 KiB; bounds a walk without EOT */

/* Clearing start: progress and FIFO are forgotten, the latches stay. */
void cmd680_bm_stop(struct channel *ch)
{
	ch->bm_cmd &= (uint8_t)~CMD680_BM_START;
	ch->bm_status &= (uint8_t)~CMD680_BM_ACTIVE;
	ch->seg_left = 0;
	ch->seg_eot = false;
}

void cmd680_bm_reset(struct channel *ch)
{
	cmd680_bm_stop(ch);
	ch->bm_cmd = 0;
	ch->bm_status = 0;
	ch->prd_cur = 0;
}

uint8_t cmd680_bm_read(struct channel *ch, unsigned int reg)
{
	const struct channel *other = &ch->m->ch[!ch->index];

	if (reg % 8 >= 4)
		return (uint8_t)(ch->prd >> (reg % 4 * 8));
	switch (reg) {
	case CMD680_BM_CMD:
	case CMD680_BM2:
		return ch->bm_cmd;
	case CMD680_BM_SW:
		return ch->bm_sw;
	case CMD680_BM_STATUS:
	case CMD680_BM2 + 2:
		return ch->bm_status;
	case CMD680_BM2 + 3:	/* both channels in one read, section 4.3 */
		return other->bm_status & (CMD680_BM_ACTIVE | CMD680_BM_ERROR | CMD680_BM_INT);
	}
	return 0;
}

/* Return: true if it has started. */
static bool write_command(struct channel *ch, uint8_t value)
{
	bool was = ch->bm_cmd & CMD680_BM_START;
	bool start = value & CMD680_BM_START;

	if (engine_held(ch))
		return false;
	if (was && start && (ch->bm_cmd ^ value) & CMD680_BM_TO_MEMORY)
		ch->m->count.unexpected++;
	ch->bm_cmd = value & (CMD680_BM_START | CMD680_BM_TO_MEMORY);
	if (was && !start)
		cmd680_bm_stop(ch);
	if (was || !start)
		return false;	/* only a rising start bit starts */
	ch->prd_cur = ch->prd;
	ch->prd_fetched = 0;
	ch->seg_left = 0;
	ch->seg_eot = false;
	ch->bm_status |= CMD680_BM_ACTIVE;
	return true;
}

/**
 * cmd680_bm_write() - a byte of the engine's registers is written
 *
 * Return: true if the engine has started, and looks for a drive that has data to move.
 */
bool cmd680_bm_write(struct channel *ch, unsigned int reg, uint8_t value)
{
	if (reg % 8 >= 4) {
		unsigned int shift = reg % 4 * 8;

		ch->prd = (ch->prd & ~(0xffu << shift)) | (uint32_t)value << shift;
		ch->prd &= ~3u;
		return false;
	}
	switch (reg) {
	case CMD680_BM_CMD:
	case CMD680_BM2:
		return write_command(ch, value);
	case CMD680_BM_SW:
		ch->bm_sw = value & 0x3f;
		break;
	case CMD680_BM_STATUS:
	case CMD680_BM2 + 2:
		ch->bm_status &= (uint8_t)~(value & (CMD680_BM_INT | CMD680_BM_ERROR));
		ch->bm_status &= (uint8_t)~(CMD680_BM_DEV0_DMA | CMD680_BM_DEV1_DMA);
		ch->bm_status |= value & (CMD680_BM_DEV0_DMA | CMD680_BM_DEV1_DMA);
		break;
	}
	return false;
}

/* Nobody answered on the bus: the engine stops, the drive is left waiting. */
void cmd680_bm_abort(struct channel *ch)
{
	ch->bm_status |= CMD680_BM_ERROR;
	ch->bm_status &= (uint8_t)~CMD680_BM_ACTIVE;
	ch->m->cfg[0x07] |= 0x20;	/* received master abort */
	ch->m->count.master_aborts++;
}

bool cmd680_bm_exact(const struct channel *ch)
{
	return !ch->seg_left && ch->seg_eot;
}

/* The next piece of the table, at most want bytes of it. */
static enum bm_result next_piece(struct channel *ch, uint64_t want, uint32_t *addr, uint32_t *len)
{
	struct usrdrv_model_host *host = &ch->m->base.host;

	if (!ch->seg_left) {
		uint8_t prd[8];
		uint32_t count;

		if (ch->seg_eot || ch->prd_fetched == TABLE_ENTRIES)
			return BM_SHORT;
		/* Without the bus-master bit the request never gets the bus. */
		if (!(ch->m->cfg[0x04] & 0x04) || !powered(ch->m))
			return BM_ABORT;
		if (host->dma_read(host->ctx, ch->prd_cur, prd, sizeof(prd)))
			return BM_ABORT;
		ch->prd_cur += 8;
		ch->prd_fetched++;
		ch->m->count.prds++;
		ch->seg_addr = (prd[0] | prd[1] << 8 | prd[2] << 16 | (uint32_t)prd[3] << 24) & ~1u;
		count = (prd[4] | (uint32_t)prd[5] << 8) & 0xfffe;
		ch->seg_left = count ? count : CMD680_PRD_MAX;
		ch->seg_eot = prd[7] & 0x80;
		if ((ch->seg_addr & 0xffff) + ch->seg_left > CMD680_PRD_MAX) {
			ch->m->count.unexpected++;
			if (cmd680_strict_refuses(ch, STRICT_PRD))
				return BM_ABORT;
		}
	}
	*addr = ch->seg_addr;
	*len = want < ch->seg_left ? (uint32_t)want : ch->seg_left;
	ch->seg_addr += *len;
	ch->seg_left -= *len;
	return BM_DONE;
}

/* File and DMA memory, gathered so that one system call moves many pieces. */
static enum bm_result move_file(struct channel *ch, struct drive *d, uint64_t len, int *error)
{
	struct usrdrv_model_host *host = &ch->m->base.host;
	struct xfer *x = &d->x;
	enum bm_result result = BM_DONE;

	while (len && result == BM_DONE) {
		struct iovec iov[MAX_IOV];
		uint64_t gathered = 0;
		size_t done;
		int n = 0;

		while (n < MAX_IOV && gathered < len && result == BM_DONE) {
			uint32_t addr, piece;

			result = next_piece(ch, len - gathered, &addr, &piece);
			while (result == BM_DONE && piece) {
				size_t avail = 0;
				void *p = host->dma_ptr(host->ctx, addr, piece, !x->write, &avail);

				if (!p || !avail) {
					result = BM_ABORT;
					break;
				}
				if (n == MAX_IOV) {	/* give the rest back to the segment */
					ch->seg_addr -= piece;
					ch->seg_left += piece;
					break;
				}
				avail = avail < piece ? avail : piece;
				iov[n].iov_base = p;
				iov[n++].iov_len = avail;
				gathered += avail;
				addr += (uint32_t)avail;
				piece -= (uint32_t)avail;
			}
		}
		*error = cmd680_store_io(&d->store, x->write, iov, n, x->pos, &done);
		x->pos += done;
		x->left -= done;
		len -= done;
		if (*error)
			return *error == -EFAULT ? BM_ABORT : BM_MEDIA;
	}
	return result;
}

/* Our own memory (RAM disk, buffer, or nothing for damaged data) and DMA memory. */
static enum bm_result move_memory(struct channel *ch, struct drive *d, uint8_t *mem, uint64_t len)
{
	struct usrdrv_model_host *host = &ch->m->base.host;
	static const uint8_t noise[CMD680_PRD_MAX] = { [0 ... CMD680_PRD_MAX - 1] = 0xa5 };
	struct xfer *x = &d->x;

	while (len) {
		uint32_t addr, piece;
		enum bm_result result = next_piece(ch, len, &addr, &piece);
		int err = 0;

		if (result != BM_DONE)
			return result;
		if (mem && x->write)
			err = host->dma_read(host->ctx, addr, mem + x->pos, piece);
		else if (!x->write)
			err = host->dma_write(host->ctx, addr, mem ? mem + x->pos : noise, piece);
		if (err)
			return BM_ABORT;
		x->pos += piece;
		x->left -= piece;
		len -= piece;
	}
	return BM_DONE;
}

/**
 * cmd680_bm_move() - move the next bytes of the drive's data phase
 * @d: x.pos and x.left advance by what was moved
 * @len: bytes, at most x.left
 * @error: -errno of the medium with BM_MEDIA
 */
enum bm_result cmd680_bm_move(struct drive *d, uint64_t len, int *error)
{
	struct channel *ch = d->ch;
	struct xfer *x = &d->x;

	if (x->crc || x->fault)
		return move_memory(ch, d, NULL, len);
	if (!x->media)
		return move_memory(ch, d, d->buf, len);
	if (d->store.fd < 0)
		return move_memory(ch, d, d->store.ram, len);
	return move_file(ch, d, len, error);
}
