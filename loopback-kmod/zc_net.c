// SPDX-License-Identifier: GPL-2.0
/*
 * Zero copy of interfaces. A packet to the wire stays, mapped, until the server says that it was
 * sent; its headers are copied, since the server has to read them. Frames from the wire are
 * written into pages of the module, which go with them to the network stack; the slot gets a new
 * one.
 *
 * Nothing is allocated on the way to the wire; on the way from it, what a NIC's driver does.
 *
 * See docs/design/zero-copy-packets.md.
 */
#include <linux/dma-mapping.h>
#include <linux/etherdevice.h>
#include <linux/gfp.h>
#include <linux/skbuff.h>
#include <linux/slab.h>

#include "net.h"

#if IS_ENABLED(CONFIG_USRDRV)
#include "zerocopy.h"

struct usrloop_piece {
	dma_addr_t addr;
	u32 len;
};

/* A packet in flight to the wire. queue->lock, but for zcn_unmap_all() and zcn_recalled(). */
struct usrloop_sent {
	struct sk_buff *skb;		/* NULL: there is none, or it was copied whole */
	unsigned int pieces;		/* that are mapped */
	bool linear;			/* the first of them is memory of skb->data */
	struct usrloop_piece piece[USRLOOP_NET_SEGMENTS];
};

/* Where a frame from the wire goes. NAPI's. */
struct usrloop_place {
	struct page *page;
	dma_addr_t addr;
	bool mapped;
};

struct net_zc {
	struct usrloop_zc zc;
	unsigned int slots;
	struct usrloop_sent *sent;	/* queue * depth + slot */
	struct usrloop_place *place;	/* likewise */
};

static struct net_zc *zcn_of(const struct usrloop_zc *zc)
{
	return container_of(zc, struct net_zc, zc);
}

static struct usrloop_sent *zcn_sent_of(const struct usrloop_end *end, u32 slot)
{
	return &zcn_of(end->zc)->sent[end->queue->index * (end->mask + 1) + slot];
}

static void zcn_unmap_sent(struct device *device, struct usrloop_sent *sent)
{
	unsigned int i;

	for (i = 0; i < sent->pieces; i++) {
		struct usrloop_piece *piece = &sent->piece[i];

		if (!i && sent->linear)
			dma_unmap_single(device, piece->addr, piece->len, DMA_TO_DEVICE);
		else
			dma_unmap_page(device, piece->addr, piece->len, DMA_TO_DEVICE);
	}
	/* Pairs with zcn_mapped(): unmapping came before. */
	smp_store_release(&sent->pieces, 0);
}

static void zcn_unmap_place(struct device *device, struct usrloop_place *place)
{
	if (!place->mapped)
		return;
	dma_unmap_page(device, place->addr, PAGE_SIZE, DMA_FROM_DEVICE);
	/* Likewise. */
	smp_store_release(&place->mapped, false);
}

/* A page that the device can write to. The claim was entered. */
static int zcn_make_place(struct device *device, struct usrloop_place *place, gfp_t gfp)
{
	place->page = __dev_alloc_page(gfp);
	if (!place->page)
		return -ENOMEM;
	place->addr = dma_map_page(device, place->page, 0, PAGE_SIZE, DMA_FROM_DEVICE);
	if (dma_mapping_error(device, place->addr)) {
		__free_page(place->page);
		place->page = NULL;
		return -ENOMEM;
	}
	WRITE_ONCE(place->mapped, true);
	return 0;
}

/* Tell the server of a slot's page. */
static void zcn_show_place(struct usrloop_end *end, u32 slot, const struct usrloop_place *place)
{
	struct usrloop_segment *out = usrloop_data(end, end->mask + 1 + slot) + USRLOOP_NET_TABLE;

	*out = (struct usrloop_segment) { .addr = place->addr, .len = PAGE_SIZE };
}

static void zcn_free(struct usrloop_zc *zc)
{
	struct net_zc *n = zcn_of(zc);
	unsigned int i;

	for (i = 0; n->place && i < n->slots; i++)
		if (n->place[i].page)
			__free_page(n->place[i].page);
	kvfree(n->place);
	kvfree(n->sent);
	kfree(n);
}

/* The tables of zcn_alloc(), and a page for each place. */
static unsigned long zcn_pages(const struct usrloop_info *info)
{
	unsigned long slots = info->queues * info->depth;

	return slots + DIV_ROUND_UP(slots * (sizeof(struct usrloop_sent) +
					     sizeof(struct usrloop_place)), PAGE_SIZE);
}

static struct usrloop_zc *zcn_alloc(const struct usrloop_info *info)
{
	struct net_zc *n = kzalloc(sizeof(*n), GFP_KERNEL_ACCOUNT);

