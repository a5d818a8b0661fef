// SPDX-License-Identifier: GPL-2.0
/*
 * Packets from the wire, by NAPI in the server's own ENTER: copied out of their slots into skbs,
 * or in the pages that the server's device wrote them to.
 */
#include <linux/etherdevice.h>
#include <linux/netdevice.h>
#include <linux/virtio_net.h>

#include "compat.h"
#include "net.h"

#define HEADER		USRLOOP_NET_HEADER
#define COPY_WHOLE	2048u	/* bytes of a frame that get a linear skb */
#define COPY_HEAD	256u	/* of a larger one, what the stack looks at */

static struct sk_buff *net_rx_make_skb(struct usrloop_netq *nq, const void *frame, u32 len)
{
	struct sk_buff *skb;
	int err;

	if (len <= COPY_WHOLE) {
		skb = napi_alloc_skb(&nq->napi, len);
		if (skb)
			skb_put_data(skb, frame, len);
		return skb;
	}
	skb = alloc_skb_with_frags(NET_SKB_PAD + NET_IP_ALIGN + COPY_HEAD, len - COPY_HEAD,
				   PAGE_ALLOC_COSTLY_ORDER, &err, GFP_ATOMIC | __GFP_NOWARN);
	if (!skb)
		return NULL;
	skb_reserve(skb, NET_SKB_PAD + NET_IP_ALIGN);
	skb->dev = nq->napi.dev;
	skb_put(skb, COPY_HEAD);
	skb->data_len = len - COPY_HEAD;
	skb->len = len;
	if (skb_store_bits(skb, 0, frame, len)) {
		kfree_skb(skb);
		return NULL;
	}
	return skb;
}

/* Whether a packet from the wire asks for no more than was agreed on. */
static bool net_rx_offload_allowed(const struct virtio_net_hdr *h, u32 features)
{
	if (h->flags & ~(VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID))
		return false;
	if (h->flags && !(features & USRLOOP_NET_CSUM))
		return false;
	switch (h->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
	case VIRTIO_NET_HDR_GSO_NONE:
		return !h->gso_type;
	case VIRTIO_NET_HDR_GSO_TCPV4:
	case VIRTIO_NET_HDR_GSO_TCPV6:
		return features & USRLOOP_NET_TSO;
	case VIRTIO_NET_HDR_GSO_UDP_L4:
		return features & USRLOOP_NET_USO;
	}
	return false;
}

/*
 * Take a frame out of the page of its slot, or of more slots: @entries are there. Return: skb; NULL
 * there is no memory, -EINVAL, as a pointer, nonsense. *len: bytes; *used: slots.
 */
static struct sk_buff *net_rx_take_pages(struct usrloop_netq *nq, struct usrloop_end *end,
					 u32 entries, u32 *len, u32 *used)
{
	const struct virtio_net_hdr_mrg_rxbuf *header;
	u32 sizes[MAX_SKB_FRAGS], n, i;

	header = usrloop_data(end, end->mask + 1 + (end->rx_head & end->mask));
	n = __virtio16_to_cpu(true, READ_ONCE(header->num_buffers));
	if (!n || n > MAX_SKB_FRAGS || n > entries)
		return ERR_PTR(-EINVAL);
	for (i = 0; i < n; i++)
		sizes[i] = READ_ONCE(end->rx[(end->rx_head + i) & end->mask].len);
	sizes[0] -= HEADER;
	for (*len = 0, i = 0; i < n; i++)
		*len += sizes[i];
	*used = n;
	return usrloop_zc_receive(end, &nq->napi, sizes, n);
}

/* Likewise, out of the slot itself. */
static struct sk_buff *net_rx_take_slot(struct usrloop_netq *nq, struct usrloop_end *end, u32 *len)
{
	u32 slot = end->rx_head & end->mask, size = READ_ONCE(end->rx[slot].len);

	if (size < HEADER + ETH_HLEN || size > end->slot_size)
		return ERR_PTR(-EINVAL);
	*len = size - HEADER;
	return net_rx_make_skb(nq, usrloop_data(end, end->mask + 1 + slot) + HEADER, *len);
}

/*
 * One packet from the wire. Its header is copied before it is looked at: the server can write
 * to it at any time. Return: slots that it took of @entries.
 */
