/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 * Tunnel packets on a socket buffer: docs/dev/steering.md, section 3. */
#pragma once

#include "outer.h"

/* Only what is to be segmented on its way out needs to be marked as encapsulated. */
static __always_inline __u64 room_flags(const struct __sk_buff *skb, __u64 encapsulated)
{
	return skb->gso_segs > 1 ? encapsulated : 0;
}

static __always_inline int encap(struct __sk_buff *skb, const struct packet *p, const struct peer *to, __u16 word)
{
	__u32 inner = skb->len - ETH_LEN;

	if (p->family == 4) {
		struct ipv4_header ip;

		outer_v4(&ip, to, p->tos, capped(inner + sizeof(ip)), word);
		return bpf_skb_adjust_room(skb, sizeof(ip), BPF_ADJ_ROOM_MAC, room_flags(skb, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4)) ?:
		       bpf_skb_store_bytes(skb, ETH_LEN, &ip, sizeof(ip), 0);
	}
	struct ipv6_header ip;

	outer_v6(&ip, to, p->tos, capped(inner), word);
	return bpf_skb_adjust_room(skb, sizeof(ip), BPF_ADJ_ROOM_MAC, room_flags(skb, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6)) ?:
	       bpf_skb_store_bytes(skb, ETH_LEN, &ip, sizeof(ip), 0);
}

static __always_inline int send_to(const struct peer *to, __u8 family)
{
	struct bpf_redir_neigh nh = {};

	if (family == 4) {
		nh.nh_family = AF_INET_;
		nh.ipv4_nh = to->next_hop4;
		return nh.ipv4_nh ? bpf_redirect_neigh(to->ifindex4, &nh, sizeof(nh), 0)
				  : bpf_redirect_neigh(to->ifindex4, NULL, 0, 0);
	}
	nh.nh_family = AF_INET6_;
	__builtin_memcpy(nh.ipv6_nh, &to->next_hop6, 16);
	return to->next_hop6.high ? bpf_redirect_neigh(to->ifindex6, &nh, sizeof(nh), 0)
				  : bpf_redirect_neigh(to->ifindex6, NULL, 0, 0);
}

static __always_inline int drop(enum verdict why)
{
	count(why);
	return TC_ACT_SHOT;
}

/* Counted once: as this, or as what was in the way. */
static __always_inline int counted(int action, enum verdict v)
{
	if (action != TC_ACT_SHOT)
		count(v);
	return action;
}

/* `whom`: who hears of it when the packet is too big. */
static __noinline int tunnel(struct __sk_buff *skb, const struct packet *p, __u16 peer, __u16 word, enum tell whom)
{
	__u32 key = peer, len = skb->len;
	struct peer *to = bpf_map_lookup_elem(&peers, &key);

	if (!to || !(p->family == 4 ? to->ifindex4 : to->ifindex6))
		return drop(V_DROP_FAMILY);
	if (is_too_big(skb, p, to)) {
		if (whom)
			tell_too_big(skb, p, to, whom);
		return drop(V_DROP_MTU);
	}
	if (encap(skb, p, to, word))
		return drop(V_DROP_ROOM);
	count_tunnelled(key, len, word);
	skb->mark = 0;
	return send_to(to, p->family);
}

/* Takes the outer header off. Congestion that it met is told on: RFC 6040 section 4.2; the helper leaves alone what is not
 * capable of ECN. */
static __always_inline int decap(struct __sk_buff *skb, const struct packet *outer)
{
	if (bpf_skb_adjust_room(skb, -(__s32)(outer->l4 - outer->l3), BPF_ADJ_ROOM_MAC, 0))
		return -1;
	if ((outer->tos & ECN_CE) == ECN_CE)
		bpf_skb_ecn_set_ce(skb);
	return 0;
}

static __always_inline __u16 word_at(const struct packet *outer, void *data, void *end)
{
	if (outer->family == 4) {
		struct ipv4_header *ip = data + ETH_LEN;
		return (void *)(ip + 1) > end ? 0 : bpf_ntohs(ip->id);
	}
	struct ipv6_header *ip = data + ETH_LEN;
	return (void *)(ip + 1) > end ? 0 : bpf_ntohl(ip->version_class_label) >> 4 & 0xffff;
}

static __always_inline int swap_v4(struct __sk_buff *skb, __u16 value)
{
	struct ipv4_header ip;
	__be32 source;
	__be16 id, old;

	if (bpf_skb_load_bytes(skb, ETH_LEN, &ip, sizeof(ip)))
		return -1;
	source = ip.source;
	ip.source = ip.destination;
	ip.destination = source;
	old = ip.id;
	id = bpf_htons(word_of(KIND_RETURN, value));
	ip.id = id;
	return bpf_skb_store_bytes(skb, ETH_LEN, &ip, sizeof(ip), 0) ?:
	       bpf_l3_csum_replace(skb, ETH_LEN + 10, old, id, 2);
}

static __always_inline int swap_v6(struct __sk_buff *skb, __u16 value)
{
	struct ipv6_header ip;
	struct address source;

	if (bpf_skb_load_bytes(skb, ETH_LEN, &ip, sizeof(ip)))
		return -1;
	source = ip.source;
	ip.source = ip.destination;
	ip.destination = source;
	ip.version_class_label &= bpf_htonl(0xfff0000f);
	ip.version_class_label |= bpf_htonl((__u32)word_of(KIND_RETURN, value) << 4);
	return bpf_skb_store_bytes(skb, ETH_LEN, &ip, sizeof(ip), 0);
}

/* Back where it came from, whole. */
static __always_inline int give_back(struct __sk_buff *skb, const struct packet *outer, __u16 value)
{
	if ((outer->family == 4 ? swap_v4(skb, value) : swap_v6(skb, value)) || swap_macs(skb))
		return drop(V_DROP_ROOM);
	count(V_RETURN);
	return bpf_redirect(skb->ifindex, 0);
}