	if (!n)
		return NULL;
	n->slots = info->queues * info->depth;
	n->sent = kvcalloc(n->slots, sizeof(*n->sent), GFP_KERNEL_ACCOUNT);
	n->place = kvcalloc(n->slots, sizeof(*n->place), GFP_KERNEL_ACCOUNT);
	if (!n->sent || !n->place) {
		zcn_free(&n->zc);
		return NULL;
	}
	return &n->zc;
}

static int zcn_begin(struct usrloop_session *s)
{
	u32 depth = s->dev->info.depth, i;
	int ret;

	for (i = 0; i < zcn_of(s->zc)->slots; i++) {
		struct usrloop_place *place = &zcn_of(s->zc)->place[i];

		ret = zcn_make_place(usrloop_zc_device(s->zc), place, GFP_KERNEL);
		if (ret)
			return ret;
		zcn_show_place(&s->end[i / depth], i % depth, place);
	}
	return 0;
}

static void zcn_unmap_all(struct usrloop_zc *zc)
{
	struct device *device = usrloop_zc_device(zc);
	unsigned int i;

	for (i = 0; i < zcn_of(zc)->slots; i++) {
		zcn_unmap_sent(device, &zcn_of(zc)->sent[i]);
		zcn_unmap_place(device, &zcn_of(zc)->place[i]);
	}
}

/*
 * Others wait for packets to the wire; the pages are the session's as long as that is there. The
 * claim may end meanwhile: once they look unmapped, memory goes to others.
 */
static bool zcn_mapped(const struct usrloop_zc *zc, bool any)
{
	unsigned int i;

	for (i = 0; i < zcn_of(zc)->slots; i++) {
		/* Pairs with zcn_unmap_sent(). */
		if (smp_load_acquire(&zcn_of(zc)->sent[i].pieces))
			return true;
		/* Pairs with zcn_unmap_place(). */
		if (any && smp_load_acquire(&zcn_of(zc)->place[i].mapped))
			return true;
	}
	return false;
}

static void zcn_recalled(struct usrloop_zc *zc)
{
	unsigned int i;

	for (i = 0; i < zcn_of(zc)->slots; i++) {
		dev_kfree_skb_any(zcn_of(zc)->sent[i].skb);
		zcn_of(zc)->sent[i].skb = NULL;
	}
}

const struct usrloop_zc_ops usrloop_zc_net = {
	.pages		= zcn_pages,
	.alloc		= zcn_alloc,
	.free		= zcn_free,
	.begin		= zcn_begin,
	.unmap_all	= zcn_unmap_all,
	.mapped		= zcn_mapped,
	.recalled	= zcn_recalled,
};

static int zcn_add_piece(struct device *device, struct usrloop_sent *sent, dma_addr_t addr, u32 len)
{
	if (dma_mapping_error(device, addr))
		return -ENOMEM;
	sent->piece[sent->pieces++] = (struct usrloop_piece) { .addr = addr, .len = len };
	return 0;
}

/* Map what is behind the first @head bytes. */
static int zcn_map_rest(struct device *device, struct usrloop_sent *sent, struct sk_buff *skb,
			u32 head)
{
	u32 linear = skb_headlen(skb), skip = 0;
	int i, ret = 0;

	sent->linear = linear > head;
	if (sent->linear) {
		dma_addr_t addr = dma_map_single(device, skb->data + head, linear - head,
						 DMA_TO_DEVICE);

		ret = zcn_add_piece(device, sent, addr, linear - head);
	} else {
		skip = head - linear;
	}
	for (i = 0; !ret && i < skb_shinfo(skb)->nr_frags; i++) {
		const skb_frag_t *frag = &skb_shinfo(skb)->frags[i];
		u32 size = skb_frag_size(frag);
		dma_addr_t addr;

		if (skip >= size) {
			skip -= size;
			continue;
		}
		addr = skb_frag_dma_map(device, frag, skip, size - skip, DMA_TO_DEVICE);
		ret = zcn_add_piece(device, sent, addr, size - skip);
		skip = 0;
	}
	return ret;
}

/**
 * usrloop_zc_send() - let the server's function reach a packet
 * @end:	the server's end that is to send it
 * @slot:	free
 * @skb:	packet of less than USRLOOP_NET_SEGMENTS fragments; kept then, unless it fails
 * @head:	bytes that were copied
 * @sqe:	what the server is told of it
 *
 * Context: any, queue->lock held.
 * Return: 0; -ENOMEM; -ENODEV the claim is going.
 */
int usrloop_zc_send(struct usrloop_end *end, u32 slot, struct sk_buff *skb, u32 head,
		    struct usrloop_sqe *sqe)
{
	struct usrloop_segment *out = usrloop_data(end, slot) + USRLOOP_NET_TABLE;
	struct device *device = usrloop_zc_device(end->zc);
	struct usrloop_sent *sent = zcn_sent_of(end, slot);
	int index = usrloop_zc_enter(end->zc), ret;
	unsigned int i;