static u32 net_rx_receive(struct usrloop_netq *nq, struct usrloop_end *end, u32 entries)
{
	const struct virtio_net_hdr_mrg_rxbuf *header;
	struct virtio_net_hdr h;
	struct sk_buff *skb;
	u32 len, used = 1;

	header = usrloop_data(end, end->mask + 1 + (end->rx_head & end->mask));
	memcpy(&h, &header->hdr, sizeof(h));
	barrier();	/* or the compiler might read it again */
	if (end->zc)
		skb = net_rx_take_pages(nq, end, entries, &len, &used);
	else
		skb = net_rx_take_slot(nq, end, &len);
	if (IS_ERR(skb))
		goto err;
	if (!skb) {
		u64_stats_update_begin(&nq->rx_sync);
		u64_stats_inc(&nq->rx[RX_DROPPED]);
		u64_stats_update_end(&nq->rx_sync);
		return used;
	}
	if (!net_rx_offload_allowed(&h, nq->queue->dev->info.features))
		goto err_free;
	if (h.flags & VIRTIO_NET_HDR_F_DATA_VALID && nq->napi.dev->features & NETIF_F_RXCSUM)
		skb->ip_summed = CHECKSUM_UNNECESSARY;
	if (virtio_net_hdr_to_skb(skb, &h, true))
		goto err_free;
	u64_stats_update_begin(&nq->rx_sync);
	u64_stats_inc(&nq->rx[RX_PACKETS]);
	u64_stats_add(&nq->rx[RX_BYTES], len);
	u64_stats_add(&nq->rx[RX_COPIED], end->zc ? skb_headlen(skb) : len);
	u64_stats_update_end(&nq->rx_sync);
	skb_record_rx_queue(skb, nq->queue->index);
	skb->protocol = eth_type_trans(skb, nq->napi.dev);
	napi_gro_receive(&nq->napi, skb);
	return used;

err_free:
	kfree_skb(skb);
err:
	u64_stats_update_begin(&nq->rx_sync);
	u64_stats_inc(&nq->rx[RX_ERRORS]);
	u64_stats_update_end(&nq->rx_sync);
	return used;
}

/* Packets up to @tail, at most @budget. */
static int net_rx_receive_all(struct usrloop_netq *nq, struct usrloop_end *end, u32 tail,
			      int budget)
{
	int done = 0;

	if (unlikely(tail - end->rx_head > end->mask + 1)) {
		atomic64_inc(&nq->queue->dev->refused);
		WRITE_ONCE(end->rx_head, tail - (end->mask + 1));
	}
	for (; done < budget && end->rx_head != tail; done++) {
		u32 used = net_rx_receive(nq, end, tail - end->rx_head);

		WRITE_ONCE(end->rx_head, end->rx_head + used);
	}
	/* Their slots may be written to again. */
	smp_store_release(&end->ring->rx_head, end->rx_head);
	return done;
}

/* NAPI's poll function. */
int usrloop_net_poll(struct napi_struct *napi, int budget)
{
	struct usrloop_netq *nq = container_of(napi, struct usrloop_netq, napi);
	struct usrloop_end *end;
	int done = 0, index = 0;

	rcu_read_lock();
	end = rcu_dereference(nq->queue->end);
	if (end && end->zc)
		index = usrloop_zc_enter(end->zc);
	if (end && index >= 0)
		/* Pairs with the server's release: the packets are there. */
		done = net_rx_receive_all(nq, end, smp_load_acquire(&end->ring->rx_tail), budget);
	if (end && end->zc && index >= 0)
		usrloop_zc_exit(end->zc, index);
	rcu_read_unlock();
	if (done < budget)
		napi_complete_done(napi, done);
	return done;
}

/*
 * Drop what came while the interface was down: its slots may be written to again.
 * Context: NAPI is off, so its part of the ring may be changed here.
 */
void usrloop_net_discard(struct usrloop_queue *q)
{
	struct usrloop_end *end;

	rcu_read_lock();
	end = rcu_dereference(q->end);
	if (end) {
		u32 tail = READ_ONCE(end->ring->rx_tail);

		WRITE_ONCE(end->rx_head, tail);
		WRITE_ONCE(end->ring->rx_head, tail);
	}
	rcu_read_unlock();
}
