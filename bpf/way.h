/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 * Tunnel packets on a raw frame that leaves by the interface it came from. Whatever is in doubt is left to the program at tc,
 * and then the frame is as it came. */
#pragma once

#define NEIGHBOUR_NS 1000000000ULL

/* Programs: when a packet to this peer was left to tc last, by family. Not pinned: a new program may begin anew. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PEERS_MAX * 2);
	__type(key, __u32);
	__type(value, __u64);
} left_to_tc SEC(".maps");

/* The kernel asks whether a neighbour is still there only where it sends to it by itself. So one packet a second goes that way. */
static __always_inline bool is_turn_of_tc(__u32 peer, __u8 family)
{
	__u32 key = peer << 1 | (family == 6);
	__u64 *last = bpf_map_lookup_elem(&left_to_tc, &key), now = bpf_ktime_get_coarse_ns();

	if (!last || now - *last >= NEIGHBOUR_NS) {
		if (last)
			*last = now;
		return true;
	}
	return false;
}

static __always_inline __u16 folded_sum(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline __u64 words_of(__u64 x)
{
	return (x & 0xffffffff) + (x >> 32);
}

/* A checksum that a device was to complete is the sum of the pseudo header so far (veth: what a host sends to its own guests). The
 * stack completes it on the way out, nobody does for us. One packet in 65,536 only looks like it. */
static __always_inline bool is_unsummed(const struct packet *p, void *data, void *end)
{
	struct ipv4_header *ip4 = data + ETH_LEN;
	struct ipv6_header *ip6 = data + ETH_LEN;
	struct tcp_header *tcp = p->family == 4 ? (void *)(ip4 + 1) : (void *)(ip6 + 1);
	__u64 sum = bpf_htons(PROTO_TCP);

	if ((void *)(tcp + 1) > end)
		return true;
	if (p->family == 4)
		sum += (__u64)ip4->source + ip4->destination + bpf_htons(bpf_ntohs(ip4->total_len) - sizeof(*ip4));
	else
		sum += words_of(p->flow.client.high) + words_of(p->flow.client.low) + words_of(p->flow.vip.high) +
		       words_of(p->flow.vip.low) + ip6->payload_len;
	return folded_sum(sum) == tcp->check;
}

/* As the kernel routes what it sends itself, which is what this asks for by the loopback interface. `len`: of the whole IP packet. */
static __always_inline bool find_way(struct xdp_md *ctx, const struct packet *p, const struct peer *to, __u32 len,
				     struct bpf_fib_lookup *way)
{
	bool near = p->family == 4 ? to->next_hop4 : to->next_hop6.high;
	struct address found;

	__builtin_memset(way, 0, sizeof(*way));
	way->ifindex = LOOPBACK_IFINDEX;
	way->tot_len = len;
	if (p->family == 4) {
		way->family = AF_INET_;
		way->l4_protocol = PROTO_IPIP;
		way->tos = p->tos;
		way->ipv4_src = to->local4;
		way->ipv4_dst = near ? to->next_hop4 : to->remote4;
	} else {
		way->family = AF_INET6_;
		way->l4_protocol = PROTO_IP6IP6;
		way->flowinfo = bpf_htonl((__u32)p->tos << 20);
		__builtin_memcpy(way->ipv6_src, &to->local6, 16);
		__builtin_memcpy(way->ipv6_dst, near ? &to->next_hop6 : &to->remote6, 16);
	}
	if (bpf_fib_lookup(ctx, way, sizeof(*way), 0) != BPF_FIB_LKUP_RET_SUCCESS || way->ifindex != ctx->ingress_ifindex)
		return false;
	/* What is on the link is not to be reached by a router. */
	if (p->family == 4)
		return way->family == AF_INET_ && (!near || way->ipv4_dst == to->next_hop4);
	__builtin_memcpy(&found, way->ipv6_dst, 16);
	return !near || (found.high == to->next_hop6.high && found.low == to->next_hop6.low);
}

static __always_inline bool put_outside(struct xdp_md *ctx, const struct packet *p, const struct peer *to, __u32 inner,
					__u16 word, const struct bpf_fib_lookup *way)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__be16 *kind = data + 12;

	if (data + ETH_LEN + sizeof(struct ipv6_header) > end)
		return false;
	__builtin_memcpy(data, way->dmac, 6);
	__builtin_memcpy(data + 6, way->smac, 6);
	if (p->family == 4) {
		*kind = bpf_htons(ETH_P_IPV4);
		outer_v4(data + ETH_LEN, to, p->tos, inner + sizeof(struct ipv4_header), word);
	} else {
		*kind = bpf_htons(ETH_P_IPV6_);
		outer_v6(data + ETH_LEN, to, p->tos, inner, word);
	}
	return true;
}

/* XDP_PASS: as it came. */
static __noinline int tunnel(struct xdp_md *ctx, const struct packet *p, __u16 peer, __u16 word)
{
	__u32 key = peer, len = bpf_xdp_get_buff_len(ctx), inner = len - ETH_LEN;
	__u32 outer = p->family == 4 ? sizeof(struct ipv4_header) : sizeof(struct ipv6_header);
	struct peer *to = bpf_map_lookup_elem(&peers, &key);
	struct bpf_fib_lookup way;

	if (!to || ctx->ingress_ifindex != (p->family == 4 ? to->ifindex4 : to->ifindex6))
		return XDP_PASS;
	if (inner + outer > 65535 || is_unsummed(p, (void *)(long)ctx->data, (void *)(long)ctx->data_end))
		return XDP_PASS;
	if (is_turn_of_tc(key, p->family) || !find_way(ctx, p, to, inner + outer, &way))
		return XDP_PASS;
	if (bpf_xdp_adjust_head(ctx, -(int)outer))
		return XDP_PASS;
	/* There is room for it: the frame was parsed, and has grown. */
	if (!put_outside(ctx, p, to, inner, word, &way))
		return XDP_ABORTED;
	count_tunnelled(key, len, word);
	return XDP_TX;
}
