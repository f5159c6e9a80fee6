/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 * A probe becomes our answer, and goes back the way it came.
 *
 *   Ethernet | outer IP | inner IP | TCP ...              what came
 *   Ethernet | IP | UDP | message | rest of it, if short  what goes; the rest lies beyond the length in the UDP header
 *
 * The tail cannot be cut off a buffer that is marked as encapsulated (bpf_skb_change_tail), but bytes can be taken away behind
 * the outer header. Where a device is to complete the inner checksum (veth, virtio), it does so in that rest, or there is nothing left
 * to complete: the kernel notices when the bytes that the sum begins with are taken away. The rest is within the length of the
 * IP header: a bridge with br_netfilter, or a router, cuts off what is not, and drops the packet when a sum is to be written there. */
#pragma once

struct answer_v4 {
	__u32 unused; /* so that the message is aligned */
	struct ipv4_header ip;
	struct udp_header udp;
	union message_words message;
};

struct answer_v6 {
	struct ipv6_header ip;
	struct udp_header udp;
	union message_words message;
};

#define ANSWER_V4_LEN (sizeof(struct ipv4_header) + sizeof(struct udp_header) + MESSAGE_LEN)

_Static_assert(sizeof(struct answer_v4) == 4 + ANSWER_V4_LEN, "no gaps");
_Static_assert(sizeof(struct answer_v6) == 40 + 8 + MESSAGE_LEN, "no gaps");

static __always_inline void udp_to(struct udp_header *udp, __be16 source, __be16 destination)
{
	udp->source = source;
	udp->destination = destination;
	udp->len = bpf_htons(sizeof(*udp) + MESSAGE_LEN);
	udp->check = 0;
}

static __always_inline int answer_v4(struct __sk_buff *skb, const struct packet *outer, const struct packet *inner,
				     const struct place *at, __u32 what)
{
	struct answer_v4 a = {};

	a.ip.version_ihl = 0x45;
	a.ip.tos = MESSAGE_TOS;
	a.ip.total_len = bpf_htons(skb->len - ETH_LEN);
	a.ip.frag_off = bpf_htons(0x4000);
	a.ip.ttl = TUNNEL_TTL;
	a.ip.protocol = PROTO_UDP;
	a.ip.source = v4_of(&outer->flow.vip);
	a.ip.destination = v4_of(&outer->flow.client);
	a.ip.check = ~folded16(bpf_csum_diff(NULL, 0, (__be32 *)&a.ip, sizeof(a.ip), 0));
	udp_to(&a.udp, at->settings->port, at->settings->port);
	write_message(&a.message, what >> 16, &inner->flow, at->group, at->settings, what);
	return bpf_skb_store_bytes(skb, ETH_LEN, &a.ip, ANSWER_V4_LEN, 0);
}

static __always_inline int answer_v6(struct __sk_buff *skb, const struct packet *outer, const struct packet *inner,
				     const struct place *at, __u32 what)
{
	struct answer_v6 a = {};
	__u32 sum;

	a.ip.version_class_label = bpf_htonl(6U << 28 | MESSAGE_TOS << 20);
	a.ip.payload_len = bpf_htons(skb->len - ETH_LEN - sizeof(a.ip));
	a.ip.next = PROTO_UDP;
	a.ip.hop_limit = TUNNEL_TTL;
	a.ip.source = outer->flow.vip;
	a.ip.destination = outer->flow.client;
	udp_to(&a.udp, at->settings->port, at->settings->port);
	write_message(&a.message, what >> 16, &inner->flow, at->group, at->settings, what);
	/* RFC 8200 section 8.1: UDP over IPv6 has a checksum. */
	sum = bpf_csum_diff(NULL, 0, (__be32 *)((void *)&a.ip + 8), 32, bpf_htonl(sizeof(a.udp) + MESSAGE_LEN));
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&a.udp, sizeof(a.udp) + MESSAGE_LEN, sum);
	a.udp.check = ~folded16(folded16(sum) + bpf_htons(PROTO_UDP)) ?: 0xffff;
	return bpf_skb_store_bytes(skb, ETH_LEN, &a, sizeof(a), 0);
}