	if (index < 0)
		return index;
	ret = zcn_map_rest(device, sent, skb, head);
	if (ret) {
		zcn_unmap_sent(device, sent);
	} else {
		sent->skb = skb;
		sqe->segments = sent->pieces;
	}
	for (i = 0; i < sent->pieces; i++)
		out[i] = (struct usrloop_segment) {
			.addr = sent->piece[i].addr,
			.len = sent->piece[i].len,
		};
	usrloop_zc_exit(end->zc, index);
	return ret;
}

/**
 * usrloop_zc_sent() - the server is done with a packet
 * @end:	the server's end that sent it
 * @slot:	it was in
 *
 * Context: any, queue->lock held; the claim was entered.
 * Return: what was given to usrloop_zc_send(), or NULL.
 */
struct sk_buff *usrloop_zc_sent(struct usrloop_end *end, u32 slot)
{
	struct usrloop_sent *sent = zcn_sent_of(end, slot);
	struct sk_buff *skb = sent->skb;

	zcn_unmap_sent(usrloop_zc_device(end->zc), sent);
	sent->skb = NULL;
	return skb;
}

/* A small frame leaves its page where it is. */
static struct sk_buff *zcn_copy_small(struct usrloop_end *end, struct napi_struct *napi,
				      const struct usrloop_place *place, u32 len)
{
	struct device *device = usrloop_zc_device(end->zc);
	struct sk_buff *skb = napi_alloc_skb(napi, len);

	if (!skb)
		return NULL;
	dma_sync_single_for_cpu(device, place->addr, len, DMA_FROM_DEVICE);
	skb_put_data(skb, page_address(place->page), len);
	dma_sync_single_for_device(device, place->addr, len, DMA_FROM_DEVICE);
	return skb;
}

/* Pages for those that go. All or none: a frame that there is no memory for leaves its own. */
static int zcn_make_places(struct device *device, struct usrloop_place *place, unsigned int n)
{
	unsigned int i;

	for (i = 0; i < n; i++) {
		if (!zcn_make_place(device, &place[i], GFP_ATOMIC | __GFP_NOWARN))
			continue;
		while (i--) {
			zcn_unmap_place(device, &place[i]);
			__free_page(place[i].page);
		}
		return -ENOMEM;
	}
	return 0;
}

/**
 * usrloop_zc_receive() - make an skb of a frame from the wire
 * @end:	the server's end that received it; its next slots are those of the frame
 * @napi:	whose poll function this is called in
 * @len:	bytes in each of them, of frame
 * @n:		slots, 1 to MAX_SKB_FRAGS
 *
 * Context: NAPI, the claim was entered.
 * Return: skb; NULL there is no memory; -EINVAL, as a pointer, a length that cannot be.
 */
struct sk_buff *usrloop_zc_receive(struct usrloop_end *end, struct napi_struct *napi,
				   const u32 *len, unsigned int n)
{
	struct usrloop_place *ring = &zcn_of(end->zc)->place[end->queue->index * (end->mask + 1)];
	struct usrloop_place *first = &ring[end->rx_head & end->mask];
	struct device *device = usrloop_zc_device(end->zc);
	struct usrloop_place fresh[MAX_SKB_FRAGS];
	struct sk_buff *skb;
	unsigned int i;

	/* What is in more than one page fills the first, or nearly. */
	if (len[0] < ETH_HLEN || (n > 1 && len[0] <= USRLOOP_NET_HEAD))
		return ERR_PTR(-EINVAL);
	for (i = 0; i < n; i++)
		if (!len[i] || len[i] > PAGE_SIZE)
			return ERR_PTR(-EINVAL);
	if (len[0] <= USRLOOP_NET_HEAD)
		return zcn_copy_small(end, napi, first, len[0]);
	skb = napi_alloc_skb(napi, USRLOOP_NET_HEAD);
	if (!skb)
		return NULL;
	if (zcn_make_places(device, fresh, n)) {
		kfree_skb(skb);
		return NULL;
	}
	for (i = 0; i < n; i++) {
		u32 slot = (end->rx_head + i) & end->mask, head = 0;

		zcn_unmap_place(device, &ring[slot]);
		if (!i) {
			head = eth_get_headlen(napi->dev, page_address(first->page),
					       USRLOOP_NET_HEAD);
			skb_put_data(skb, page_address(first->page), head);
		}
		skb_add_rx_frag(skb, i, ring[slot].page, head, len[i] - head, PAGE_SIZE);
		ring[slot] = fresh[i];
		zcn_show_place(end, slot, &fresh[i]);
	}
	return skb;
}
#endif
