// SPDX-License-Identifier: MIT
#include <errno.h>
#include <string.h>

#include "testhost.h"

static uint8_t *find(struct usrdrv_testhost *h, uint64_t addr, uint64_t len)
{
	if (addr < h->base || addr - h->base >= h->len || len > h->len - (addr - h->base))
		return NULL;
	return h->mem + (addr - h->base);
}

static int dma_read(void *ctx, uint64_t addr, void *buf, size_t len)
{
	uint8_t *p = find(ctx, addr, len);

	if (!p)
		return -EFAULT;
	memcpy(buf, p, len);
	return 0;
}

static int dma_write(void *ctx, uint64_t addr, const void *buf, size_t len)
{
	uint8_t *p = find(ctx, addr, len);

	if (!p)
		return -EFAULT;
	memcpy(p, buf, len);
	return 0;
}

static void *dma_ptr(void *ctx, uint64_t addr, size_t len, int device_writes, size_t *avail)
{
	struct usrdrv_testhost *h = ctx;
	uint8_t *p = find(h, addr, 1);
	uint64_t room;

	if (!p)
		return NULL;
	room = h->len - (addr - h->base);
	if (h->split && room > h->split - addr % h->split)
		room = h->split - addr % h->split;
	*avail = len < room ? len : room;
	return p;
}

static void irq(void *ctx, int level)
{
	struct usrdrv_testhost *h = ctx;

	h->level = level;
	if (level)
		h->raised++;
}

/**
 * usrdrv_testhost_attach() - put a model into this machine
 * @host: mem, base, len and split are set
 * @model: not accessed yet
 */
void usrdrv_testhost_attach(struct usrdrv_testhost *host, struct usrdrv_model *model)
{
	host->level = 0;
	host->raised = 0;
	model->host = (struct usrdrv_model_host){
		.ctx = host, .dma_read = dma_read, .dma_write = dma_write, .dma_ptr = dma_ptr, .irq = irq,
	};
}