/* Above this, what was probed with is taken away; below, it is not worth it, and a sum may begin behind its end. */
#define ANSWER_REST_MAX 128
/* The helper takes no more at a time. */
#define SHRINK_MAX 4000

static __always_inline int take_away(struct __sk_buff *skb, __u32 len)
{
	for (int i = 0; i < 18 && len; i++) {
		__u32 now = len > SHRINK_MAX ? SHRINK_MAX : len;

		if (bpf_skb_adjust_room(skb, -(__s32)now, BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO))
			return -1;
		len -= now;
	}
	return 0;
}

/* IP without options and extension headers, as members send it. */
static __always_inline bool is_plain(const struct packet *outer)
{
	__u32 fixed = outer->family == 4 ? sizeof(struct ipv4_header) : sizeof(struct ipv6_header);

	return outer->l4 == ETH_LEN + fixed;
}

/* `what`: the kind of the message, and the number of the question. A frame of its own on the small stack. */
static __noinline int answer(struct __sk_buff *skb, const struct packet *outer, const struct packet *inner,
			     const struct place *at, __u32 what)
{
	__u32 rest = skb->len - outer->l4;

	if (!is_plain(outer) || skb->len < outer->l4)
		return drop(V_DROP_ROOM);
	if (rest > ANSWER_REST_MAX && take_away(skb, rest))
		return drop(V_DROP_ROOM);
	if (bpf_skb_adjust_room(skb, sizeof(struct udp_header) + MESSAGE_LEN, BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO))
		return drop(V_DROP_ROOM);
	if (outer->family == 4 ? answer_v4(skb, outer, inner, at, what) : answer_v6(skb, outer, inner, at, what))
		return drop(V_DROP_ROOM);
	if (swap_macs(skb))
		return drop(V_DROP_ROOM);
	skb->mark = 0;
	return bpf_redirect(skb->ifindex, 0);
}

/* RFC 8200 section 8.1: UDP over IPv6 has a checksum; of a message between these addresses, in whichever direction. */
static __always_inline __u16 udp_check(const struct packet *p, struct udp_header *udp, union message_words *w)
{
	__u32 sum = bpf_csum_diff(NULL, 0, (__be32 *)&p->flow, 2 * sizeof(struct address), bpf_htons(PROTO_UDP));

	sum = bpf_csum_diff(NULL, 0, (__be32 *)udp, sizeof(*udp), sum);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)w, MESSAGE_LEN, sum);
	return ~folded16(folded16(sum) + udp->len) ?: 0xffff;
}

static __always_inline int swap_addresses(struct __sk_buff *skb, const struct packet *p)
{
	struct address v6[2] = { p->flow.vip, p->flow.client };
	__be32 v4[2] = { v4_of(&p->flow.vip), v4_of(&p->flow.client) };

	return p->family == 4 ? bpf_skb_store_bytes(skb, ETH_LEN + 12, v4, sizeof(v4), 0)
			      : bpf_skb_store_bytes(skb, ETH_LEN + 8, v6, sizeof(v6), 0);
}

/* A HELLO, `w`, becomes HEARD, and goes back to whoever has sent it, from the port that it came to. */
static __always_inline int greet(struct __sk_buff *skb, const struct packet *p, union message_words *w,
				 const struct place *at)
{
	struct udp_header udp;

	if (!is_plain(p))
		return drop(V_DROP_ROOM);
	sign(w, MESSAGE_HEARD, at->group, at->settings);
	udp_to(&udp, p->flow.vip_port, p->flow.client_port);
	if (p->family == 6)
		udp.check = udp_check(p, &udp, w);
	if (bpf_skb_store_bytes(skb, p->l4, &udp, sizeof(udp), 0) ||
	    bpf_skb_store_bytes(skb, p->l4 + sizeof(udp), w, MESSAGE_LEN, 0) || swap_addresses(skb, p) || swap_macs(skb))
		return drop(V_DROP_ROOM);
	return bpf_redirect(skb->ifindex, 0);
}
