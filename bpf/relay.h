/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 * Answers through the primary: docs/dev/steering.md, section 11. At egress of a member they go into the tunnel to the primary, which sends
 * them on by its own routes. */
#pragma once

/* What leaves with this mark is another member's, and is not looked at again: two that take each other for the primary would play
 * ping-pong with it. */
#define RELAYED_MARK ((__u32)COPY_MAGIC << 24 | (__u32)COPY_RELAYED << 22)

/* Router and neighbour solicitations and advertisements, redirects: they are of the link. */
#define ND_FIRST 133
#define ND_LAST 137

struct ends {
	struct address source, destination;
};

/* Of the IP header at `l3`. */
static __always_inline bool load_ends(struct __sk_buff *skb, __u32 l3, bool v6, struct ends *e)
{
	__be32 v4[2];

	if (v6)
		return !bpf_skb_load_bytes(skb, l3 + offsetof(struct ipv6_header, source), e, sizeof(*e));
	if (bpf_skb_load_bytes(skb, l3 + offsetof(struct ipv4_header, source), v4, sizeof(v4)))
		return false;
	map_v4(&e->source, v4[0]);
	map_v4(&e->destination, v4[1]);
	return true;
}

/* The VIP that this comes from. */
static __always_inline bool find_vip(const struct address *source, struct place *at)
{
	struct service_key key = { .vip = *source };

	return find_rest(bpf_map_lookup_elem(&services, &key), at);
}

static __always_inline bool is_of_the_link(struct __sk_buff *skb, const struct packet *p)
{
	__u8 type;

	if (p->family != 6 || p->protocol != PROTO_ICMP6 || bpf_skb_load_bytes(skb, p->l4, &type, sizeof(type)))
		return false;
	return type >= ND_FIRST && type <= ND_LAST;
}

/* It goes to the client as any packet of ours: by the route, and where that cannot be asked for, by the interface that it came by. */
static __always_inline int send_on(struct __sk_buff *skb, const struct ends *e)
{
	struct bpf_fib_lookup way = { .ifindex = LOOPBACK_IFINDEX, .family = AF_INET_ };
	struct bpf_redir_neigh nh = {};
	long found;

	if (is_v4(&e->destination)) {
		way.ipv4_src = v4_of(&e->source);
		way.ipv4_dst = v4_of(&e->destination);
	} else {
		way.family = AF_INET6_;
		__builtin_memcpy(way.ipv6_src, &e->source, 16);
		__builtin_memcpy(way.ipv6_dst, &e->destination, 16);
	}
	found = bpf_fib_lookup(skb, &way, sizeof(way), BPF_FIB_LOOKUP_SKIP_NEIGH);
	skb->mark = RELAYED_MARK;
	/* What is too big for the link is the kernel's to say. */
	if (found == BPF_FIB_LKUP_RET_FWD_DISABLED || found == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return bpf_redirect_neigh(skb->ifindex, NULL, 0, 0);
	if (found != BPF_FIB_LKUP_RET_SUCCESS)
		return drop(V_DROP_ROUTE);
	nh.nh_family = way.family;
	__builtin_memcpy(nh.ipv6_nh, way.ipv6_dst, 16);
	return bpf_redirect_neigh(way.ifindex, &nh, sizeof(nh), 0);
}

/* Section 2, ANSWER. Whoever gets one sends it on, whatever he knows of who is to: members hear of a change one after another. What the
 * packet inside carries is not asked; `family`: 0 where it is no IP packet. */
static __noinline int relayed(struct __sk_buff *skb, const struct packet *outer, __u8 family)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u16 word = word_at(outer, data, end);
	struct ends e;
	struct place at;
	struct member *from;
	int action;

	if (!family || outer->l4 > 100 || !load_ends(skb, outer->l4, family == 6, &e) || !find_vip(&e.source, &at))
		return TC_ACT_UNSPEC;
	if (!find_sender(outer, &at, &from))
		return TC_ACT_UNSPEC;
	if (!from)
		return drop(V_DROP_STRANGER);
	if (word >> 14 != KIND_ANSWER)
		return drop(V_DROP_KIND);
	if (decap(skb, outer))
		return drop(V_DROP_ROOM);
	action = send_on(skb, &e);
	return action == TC_ACT_SHOT ? action : counted(action, V_RELAY_ANSWER);
}

/* What leaves: the answers of VIPs of which another member is the primary. */
static __always_inline int leave(struct __sk_buff *skb)
{
	bool v6 = skb->protocol == bpf_htons(ETH_P_IPV6_);
	struct ends e;
	struct packet p;
	struct place at;
	__u32 relay;

	if (skb->mark == RELAYED_MARK) {
		skb->mark = 0;
		return TC_ACT_UNSPEC;
	}
	if (!v6 && skb->protocol != bpf_htons(ETH_P_IPV4))
		return TC_ACT_UNSPEC;
	if (!load_ends(skb, ETH_LEN, v6, &e) || !find_vip(&e.source, &at))
		return TC_ACT_UNSPEC;
	relay = at.group->relay;
	if (!relay || !is_live(at.group, relay - 1))
		return TC_ACT_UNSPEC;
	parse(skb, &p, ETH_LEN, v6);
	if (!p.family || is_of_the_link(skb, &p))
		return TC_ACT_UNSPEC;
	/* Or the compiler remembers the bounds, and the verifier does not. */
	barrier_var(relay);
	return counted(tunnel(skb, &p, at.group->peers[(relay - 1) & 63], word_of(KIND_ANSWER, 0), TELL_HERE), V_TUNNEL_ANSWER);
}
